use std::{
    path::Path,
    process::{Command, Stdio},
};

use sandbar_core::{Error, ErrorKind, Probe, Result};
use sandbar_guest::KernelStore;

use super::{Accelerator, accelerator::Choice, info};
use crate::vmm;

/// The oldest QEMU whose machines can be saved and loaded as this backend does.
const OLDEST: (u32, u32) = (6, 0);

/// Says whether machines can be made here, and how fast they are. Starts QEMU for its version only: a machine takes seconds.
pub(super) fn probe(home: &Path, choice: &Choice) -> Probe {
    match look(home, choice) {
        Ok(verdict) => Probe { usable: true, verdict, hint: None },
        Err(error) => Probe { usable: false, verdict: error.message().to_owned(), hint: error.hint().map(str::to_owned) },
    }
}

fn look(home: &Path, choice: &Choice) -> Result<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Error::new(ErrorKind::Unsupported, "probe", "virtual machines are made on x86-64 hosts only in this build"));
    }
    vmm::require_programs(info::NAME, &[info::PROGRAM])?;
    let program = info::program().ok_or_else(info::missing)?;
    let version =
        version(&program).ok_or_else(|| Error::new(ErrorKind::Unavailable, "probe", "qemu-system-x86_64 does not tell its version"))?;
    if version < OLDEST {
        return Err(Error::new(ErrorKind::Unavailable, "probe", format!("QEMU {}.{} is too old: 6.0 is needed", version.0, version.1)));
    }
    let kernel = KernelStore::new(home).newest()?;
    let speed = match choice.try_anew() {
        (Accelerator::Kvm, _) => "with KVM".to_owned(),
        (Accelerator::Tcg, why) => format!("emulated, slow at the first boot ({why})"),
    };
    Ok(format!("QEMU {}.{}, {speed}; kernel {}", version.0, version.1, kernel.summary.release))
}

/// `QEMU emulator version 7.2.22 (…)`.
fn version(program: &Path) -> Option<(u32, u32)> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).env_clear().output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.split_once("version ")?.1.split(['.', ' ']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
