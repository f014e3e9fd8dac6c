use std::{
    collections::BTreeSet,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::process::Pid;

use super::Home;

/// What has to do with a state folder and with no sandbox that is in it: processes, mounts, control groups, loop devices, folders, sockets, locks. loop
/// devices.
pub fn leftovers(home: &Home) -> Vec<String> {
    let state = home.state();
    let ids = home.ids();
    let of_none = |text: &str| !ids.iter().any(|id| text.contains(id.as_str()));
    let mut found = Vec::new();
    for (pid, traces) in processes_of(&state) {
        if of_none(&whereabouts(pid, &traces)) {
            found.push(format!("process {pid}: {}", line_of(pid)));
        }
    }
    found.extend(loop_devices_of(&state).into_iter().filter(|device| of_none(device)));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(
        mounts.lines().filter(|line| line.contains(&*state.to_string_lossy()) && of_none(line)).map(|line| format!("mount {line}")),
    );
    for folder in ["sandboxes", "locks", "keepers"] {
        found.extend(names(&state.join(folder)).into_iter().filter(|name| of_none(name)).map(|name| format!("{folder}/{name}")));
    }
    found.extend(
        names(&state.join("checkpoints")).into_iter().filter(|name| name.starts_with('.')).map(|name| format!("checkpoints/{name}")),
    );
    if ids.is_empty() && names(&state.join("checkpoints")).is_empty() {
        found.extend(names(&state.join("secrets")).into_iter().map(|name| format!("secrets/{name}")));
    }
    found
}

/// Everything by which a process that has to do with a state folder may say which sandbox it belongs to.
fn whereabouts(pid: u32, traces: &str) -> String {
    // The agent's program belongs to all sandboxes; its control group is named after one.
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    // An engine's process is told by its words where there is no group, and its gofer by its parent's.
    let line = line_of(pid);
    if line.starts_with("runsc") { format!("{traces}\n{groups}\n{line}\n{}", parent_line(pid)) } else { format!("{traces}\n{groups}") }
}

fn line_of(pid: impl std::fmt::Display) -> String {
    fs::read(format!("/proc/{pid}/cmdline")).map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).unwrap_or_default()
}

fn parent_line(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    line_of(status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or_default().trim())
}

/// The processes of one sandbox, inside and around it: those that say so, and those in a process namespace with one of them or with `inside`.
pub fn processes_of_sandbox(home: &Home, id: &str, inside: &[u32]) -> Vec<Pid> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let ours = namespace(std::process::id());
    let all = processes_of(&home.state()).into_iter().filter(|(pid, traces)| whereabouts(*pid, traces).contains(id));
    let mut found: BTreeSet<u32> = all.map(|(pid, _)| pid).chain(inside.iter().copied()).collect();
    let theirs: BTreeSet<_> = found.iter().filter_map(|pid| namespace(*pid)).filter(|theirs| Some(theirs) != ours.as_ref()).collect();
    let pids = names(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok());
    found.extend(pids.filter(|pid| namespace(*pid).is_some_and(|of| theirs.contains(&of))));
    found.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).collect()
}

/// Loop devices whose file is below a folder.
fn loop_devices_of(folder: &Path) -> Vec<String> {
    let devices = names(Path::new("/sys/block")).into_iter().filter(|name| name.starts_with("loop"));
    let files = devices.filter_map(|name| {
        let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
        file.contains(&*folder.to_string_lossy()).then(|| format!("{name} of {}", file.trim()))
    });
    files.collect()
}

/// Ids of which there is a folder or a lock.
pub fn ids_with_traces(home: &Home) -> Vec<String> {
    let mut ids: Vec<_> = ["sandboxes", "locks"].iter().flat_map(|folder| names(&home.state().join(folder))).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Processes that have to do with a folder, and by what: their words, where they are, what is mounted for them.
fn processes_of(folder: &Path) -> Vec<(u32, String)> {
    let folder = folder.to_string_lossy();
    let pids = names(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok()).filter(|pid| *pid != std::process::id());
    let traces = |pid: u32| {
        let read = |name: &str| {
            fs::read(format!("/proc/{pid}/{name}")).map(|data| String::from_utf8_lossy(&data).into_owned()).unwrap_or_default()
        };
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).map(|path| path.display().to_string()).unwrap_or_default();
        let all = [read("cmdline"), link("cwd"), link("exe"), link("root"), read("mountinfo")];
        all.into_iter()
            .flat_map(|text| text.lines().filter(|line| line.contains(&*folder)).map(ToOwned::to_owned).collect::<Vec<_>>())
            .collect::<Vec<_>>()
            .join("\n")
    };
    pids.map(|pid| (pid, traces(pid))).filter(|(_, traces)| !traces.is_empty()).collect()
}

/// Fails with what is left over of the sandboxes of a state folder.
pub fn assert_nothing_left(home: &Home) {
    let found = leftovers(home);
    assert!(found.is_empty(), "left over: {found:#?}");
}

/// Processes whose command line has `text`.
pub fn processes_with(text: &str) -> Vec<u32> {
    let pids = names(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok());
    let has = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(text.len()).any(|window| window == text.as_bytes()))
    };
    pids.filter(has).filter(|pid| *pid != std::process::id()).collect()
}

/// Control groups whose name has `text`, in whatever hierarchy.
pub fn control_groups_with(text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().as_bytes().windows(text.len()).any(|window| window == text.as_bytes()) {
                    found.push(entry.path());
                }
                folders.push(entry.path());
            }
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
