use std::fs;

use super::canary::{Canary, attack_kernel, prey};
use crate::{Context, Failure, Reach::SharedKernel, failure::ensure, suite::cases};

cases! { "namespaces";
    none_is_made_or_entered,
    each_is_the_sandboxs_own [.reach(&[SharedKernel])],
}

async fn none_is_made_or_entered(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    attack_kernel(context, &sandbox, &["namespaces"], &[""]).await?;
    canary.is_untouched()
}

async fn each_is_the_sandboxs_own(context: &Context) -> Result<(), Failure> {
    let (one, two) = (prey(context).await?, prey(context).await?);
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let host = fs::read_link(format!("/proc/self/ns/{kind}"))?.display().to_string();
        let inside =
            [one.text(&format!("readlink /proc/self/ns/{kind}")).await?, two.text(&format!("readlink /proc/self/ns/{kind}")).await?];
        ensure!(!inside.contains(&host), "the {kind} namespace is the host's");
        ensure!(inside[0] != inside[1], "two sandboxes share a {kind} namespace");
    }
    Ok(())
}
