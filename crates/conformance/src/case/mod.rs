//! The cases, one file per noun.

mod checkpoint;
mod destroy;
mod egress;
mod egress_elsewhere;
mod egress_save;
mod environment;
mod exec;
mod expose;
mod file;
mod folder;
mod fork;
mod image;
mod jail;
mod limits;
mod load;
mod memory;
mod network;
mod pause;
mod port;
mod process;
mod provider;
mod pty;
mod reattach;
mod refusal;
mod restore;
mod signal;
mod stats;
mod status;
mod stdin;
mod stop_start;
mod stream;
mod timeout;
mod tree;
mod user;
mod volume;
mod watch;

use std::sync::LazyLock;

use crate::{Case, hard_tree};

/// Every case of the suite; those that must run alone come last, so that they wait for nobody.
pub fn all() -> &'static [Case] {
    static ALL: LazyLock<Vec<Case>> = LazyLock::new(|| {
        let tables = [
            provider::CASES,
            refusal::CASES,
            exec::CASES,
            stream::CASES,
            stdin::CASES,
            environment::CASES,
            user::CASES,
            pty::CASES,
            signal::CASES,
            timeout::CASES,
            process::CASES,
            reattach::CASES,
            file::CASES,
            folder::CASES,
            tree::CASES,
            jail::CASES,
            watch::CASES,
            port::CASES,
            expose::CASES,
            pause::CASES,
            stop_start::CASES,
            checkpoint::CASES,
            restore::CASES,
            fork::CASES,
            hard_tree::CASES,
            memory::CASES,
            image::CASES,
            volume::CASES,
            network::CASES,
            egress::CASES,
            egress_elsewhere::CASES,
            egress_save::CASES,
            limits::CASES,
            stats::CASES,
            status::CASES,
            destroy::CASES,
            load::CASES,
        ];
        let mut all: Vec<Case> = tables.into_iter().flatten().copied().collect();
        all.sort_by_key(|case| case.alone);
        all
    });
    &ALL
}
