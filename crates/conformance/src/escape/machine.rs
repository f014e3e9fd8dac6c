//! Machines: root inside has a kernel, and with it every device that there is.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use sandbar_core::{Resource, State};
use sha2::{Digest, Sha256};

use super::canary::{Canary, attack, prey};
use crate::{
    Context, Failure,
    Reach::{OwnMachine, Shell},
    failure::{ensure, ensure_eq},
    sandbox::soon,
    suite::cases,
};

cases! { "machine";
    it_has_no_device_that_leads_anywhere [.reach(&[OwnMachine])],
    no_port_of_the_host_answers [.reach(&[OwnMachine])],
    what_machines_share_is_not_written [.reach(&[OwnMachine, Shell]).alone()],
    a_ruined_disk_harms_nobody_else [.reach(&[OwnMachine, Shell])],
    the_hosts_clock_is_its_own [.reach(&[OwnMachine, Shell])],
    a_kernel_that_ends_itself_ends_nothing_else [.reach(&[OwnMachine, Shell])],
    whoever_takes_over_the_monitor_has_nothing_but_the_machine [.reach(&[OwnMachine])],
}

async fn it_has_no_device_that_leads_anywhere(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    attack(&sandbox, &["machine-buses"]).await?;
    Ok(())
}

async fn no_port_of_the_host_answers(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    attack(&sandbox, &["machine-ports"]).await?;
    ensure_eq!(soon("a command", sandbox.text("echo here")).await??, "here", "the wire afterwards");
    canary.is_untouched()
}

/// What lies below a folder, by its digest.
fn digests(folder: &Path, into: &mut BTreeMap<PathBuf, String>) -> Result<(), Failure> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type()?.is_dir() {
            digests(&entry.path(), into)?;
        } else if entry.metadata()?.len() < 1 << 30 {
            into.insert(entry.path(), hex::encode(Sha256::digest(fs::read(entry.path())?)));
        }
    }
    Ok(())
}

/// Images, kernels and the first machine's memory, from which every later one begins.
fn shared(context: &Context) -> Result<BTreeMap<PathBuf, String>, Failure> {
    let mut all = BTreeMap::new();
    for name in ["root-images", "kernels", "templates"] {
        digests(&context.subject().folder.join("state").join(name), &mut all)?;
    }
    ensure!(all.keys().any(|path| path.ends_with("vmlinux")), "no kernel is where machines share it: {:?}", all.keys());
    Ok(all)
}

async fn what_machines_share_is_not_written(context: &Context) -> Result<(), Failure> {
    let (sandbox, other) = (prey(context).await?, prey(context).await?);
    let before = shared(context)?;
    attack(&sandbox, &["machine-disks"]).await?;
    sandbox.shell("echo changed > /bin/changed; sync").await?;
    ensure_eq!(shared(context)?, before, "what machines share on the host");
    ensure!(!other.has("/bin/changed").await?, "another machine sees it");
    let later = prey(context).await?;
    ensure_eq!(later.text("ls /bin/changed 2>/dev/null || echo none").await?, "none", "what a later machine sees");
    Ok(())
}

async fn a_ruined_disk_harms_nobody_else(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let (sandbox, other) = (prey(context).await?, prey(context).await?);
    // The disk that it may write, from its first byte on: what the host would believe if it mounted it, or asked its kernel.
    let ruin = "for disk in /sys/block/vd*; do \
        test $(cat $disk/ro) = 0 || continue; IFS=: read major minor < $disk/dev; mknod /dev/ruined b $major $minor || mknod /tmp/ruined b $major $minor; \
        for node in /dev/ruined /tmp/ruined; do \
        test -b $node && dd if=/dev/urandom of=$node bs=65536 count=64 conv=fsync && echo ruined >&2; done; done; true";
    let said = soon("the writing", sandbox.shell(ruin)).await;
    if let Ok(Ok(said)) = said {
        ensure!(said.stderr_text().contains("ruined"), "nothing was ruined: {}", said.stderr_text());
    }
    // Whatever they say: nothing of the host is read or changed by them, and nobody waits for ever.
    let _ = sandbox.stats().await;
    let _ = tokio::time::timeout(std::time::Duration::from_secs(60), sandbox.stop()).await;
    canary.is_untouched()?;
    context.destroy(&sandbox).await?;
    ensure_eq!(soon("a command", other.text("echo here")).await??, "here", "another machine");
    canary.is_untouched()
}

async fn the_hosts_clock_is_its_own(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    let (clock, steady) = (SystemTime::now(), Instant::now());
    sandbox.shell("date -s '2001-02-03 04:05:06'; hwclock -w -f /dev/rtc0; hwclock -w -f /dev/rtc; true").await?;
    let passed = clock.elapsed().map_err(|_| Failure::new("the host's clock went back"))?;
    ensure!(passed.abs_diff(steady.elapsed()).as_secs() < 5, "the host's clock went another way than its time: {passed:?}");
    Ok(())
}

async fn a_kernel_that_ends_itself_ends_nothing_else(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let (sandbox, other) = (prey(context).await?, prey(context).await?);
    let panic = "mount -t proc none /proc; echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 60";
    let _ = soon("the panic", sandbox.shell(panic)).await?;
    let status = sandbox.status().await;
    ensure_eq!(status.state, State::Crashed, "the state ({:?})", status.reason);
    ensure_eq!(soon("a command", other.text("echo here")).await??, "here", "another machine");
    canary.is_untouched()
}

/// What the host's kernel says of the process that is the machine: what would be within reach of code that broke out into it. What a process that is so confined can still do is tested
/// with a shell in its place (the agent's `confine`).
async fn whoever_takes_over_the_monitor_has_nothing_but_the_machine(context: &Context) -> Result<(), Failure> {
    let (sandbox, other) = (prey(context).await?, prey(context).await?);
    let machine = sandbox.journal().held().into_iter().rev().find_map(|resource| match resource {
        Resource::Process { pid, role, .. } if role == "machine" => Some(PathBuf::from(format!("/proc/{pid}"))),
        _ => None,
    });
    let machine = machine.ok_or_else(|| Failure::new("the journal knows no machine"))?;
    let status = fs::read_to_string(machine.join("status"))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    ensure_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"), "new rights, and the filter");
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    for name in ["Uid:", "Gid:"] {
        ensure!(!field(name).split_whitespace().any(|id| id == "0"), "its {name} {}", field(name));
    }
    ensure_eq!(field("CapEff:"), "0000000000000000", "its capabilities");
    ensure!(fs::read_link(machine.join("ns/mnt"))? != fs::read_link("/proc/self/ns/mnt")?, "it sees the host's mounts");
    for path in ["etc/shadow", "etc/passwd", "proc/1", "root", "home"] {
        ensure!(fs::symlink_metadata(machine.join("root").join(path)).is_err(), "/{path} is within its reach");
    }
    let places = [context.subject().folder.join("state/ledger.db"), other.request().folder.clone(), sandbox.request().folder.join("..")];
    for place in places {
        let place = machine.join("root").join(place.strip_prefix("/").unwrap_or(&place));
        let shown: Vec<_> = fs::read_dir(&place).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        ensure!(shown.len() <= 1 && !place.is_file(), "{} is within its reach: {shown:?}", place.display());
    }
    // What is open is in its own root, or nowhere.
    for entry in fs::read_dir(machine.join("fd"))?.flatten() {
        let (Ok(target), Ok(open)) = (fs::read_link(entry.path()), fs::metadata(entry.path())) else { continue };
        if !target.is_absolute() || target.starts_with("/dev") || target.ends_with("qemu.log") || target.ends_with("firecracker.log") {
            continue;
        }
        let within = fs::metadata(machine.join("root").join(target.strip_prefix("/").unwrap_or(&target)));
        let is_own = within.is_ok_and(|within| (within.dev(), within.ino()) == (open.dev(), open.ino()));
        ensure!(is_own || open.nlink() == 0, "{} is open", target.display());
    }
    Ok(())
}
