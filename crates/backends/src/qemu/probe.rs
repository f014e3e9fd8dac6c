use std::{path::Path, process::Command, time::Duration};

use sandbar_core::{Error, ErrorKind, Probe, Result};
use sandbar_guest::KernelStore;
use serde_json::Value;

use super::{Accelerator, accelerator::Choice, command::SANDBOX, info};
use crate::{
    host::asked::{ask, first_line},
    vmm,
};

/// The oldest QEMU whose machines can be saved and loaded as this backend does.
const OLDEST: (u64, u64) = (6, 0);
/// A machine that is put together and does not run takes a fifth of a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a machine is told that need do nothing.
const WORDS: &str = "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n";

/// Says whether machines can be made here, and how fast they are: one is put together, and disks are made. What boots is tried by a sandbox alone, since it takes seconds.
pub(super) fn probe(home: &Path, choice: &Choice) -> Probe {
    match look(home, choice) {
        Ok(verdict) => Probe { usable: true, verdict, hint: None },
        Err(error) => Probe { usable: false, verdict: error.chain(), hint: error.hint().map(str::to_owned) },
    }
}

fn look(home: &Path, choice: &Choice) -> Result<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Error::new(ErrorKind::Unsupported, "probe", "virtual machines are made on x86-64 hosts only in this build"));
    }
    vmm::require_programs(info::NAME, &[info::PROGRAM])?;
    let program = info::program().ok_or_else(info::missing)?;
    let (accelerator, why) = choice.try_anew();
    let version = put_together(&program, accelerator, PATIENCE)?;
    if version < OLDEST {
        return Err(Error::new(ErrorKind::Unavailable, "probe", format!("QEMU {}.{} is too old: 6.0 is needed", version.0, version.1)));
    }
    vmm::try_disks(home)?;
    let kernel = KernelStore::new(home).newest()?;
    let speed = match accelerator {
        Accelerator::Kvm => "with KVM".to_owned(),
        Accelerator::Tcg => format!("emulated, slow at the first boot ({why})"),
    };
    Ok(format!("QEMU {}.{}, {speed}; kernel {}", version.0, version.1, kernel.summary.release))
}

/// Makes a machine that does not run, and has it end; gives QEMU's version.
fn put_together(program: &Path, accelerator: Accelerator, patience: Duration) -> Result<(u64, u64)> {
    let mut command = Command::new(program);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-S", "-m", "16M", "-M", "q35", "-accel", accelerator.name()]);
    command.args(SANDBOX).args(["-qmp", "stdio"]).env_clear();
    let said = ask(info::PROGRAM, command, WORDS, patience)?;
    let greeting = said.text.lines().find_map(|line| serde_json::from_str::<Value>(line).ok()?.pointer("/QMP/version/qemu").cloned());
    let number = |name: &str| greeting.as_ref().and_then(|version| version.get(name)?.as_u64());
    match (number("major"), number("minor")) {
        (Some(major), Some(minor)) if said.status.success() => Ok((major, minor)),
        _ => Err(Error::new(ErrorKind::Unavailable, "probe", "qemu-system-x86_64 does not make a machine")
            .with("path", program.display())
            .with_source(std::io::Error::other(first_line(&said.text)))),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::machine::agent::until_nobody_writes;

    #[test]
    fn a_program_that_is_none_and_one_that_hangs_are_told() {
        let folder = tempfile::tempdir().unwrap();
        // What ends may take its time on a busy machine.
        let (long, short) = (Duration::from_secs(30), Duration::from_secs(1));
        for (line, patience, told) in [
            ("echo no such machine; exit 1", long, "no such machine"),
            ("echo QEMU emulator version 9.0.0", long, "does not make a machine"),
            ("exec sleep 1000", short, "does not answer"),
        ] {
            let program = folder.path().join("qemu-system-x86_64");
            fs::write(&program, format!("#!/bin/sh\n{line}\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            until_nobody_writes(&program).unwrap();
            let error = put_together(&program, Accelerator::Tcg, patience).unwrap_err();
            assert!(error.chain().contains(told), "{line}: {}", error.chain());
            fs::remove_file(&program).unwrap();
        }
    }
}
