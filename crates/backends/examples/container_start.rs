//! Where the time of a container goes: `cargo run --release -p sandbar-backends --example container_start -- [RUNS] [LIMIT…]`.
//!
//! Each run is create, exec of `true`, destroy, with the image `host`. LIMIT is `memory`, `cpu`, `pids` or `disk`.

#![expect(clippy::print_stdout, reason = "a measurement prints")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sandbar_backends::container::Container;
use sandbar_core::{
    ExecRequest, HostImage, IdRange, ImageKind, Journal, Lifetime, ProvisionRequest, Resource, Result, RootSource, SandboxId,
    SandboxProvider, SandboxSpec, State,
};
use serde_json::Value;

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runs: u64 = arguments.first().map_or(Ok(50), |text| text.parse())?;
    let home = std::env::var_os("SANDBAR_HOME")
        .map_or_else(|| std::env::temp_dir().join(format!("sandbar-{}", std::process::id())), PathBuf::from);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&home)?;
    let root = host_image(&home.join("skeleton"))?;
    let provider = Container::provider(&home);
    let begun = Instant::now();
    println!("probe: {:?} in {:?}", provider.probe().await, begun.elapsed());
    println!("{:#?}", provider.info().notes);
    let steps = Arc::new(Steps::default());
    let mut phases = vec![Vec::new(); 4];
    for run in 0..runs {
        let times = once(&provider, &home, &root, run, &arguments[1.min(arguments.len())..], &steps).await?;
        for (phase, time) in phases.iter_mut().zip(times) {
            phase.push(time);
        }
    }
    for (name, times) in ["create", "exec", "destroy", "all"].iter().zip(&mut phases) {
        times.sort_unstable();
        let at = |part: usize| times[times.len() * part / 100];
        println!("{name:8} p10 {:?} p50 {:?} p90 {:?}", at(10), at(50), at(90));
    }
    steps.print();
    if let Ok(program) = std::env::var("BESIDE") {
        beside(&program, runs)?;
    }
    fs::remove_dir_all(&home)?;
    Ok(())
}

/// What another command line takes, started from here in the same way.
fn beside(line: &str, runs: u64) -> std::io::Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut times = Vec::new();
    for _ in 0..runs {
        let begun = Instant::now();
        std::process::Command::new(words[0]).args(&words[1..]).status()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!("beside   p10 {:?} p50 {:?} p90 {:?}", times[times.len() / 10], times[times.len() / 2], times[times.len() * 9 / 10]);
    Ok(())
}

/// When each step of a journal was reached, after the beginning.
#[derive(Default)]
struct Steps(Mutex<(Option<Instant>, Reached)>);

type Reached = Vec<(&'static str, Vec<Duration>)>;

impl Steps {
    fn begin(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(Instant::now());
    }

    fn print(&self) {
        for (name, times) in &mut self.0.lock().unwrap_or_else(PoisonError::into_inner).1 {
            times.sort_unstable();
            println!("  {name:24} {:?}", times[times.len() / 2]);
        }
    }
}

impl Journal for Steps {
    fn intend(&self, _: &Resource) -> Result<()> {
        Ok(())
    }

    fn forget(&self, _: &Resource) -> Result<()> {
        Ok(())
    }

    fn commit(&self, _: &Value, _: State) -> Result<()> {
        Ok(())
    }

    fn step(&self, name: &'static str) {
        let (begun, steps) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time = begun.map(|begun| begun.elapsed()).unwrap_or_default();
        match steps.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(time),
            None => steps.push((name, vec![time])),
        }
    }
}

async fn once(
    provider: &impl SandboxProvider,
    home: &Path,
    root: &RootSource,
    run: u64,
    limits: &[String],
    steps: &Arc<Steps>,
) -> Result<[Duration; 4]> {
    let id = SandboxId::from_random((u64::from(std::process::id()) << 20 | run).to_le_bytes());
    let folder = home.join(id.as_str());
    fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| sandbar_core::Error::io("example", "folder", error))?;
    let mut spec = SandboxSpec::default();
    for limit in limits {
        match limit.as_str() {
            "memory" => spec.limits.memory = Some(256 << 20),
            "cpu" => spec.limits.cpu_millis = Some(1000),
            "pids" => spec.limits.pids = Some(100),
            "disk" => spec.limits.disk = Some(64 << 20),
            _ => {}
        }
    }
    let request = ProvisionRequest {
        id,
        spec,
        secret_values: BTreeMap::new(),
        root: root.clone(),
        folder: folder.clone(),
        ids: rustix::process::geteuid().is_root().then_some(IdRange { first: 1_000_000, count: 65_536 }),
        lifetime: if limits.iter().any(|limit| limit == "detached") { Lifetime::Detached } else { Lifetime::Owned },
        journal: Arc::clone(steps) as Arc<dyn Journal>,
    };
    let begun = Instant::now();
    steps.begin();
    let sandbox = provider.provision(request).await?;
    let created = begun.elapsed();
    let command = std::env::var("COMMAND").unwrap_or_else(|_| "true".to_owned());
    let result = if command == "true" {
        sandbox.exec(ExecRequest::argv(["true"])).await?
    } else {
        sandbox.exec(ExecRequest::shell(command)).await?
    };
    if !result.stdout.is_empty() || !result.stderr.is_empty() {
        println!("{}{}", result.stdout_text(), result.stderr_text());
    }
    let executed = begun.elapsed();
    sandbox.destroy().await?;
    let all = begun.elapsed();
    let _ = fs::remove_dir(&folder);
    Ok([created, executed - created, all - executed, all])
}

/// A small form of the image `host`.
fn host_image(skeleton: &Path) -> std::io::Result<RootSource> {
    for folder in ["", "etc", "proc", "sys", "dev", "tmp", "root", "home", "usr", "run", "var"] {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(skeleton.join(folder))?;
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        if fs::symlink_metadata(skeleton.join(link)).is_err() {
            symlink(format!("usr/{link}"), skeleton.join(link))?;
        }
    }
    fs::write(skeleton.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(skeleton.join("etc/group"), "root:x:0:\n")?;
    fs::copy("/etc/ld.so.cache", skeleton.join("etc/ld.so.cache"))?;
    Ok(RootSource {
        kind: ImageKind::Host { fingerprint: String::new() },
        layers: vec![skeleton.to_owned()],
        saved_layers: Vec::new(),
        host: Some(HostImage { folders: vec!["/usr".into()] }),
        env: BTreeMap::from([("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned())]),
        workdir: None,
        user: None,
    })
}
