//! What was found: one case, one sentence, one hint.

use std::fmt;

use sandbar_core::Probe;

#[cfg(target_arch = "x86_64")]
use super::guest::Stage;
use super::hypervisor::Hypervisor;

/// Why there is no KVM behind the device, or no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// This machine is a guest whose hypervisor does not let it have guests.
    NotNested(Hypervisor),
    /// The processor could; the kernel's module is not loaded.
    NotLoaded {
        /// Its name.
        module: &'static str,
    },
    /// The processor has no virtualization extensions, or the firmware turned them off.
    NoExtensions,
}

/// What was found where KVM should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// There is no device node.
    NoNode(Absence),
    /// The device's mode does not let this user open it.
    NoPermission {
        /// The group that may, by name or number; `None` when no group may.
        group: Option<String>,
        /// Whether the user is in that group by now, but this process was started before.
        joined: bool,
    },
    /// The device's mode lets this user open it, but something else refuses: a container's device rules or a security module.
    Forbidden,
    /// The node has no driver behind it: made by hand, or there is nothing to drive.
    DeadNode(Absence),
    /// What stands there is not KVM.
    NotKvm,
    /// Another hypervisor on this machine has the extensions.
    Busy,
    /// A request failed.
    Failing {
        /// With this error.
        error: String,
    },
    /// It lacks what every VMM asks of it.
    Lacks {
        /// The missing capabilities.
        capabilities: Vec<&'static str>,
    },
    /// It opens and answers, and cannot run a guest that knows nothing of it.
    #[cfg(target_arch = "x86_64")]
    CannotRun {
        /// What still worked.
        stage: Stage,
        /// What was seen instead of the next.
        why: String,
        /// Whether it is a paravirtual KVM, which wants kernels made for it.
        paravirtual: bool,
    },
    /// It runs guests, and no time passes in them.
    #[cfg(target_arch = "x86_64")]
    Timeless,
    /// Its first guest does not come to an end.
    #[cfg(target_arch = "x86_64")]
    Hangs {
        /// What worked so far.
        stage: Stage,
        /// Whether the guest could be stopped; otherwise its thread is stuck in the kernel.
        stopped: bool,
    },
    /// There is no trial guest for this kind of processor, so nothing is known beyond that requests are answered.
    Untried,
    /// A guest ran and did what a stock kernel does first.
    Usable,
}

impl Finding {
    /// Whether guests run.
    pub fn is_usable(&self) -> bool {
        *self == Self::Usable
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoNode(absence) | Self::DeadNode(absence) => absence.hint(),
            Self::NoPermission { group: Some(group), joined: true } => format!("log in again, or run this under `sg {group}`"),
            Self::NoPermission { group: Some(group), joined: false } => {
                format!("join the group (`sudo usermod -aG {group} \"$USER\"`) and log in again")
            }
            Self::NoPermission { group: None, .. } => {
                "let a group have it (`sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm`) and join that group".to_owned()
            }
            Self::Forbidden => "give the container the device (`--device /dev/kvm`), or run outside of it".to_owned(),
            Self::NotKvm => "remove /dev/kvm and load the kernel's module (`sudo modprobe kvm_intel` or `kvm_amd`)".to_owned(),
            Self::Busy => "stop the other hypervisor's machines (VirtualBox, VMware) and try again".to_owned(),
            Self::Failing { .. } => "the kernel's log may say more (`sudo dmesg | grep -i kvm`)".to_owned(),
            Self::Lacks { .. } => "use a kernel that has them: every distribution's since Linux 4.14 does".to_owned(),
            #[cfg(target_arch = "x86_64")]
            Self::CannotRun { .. } | Self::Hangs { .. } => {
                "use a machine with virtualization extensions of its own, or a virtual machine with nesting in hardware".to_owned()
            }
            #[cfg(target_arch = "x86_64")]
            Self::Timeless => {
                "load KVM's modules anew (`sudo modprobe -r kvm_amd kvm && sudo modprobe kvm_amd`, or `kvm_intel`)".to_owned()
            }
            Self::Untried => "use an x86-64 machine".to_owned(),
            Self::Usable => return None,
        };
        Some(hint)
    }

    /// As a provider's answer to whether it works here.
    pub fn to_probe(&self) -> Probe {
        Probe { usable: self.is_usable(), verdict: self.to_string(), hint: self.hint() }
    }
}

/// The verdict: one sentence.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNode(absence) => write!(f, "there is no /dev/kvm: {absence}"),
            Self::DeadNode(absence) => write!(f, "/dev/kvm is a node without a driver behind it: {absence}"),
            Self::NoPermission { group: Some(group), joined: true } => {
                write!(f, "/dev/kvm belongs to the group {group}, which you joined after this session began")
            }
            Self::NoPermission { group: Some(group), joined: false } => {
                write!(f, "/dev/kvm belongs to the group {group}, and you are not in it")
            }
            Self::NoPermission { group: None, .. } => f.write_str("/dev/kvm is for root alone"),
            Self::Forbidden => f.write_str(
                "/dev/kvm may not be opened, though its mode allows it: a container's device rules or a security module refuse it",
            ),
            Self::NotKvm => f.write_str("/dev/kvm is something else than KVM"),
            Self::Busy => f.write_str("another hypervisor on this machine holds the virtualization extensions"),
            Self::Failing { error } => write!(f, "/dev/kvm does not make a machine: {error}"),
            Self::Lacks { capabilities } => write!(f, "this kernel's KVM lacks {}", capabilities.join(", ")),
            #[cfg(target_arch = "x86_64")]
            Self::CannotRun { stage, why, paravirtual } => {
                let kind = if *paravirtual { " (it is a paravirtual KVM, for kernels made for it)" } else { "" };
                write!(f, "/dev/kvm opens and answers but cannot run a stock guest{kind}: {} failed with {why}", stage.next())
            }
            #[cfg(target_arch = "x86_64")]
            Self::Hangs { stage, stopped } => {
                let stuck = if *stopped { "" } else { " and cannot be stopped" };
                write!(f, "/dev/kvm opens and answers but its first guest hangs{stuck}: {} did not come to an end", stage.next())
            }
            #[cfg(target_arch = "x86_64")]
            Self::Timeless => f.write_str(
                "/dev/kvm runs guests whose timers never fire: KVM was loaded before the kernel had measured the processor's rate",
            ),
            Self::Untried => f.write_str("/dev/kvm opens and answers, and no trial guest exists for this kind of processor"),
            Self::Usable => f.write_str("/dev/kvm runs guests"),
        }
    }
}

impl Absence {
    fn hint(self) -> String {
        match self {
            Self::NotNested(hypervisor) => hypervisor.how_to_nest().to_owned(),
            Self::NotLoaded { module } => format!("load the module (`sudo modprobe {module}`)"),
            Self::NoExtensions => "turn on Intel VT-x or AMD-V (SVM) in the firmware's settings".to_owned(),
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNested(hypervisor) => write!(f, "this is {} without nested virtualization", hypervisor.name()),
            Self::NotLoaded { module } => write!(f, "the kernel's module {module} is not loaded"),
            Self::NoExtensions => f.write_str("this processor has no virtualization extensions, or they are turned off"),
        }
    }
}
