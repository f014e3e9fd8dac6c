//! The places where the machine says what it is.

use std::{
    ffi::CString,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use kvm_ioctls::{Cap, Kvm};
use rustix::io::Errno;

use super::{
    finding::{Absence, Finding},
    hypervisor::Hypervisor,
};

/// The version that the interface has had since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// What Firecracker and QEMU's microVMs ask of KVM before they start.
#[cfg(target_arch = "x86_64")]
const CAPABILITIES: [(Cap, &str); 9] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
];
#[cfg(not(target_arch = "x86_64"))]
const CAPABILITIES: [(Cap, &str); 3] =
    [(Cap::UserMemory, "KVM_CAP_USER_MEMORY"), (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"), (Cap::Irqfd, "KVM_CAP_IRQFD")];

/// A machine, seen through its files.
pub(super) struct Host {
    /// `/`; a test may show a folder in its place.
    pub(super) root: PathBuf,
    /// What a hypervisor says of itself at `cpuid` leaf 0x4000_0000.
    pub(super) signature: Option<[u8; 12]>,
}

impl Host {
    /// This one.
    pub(super) fn here() -> Self {
        Self { root: PathBuf::from("/"), signature: signature() }
    }

    pub(super) fn probe(&self, patience: Duration) -> Finding {
        let kvm = match self.open() {
            Ok(kvm) => kvm,
            Err(finding) => return finding,
        };
        if kvm.get_api_version() != API_VERSION {
            return Finding::NotKvm;
        }
        let missing = CAPABILITIES.iter().filter(|(capability, _)| !kvm.check_extension(*capability));
        let capabilities: Vec<&str> = missing.map(|(_, name)| *name).collect();
        if !capabilities.is_empty() {
            return Finding::Lacks { capabilities };
        }
        self.run_guest(kvm, patience)
    }

    #[cfg(target_arch = "x86_64")]
    fn run_guest(&self, kvm: Kvm, patience: Duration) -> Finding {
        use super::{guest, trial, trial::Ended};

        match trial::run(kvm, guest::program(), patience) {
            Ok(Ended::Well) => Finding::Usable,
            Ok(Ended::Timeless) => Finding::Timeless,
            Ok(Ended::Early { stage, why }) => Finding::CannotRun { stage, why, paravirtual: self.has("sys/module/kvm_pvm") },
            Ok(Ended::Late { stage, stopped }) => Finding::Hangs { stage, stopped },
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => Finding::Busy,
            Err(error) => Finding::Failing { error: error.to_string() },
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn run_guest(&self, kvm: Kvm, _: Duration) -> Finding {
        match kvm.create_vm() {
            Ok(_) => Finding::Untried,
            Err(error) if error.errno() == Errno::BUSY.raw_os_error() => Finding::Busy,
            Err(error) => Finding::Failing { error: std::io::Error::from(error).to_string() },
        }
    }

    fn open(&self) -> Result<Kvm, Finding> {
        let device = self.root.join("dev/kvm");
        let failing = |error: std::io::Error| Finding::Failing { error: error.to_string() };
        let path = CString::new(device.as_os_str().as_bytes()).map_err(|error| failing(error.into()))?;
        Kvm::new_with_path(&path).map_err(|error| match Errno::from_raw_os_error(error.errno()) {
            Errno::NOENT | Errno::NOTDIR => Finding::NoNode(self.absence()),
            // Of a miscellaneous device, and of any other, that no driver has taken.
            Errno::NODEV | Errno::NXIO => Finding::DeadNode(self.absence()),
            Errno::ACCESS => self.no_permission(&device),
            Errno::PERM => Finding::Forbidden,
            Errno::ISDIR => Finding::NotKvm,
            Errno::BUSY => Finding::Busy,
            _ => failing(error.into()),
        })
    }

    /// Why there is no KVM, where there is none.
    fn absence(&self) -> Absence {
        let processor = self.read("proc/cpuinfo");
        let has = |flag: &str| processor.split_ascii_whitespace().any(|word| word == flag);
        match (has("vmx"), has("svm"), Hypervisor::below(&self.root, self.signature)) {
            (true, ..) => Absence::NotLoaded { module: "kvm_intel" },
            (_, true, _) => Absence::NotLoaded { module: "kvm_amd" },
            (_, _, Some(hypervisor)) => Absence::NotNested(hypervisor),
            (_, _, None) => Absence::NoExtensions,
        }
    }

    /// Whose the device is, and whether this user could have it.
    fn no_permission(&self, device: &Path) -> Finding {
        /// The bits of a mode that let a group read and write.
        const GROUP: u32 = 0o060;
        let Ok(metadata) = fs::metadata(device) else { return Finding::Forbidden };
        if metadata.mode() & GROUP != GROUP || metadata.gid() == 0 {
            return Finding::NoPermission { group: None, joined: false };
        }
        let number = metadata.gid();
        let has_now = rustix::process::getegid().as_raw() == number
            || rustix::process::getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == number));
        if has_now {
            return Finding::Forbidden;
        }
        let groups = self.read("etc/group");
        let entry =
            groups.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry.get(2) == Some(&number.to_string().as_str()));
        let Some(entry) = entry else { return Finding::NoPermission { group: Some(number.to_string()), joined: false } };
        let joined = self.user().is_some_and(|user| entry.get(3).is_some_and(|members| members.split(',').any(|member| member == user)));
        Finding::NoPermission { group: entry.first().map(|name| (*name).to_owned()), joined }
    }

    /// The name of the user that this process runs as.
    fn user(&self) -> Option<String> {
        let number = rustix::process::geteuid().as_raw().to_string();
        let users = self.read("etc/passwd");
        let mut entries = users.lines().map(|line| line.split(':'));
        entries.find_map(|mut entry| {
            let name = entry.next()?;
            (entry.nth(1)? == number).then(|| name.to_owned())
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// A file's text; nothing where there is none, which is then simply not known.
    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }
}

/// What a hypervisor says of itself, if there is one.
#[cfg(target_arch = "x86_64")]
fn signature() -> Option<[u8; 12]> {
    use std::arch::x86_64::__cpuid;

    /// Leaf 1, ECX: set by hypervisors, never by processors.
    const IS_GUEST: u32 = 1 << 31;
    if __cpuid(1).ecx & IS_GUEST == 0 {
        return None;
    }
    let leaf = __cpuid(0x4000_0000);
    let mut signature = [0; 12];
    for (bytes, register) in signature.chunks_exact_mut(4).zip([leaf.ebx, leaf.ecx, leaf.edx]) {
        bytes.copy_from_slice(&register.to_le_bytes());
    }
    Some(signature)
}

/// Other processors have no such leaf; the firmware's tables tell.
#[cfg(not(target_arch = "x86_64"))]
fn signature() -> Option<[u8; 12]> {
    None
}
