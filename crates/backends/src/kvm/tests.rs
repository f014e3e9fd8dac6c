use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use tempfile::TempDir;

use super::{Absence, Cloud, Finding, Hypervisor, host::Host, probe};

/// Set inside the project's nested machine, where KVM works (`cargo xtask lab`).
const LAB: &str = "SANDBAR_LAB";
/// Tells a copy of this test program, which runs as a plain user, where its machine is.
const ROOT: &str = "SANDBAR_TEST_KVM_ROOT";
/// A moment: these findings need no guest.
const MOMENT: Duration = Duration::from_secs(1);

/// A folder that stands in for `/`.
struct Stand(TempDir);

impl Stand {
    fn new(files: &[(&str, &str)]) -> Self {
        let stage = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            let path = stage.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        stage
    }

    /// With a character device at `dev/kvm`. `None` for a plain user, who cannot make one.
    fn with_node(self, major: u32, minor: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let path = self.0.path().join("dev/kvm");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(major, minor)).unwrap();
        Some(self)
    }

    fn probe(&self, signature: Option<[u8; 12]>) -> Finding {
        Host { root: self.0.path().to_owned(), signature }.probe(MOMENT)
    }
}

const PLAIN: (&str, &str) = ("proc/cpuinfo", "flags : fpu vme\n");

#[test]
fn kvm_runs_guests_in_the_lab_and_a_paravirtual_one_is_told_apart() {
    let start = Instant::now();
    let finding = probe();
    let paravirtual_kvm = Path::new("/sys/module/kvm_pvm").exists();
    if std::env::var_os(LAB).is_some() {
        assert_eq!(finding, Finding::Usable, "{finding}");
        assert_eq!(finding.hint(), None);
    } else if paravirtual_kvm && fs::File::open("/dev/kvm").is_ok() {
        assert!(matches!(finding, Finding::CannotRun { paravirtual: true, .. }), "{finding:?}");
        assert!(!finding.to_probe().usable && finding.to_probe().hint.is_some());
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn without_a_node_the_reason_is_looked_for() {
    let absence = |files: &[(&str, &str)], signature| match Stand::new(files).probe(signature) {
        Finding::NoNode(absence) => absence,
        other => panic!("{other:?}"),
    };
    assert_eq!(absence(&[("proc/cpuinfo", "flags : fpu vmx\n")], None), Absence::NotLoaded { module: "kvm_intel" });
    assert_eq!(absence(&[("proc/cpuinfo", "flags : svm sse\n")], Some(*b"KVMKVMKVM\0\0\0")), Absence::NotLoaded { module: "kvm_amd" });
    assert_eq!(absence(&[PLAIN], None), Absence::NoExtensions);
    assert_eq!(absence(&[PLAIN], Some(*b"KVMKVMKVM\0\0\0")), Absence::NotNested(Hypervisor::Kvm));
    assert_eq!(absence(&[PLAIN], Some(*b"VMwareVMware")), Absence::NotNested(Hypervisor::Vmware));
    assert_eq!(absence(&[PLAIN], Some(*b"somebodyelse")), Absence::NotNested(Hypervisor::Other));
    let wsl = [PLAIN, ("proc/version", "Linux version 5.15.153.1-microsoft-standard-WSL2")];
    assert_eq!(absence(&wsl, Some(*b"Microsoft Hv")), Absence::NotNested(Hypervisor::HyperV { wsl: true }));
}

#[test]
fn lima_on_a_mac_is_named_with_what_it_needs() {
    let mac = [
        ("sys/class/dmi/id/sys_vendor", "Apple Inc.\n"),
        ("sys/class/dmi/id/product_name", "Apple Virtualization Generic Platform\n"),
        ("run/lima-boot-done", ""),
    ];
    let finding = Stand::new(&mac).probe(None);
    assert_eq!(finding, Finding::NoNode(Absence::NotNested(Hypervisor::Apple { lima: true })));
    assert!(finding.to_string().contains("Lima"), "{finding}");
    let hint = finding.hint().unwrap();
    assert!(hint.contains("nestedVirtualization: true") && hint.contains("M3"), "{hint}");
    // Linux on the Mac's own hardware is no guest.
    let hardware = [("sys/class/dmi/id/sys_vendor", "Apple Inc.\n"), ("sys/class/dmi/id/product_name", "MacBookPro18,1\n")];
    assert_eq!(Stand::new(&hardware).probe(None), Finding::NoNode(Absence::NoExtensions));
}

#[test]
fn clouds_are_named_with_the_instance_types_that_have_guests() {
    const KVM: Option<[u8; 12]> = Some(*b"KVMKVMKVM\0\0\0");
    const HYPER_V: Option<[u8; 12]> = Some(*b"Microsoft Hv");
    let machine = |table: &[(&str, &str)], signature| {
        let paths: Vec<String> = table.iter().map(|(name, _)| format!("sys/class/dmi/id/{name}")).collect();
        let files: Vec<(&str, &str)> = paths.iter().map(String::as_str).zip(table.iter().map(|(_, text)| *text)).chain([PLAIN]).collect();
        Stand::new(&files).probe(signature)
    };
    let nitro = [("sys_vendor", "Amazon EC2\n"), ("product_name", "t3.large\n")];
    let xen = [("sys_vendor", "Xen\n"), ("product_name", "HVM domU\n"), ("bios_version", "4.11.amazon\n")];
    let google = [("sys_vendor", "Google\n"), ("product_name", "Google Compute Engine\n")];
    let azure = [
        ("sys_vendor", "Microsoft Corporation\n"),
        ("product_name", "Virtual Machine\n"),
        ("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77\n"),
    ];
    let hetzner = [("sys_vendor", "Hetzner\n"), ("product_name", "vServer\n")];
    for (table, signature, cloud, types) in [
        (&nitro[..], KVM, Cloud::Amazon, "C8i, M8i or R8i"),
        (&xen[..], Some(*b"XenVMMXenVMM"), Cloud::Amazon, "*.metal"),
        (&google[..], KVM, Cloud::Google, "--enable-nested-virtualization"),
        (&azure[..], HYPER_V, Cloud::Azure, "Dsv3"),
        (&hetzner[..], KVM, Cloud::Hetzner, "dedicated"),
    ] {
        let finding = machine(table, signature);
        assert_eq!(finding, Finding::NoNode(Absence::NotNested(Hypervisor::Cloud(cloud))));
        assert!(finding.hint().is_some_and(|hint| hint.contains(types)), "{finding:?}");
        assert!(finding.to_string().contains("without nested virtualization"), "{finding}");
    }
    // A Hyper-V of one's own is no cloud, and neither is a bare metal instance.
    let own = machine(&azure[..2], HYPER_V);
    assert_eq!(own, Finding::NoNode(Absence::NotNested(Hypervisor::HyperV { wsl: false })));
    let metal = [("sys_vendor", "Amazon EC2\n"), ("product_name", "c7i.metal-24xl\n")];
    let metal = machine(&metal, None);
    assert!(!metal.to_string().contains("EC2 instance"), "{metal}");
}

#[test]
fn a_node_without_a_driver_is_told_from_kvm() {
    // The miscellaneous devices' major number with a minor number that nobody has; and a major number that nobody has.
    for (major, minor) in [(10, 250), (507, 3)] {
        let Some(stage) = Stand::new(&[PLAIN]).with_node(major, minor) else { return };
        let finding = stage.probe(None);
        assert_eq!(finding, Finding::DeadNode(Absence::NoExtensions), "{major}:{minor}");
        assert!(finding.to_string().contains("without a driver"), "{finding}");
    }
}

#[test]
fn what_is_not_kvm_is_told() {
    assert_eq!(Stand::new(&[("dev/kvm", "")]).probe(None), Finding::NotKvm);
    // The numbers of /dev/null.
    if let Some(stage) = Stand::new(&[]).with_node(1, 3) {
        assert_eq!(stage.probe(None), Finding::NotKvm);
    }
}

#[test]
fn a_device_of_a_group_names_the_group_and_how_to_join() {
    const NAME: &str = "kvm::tests::a_device_of_a_group_names_the_group_and_how_to_join";
    if let Some(root) = std::env::var_os(ROOT) {
        let root = Path::new(&root).to_owned();
        let finding = Host { root, signature: None }.probe(MOMENT);
        print!("<{finding}; {}>", finding.hint().unwrap());
        return;
    }
    let groups = ("etc/group", "root:x:0:\nkvm:x:64322:somebody,other\n");
    let users = ("etc/passwd", "root:x:0:0::/:/bin/sh\nsomebody:x:64321:64321::/:/bin/sh\n");
    // The numbers of /dev/null: with the right mode, anybody can open it.
    let Some(stage) = Stand::new(&[groups, users]).with_node(1, 3) else { return };
    let (root, node) = (stage.0.path(), stage.0.path().join("dev/kvm"));
    fs::set_permissions(root, PermissionsExt::from_mode(0o755)).unwrap();
    // A copy: the program itself may lie where that user cannot reach it.
    let program = root.join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let ask = |mode: u32, group: u32, options: &[&str]| {
        chown(&node, Some(0), Some(group)).unwrap();
        fs::set_permissions(&node, PermissionsExt::from_mode(mode)).unwrap();
        let mut again = Command::new("setpriv");
        again.args(options).arg(&program).args(["--exact", NAME, "--nocapture"]).env(ROOT, root);
        let output = again.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text[text.find('<').unwrap()..=text.rfind('>').unwrap()].to_owned()
    };
    let member = ["--reuid=64321", "--regid=64321", "--clear-groups"];
    let stranger = ["--reuid=64399", "--regid=64399", "--clear-groups"];
    let joined = ["--reuid=64321", "--regid=64321", "--groups=64322"];
    assert!(
        ask(0o660, 64322, &stranger).contains("belongs to the group kvm, and you are not in it; join the group (`sudo usermod -aG kvm")
    );
    assert!(ask(0o660, 64322, &member).contains("which you joined after this session began; log in again"));
    assert!(ask(0o660, 64323, &stranger).contains("the group 64323"));
    assert!(ask(0o600, 0, &stranger).contains("for root alone"));
    // It opens, and is not KVM.
    assert!(ask(0o660, 64322, &joined).contains("something else than KVM"));
}

#[test]
fn every_finding_is_one_sentence_and_every_bad_one_has_a_hint() {
    let findings = [
        Finding::NoNode(Absence::NoExtensions),
        Finding::NoPermission { group: None, joined: false },
        Finding::Forbidden,
        Finding::DeadNode(Absence::NotNested(Hypervisor::Other)),
        Finding::NotKvm,
        Finding::Busy,
        Finding::Failing { error: "no memory".to_owned() },
        Finding::Lacks { capabilities: vec!["KVM_CAP_IRQFD"] },
        #[cfg(target_arch = "x86_64")]
        Finding::Timeless,
        Finding::Untried,
    ];
    for finding in findings {
        let probe = finding.to_probe();
        assert!(!probe.usable && probe.hint.is_some(), "{finding:?}");
        assert!(!probe.verdict.ends_with('.') && !probe.verdict.contains('\n'), "{}", probe.verdict);
    }
}

#[cfg(target_arch = "x86_64")]
mod guests {
    use kvm_ioctls::Kvm;

    use super::{super::trial::Ended, *};
    use crate::kvm::{Stage, trial};

    /// This machine's device; `None` where there is none to try.
    fn kvm() -> Option<Kvm> {
        Kvm::new().ok()
    }

    #[test]
    fn a_guest_that_does_not_end_is_stopped_at_the_deadline() {
        let Some(kvm) = kvm() else { return };
        let start = Instant::now();
        // `out 0x80, 1`; then a jump to itself.
        let ended = trial::run(kvm, &[0xb0, 1, 0xe6, 0x80, 0xeb, 0xfe], Duration::from_millis(500)).unwrap();
        // On a busy machine it may not have begun.
        assert!(matches!(ended, Ended::Late { stage: Stage::Nothing | Stage::RealMode, stopped: true }), "{ended:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }

    #[test]
    fn a_guest_that_finds_something_wrong_is_believed() {
        let Some(kvm) = kvm() else { return };
        // `out 0x80, 0xff`; `hlt`.
        let ended = trial::run(kvm, &[0xb0, 0xff, 0xe6, 0x80, 0xf4], Duration::from_secs(10)).unwrap();
        assert!(matches!(&ended, Ended::Early { stage: Stage::Nothing, why } if why.contains("wrong effect")), "{ended:?}");
    }

    #[test]
    fn a_guest_that_halts_before_its_end_failed() {
        let Some(kvm) = kvm() else { return };
        let ended = trial::run(kvm, &[0xf4], Duration::from_secs(10)).unwrap();
        assert_eq!(ended, Ended::Early { stage: Stage::Nothing, why: "it halted".to_owned() });
    }
}
