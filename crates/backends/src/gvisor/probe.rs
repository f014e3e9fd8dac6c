//! Whether gVisor works here: by running a tiny sandbox, with a deadline.

use std::{fs, os::unix::fs::DirBuilderExt, path::Path, sync::Arc, time::Duration};

use sandbar_core::{Context, Error, IdRange, ImageKind, Lifetime, NoJournal, Probe, Result, RootSource, SandboxId, SandboxSpec};

use super::{GvisorOptions, boot::OwnedBoot, engine::Engine, info};
use crate::{
    host::{folder, ids::is_root, kernel},
    machine::agent::AgentFile,
};

/// It takes a quarter of a second. A platform that hangs (a `/dev/kvm` that cannot run a stock guest) is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Any ids do: nothing of anybody's runs with them.
const IDS: IdRange = IdRange { first: 1_879_048_192, count: 65_536 };

/// Runs a sandbox with nothing in it but the agent until that listens, and says how it went.
pub(super) fn probe(home: &Path, options: &GvisorOptions) -> Probe {
    probe_within(PATIENCE, home, options)
}

fn probe_within(patience: Duration, home: &Path, options: &GvisorOptions) -> Probe {
    let tried = Engine::find(options).and_then(|engine| {
        let version = engine.version()?;
        version.require()?;
        rehearse(patience, home, &engine)?;
        Ok((engine, version))
    });
    match tried {
        Ok((engine, version)) => {
            Probe { usable: true, verdict: format!("runsc {version}; {}", info::info(Some(&engine)).notes.join("; ")), hint: None }
        }
        Err(error) => Probe { usable: false, verdict: error.chain(), hint: error.hint().map(str::to_owned) },
    }
}

fn rehearse(patience: Duration, home: &Path, engine: &Engine) -> Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(std::io::Error::from).context("probe", || "no random numbers".to_owned())?;
    let id = SandboxId::from_random(random);
    let stage = home.join(format!("probe-{id}"));
    let make = |path: &Path| {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| Error::io("probe", "cannot write into the state folder", error).with("path", path.display()))
    };
    let (lower, own) = (stage.join("lower"), stage.join("own"));
    let result = make(&lower).and_then(|()| make(&own)).and_then(|()| {
        let root = RootSource { kind: ImageKind::Empty, layers: vec![lower], ..RootSource::empty() };
        let boot = OwnedBoot {
            engine: engine.clone(),
            id,
            spec: SandboxSpec::default(),
            root,
            folder: own,
            generation: 0,
            ids: is_root().then_some(IDS),
            lifetime: Lifetime::Owned,
            journal: Arc::new(NoJournal),
            by_descriptor: kernel::takes_detached_layers(),
            agent: AgentFile::new(home).path()?.to_owned(),
            image: None,
            patience,
        };
        boot.run(&mut Vec::new())?.halt(&(Arc::new(NoJournal) as Arc<dyn sandbar_core::Journal>))
    });
    let _ = folder::remove(&stage);
    result
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::PathBuf};

    use super::{
        super::{Platform, place::children},
        *,
    };
    use crate::machine::{agent::until_nobody_writes, process::HostProcess};

    fn probe_of(runsc: impl Into<PathBuf>, platform: Platform) -> Probe {
        let home = tempfile::tempdir().unwrap();
        probe_within(Duration::from_secs(1), home.path(), &GvisorOptions { runsc: Some(runsc.into()), platform })
    }

    fn program(folder: &Path, content: &[u8]) -> PathBuf {
        let path = folder.join("runsc");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        until_nobody_writes(&path).unwrap();
        path
    }

    #[test]
    fn a_program_that_is_none_is_told_with_its_path() {
        let probe = probe_of("/nonexistent/runsc", Platform::Systrap);
        assert!(!probe.usable && probe.verdict.contains("/nonexistent/runsc"), "{probe:?}");
        assert!(probe.hint.is_some_and(|hint| hint.contains("RUNSC_PATH")));
    }

    #[test]
    fn a_program_that_is_no_runsc_is_told() {
        let probe = probe_of("/bin/true", Platform::Systrap);
        assert!(!probe.usable && probe.verdict.contains("version"), "{probe:?}");
    }

    #[test]
    fn a_runsc_that_is_too_old_is_told_with_what_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let old = program(folder.path(), b"#!/bin/sh\necho 'runsc version 0.0~20221219.0'\n");
        let probe = probe_of(old, Platform::Systrap);
        assert!(!probe.usable && probe.verdict.contains("20221219") && probe.verdict.contains("20240729"), "{probe:?}");
        assert!(probe.hint.is_some_and(|hint| hint.contains("setup gvisor")));
    }

    /// A program that says a version when it is asked for one, and does nothing for ever when it is to run a sandbox. It needs nothing where it runs.
    #[cfg(target_arch = "x86_64")]
    fn hanging() -> Vec<u8> {
        const BASE: u64 = 0x40_0000;
        const HEAD: u64 = 64 + 56;
        let code: &[&[u8]] = &[
            b"\x48\x83\x3c\x24\x02",           // cmp qword [rsp], 2: its name and one word
            b"\x75\x21",                       // jne, over 33 bytes
            b"\xb8\x01\0\0\0\xbf\x01\0\0\0",   // mov eax, 1 (write); mov edi, 1
            b"\x48\x8d\x35\x19\0\0\0",         // lea rsi, [the text], 25 bytes after this
            b"\xba\x1f\0\0\0\x0f\x05",         // mov edx, 31; syscall
            b"\xb8\x3c\0\0\0\x31\xff\x0f\x05", // mov eax, 60 (exit); xor edi, edi; syscall
            b"\xb8\x22\0\0\0\x0f\x05\xeb\xf7", // mov eax, 34 (pause); syscall; again
            b"runsc version release-20991231\n",
        ];
        let code = code.concat();
        let length = HEAD + code.len() as u64;
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        [BASE + HEAD, 64, 0].iter().for_each(|number: &u64| file.extend(number.to_le_bytes()));
        file.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0");
        [0, BASE, BASE, length, length, 0x1000].iter().for_each(|number: &u64| file.extend(number.to_le_bytes()));
        file.extend(code);
        file
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_platform_that_hangs_is_told_after_a_deadline_and_nothing_of_it_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let program = program(folder.path(), &hanging());
        for platform in [Platform::default(), Platform::Kvm] {
            if platform == Platform::Kvm && !Path::new("/dev/kvm").exists() {
                continue;
            }
            let probe = probe_of(&program, platform);
            assert!(!probe.usable && probe.verdict.contains("does not listen"), "{probe:?}");
            assert!(probe.verdict.contains("after") && probe.verdict.contains(platform.name()), "{probe:?}");
        }
        let own = children(&HostProcess::of(std::process::id()).unwrap());
        let line = |process: &HostProcess| fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        assert_eq!(own.iter().map(line).find(|line| line.starts_with("runsc")), None);
    }

    #[test]
    fn the_platform_that_may_hang_is_taken_only_when_asked_for() {
        let arguments = |platform| Engine { path: PathBuf::new(), platform }.arguments().join(" ");
        assert_eq!(Platform::default(), Platform::Systrap);
        assert!(arguments(Platform::default()).contains("--platform=systrap"));
        assert!(arguments(Platform::Kvm).contains("--platform=kvm"));
    }
}
