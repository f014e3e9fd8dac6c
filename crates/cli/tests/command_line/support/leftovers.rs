use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::Home;

/// What has to do with a state folder and with no sandbox that is in it: processes, mounts, control groups, folders, sockets, locks.
pub fn leftovers(home: &Home) -> Vec<String> {
    let state = home.state();
    let ids = home.ids();
    let of_none = |text: &str| !ids.iter().any(|id| text.contains(id.as_str()));
    let mut found = Vec::new();
    for (pid, traces) in processes_of(&state) {
        // The agent's program belongs to all sandboxes; its control group is named after one.
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        // An engine's process is told by its words where there is no group.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let is_engine = line.starts_with("runsc");
        let parent = if is_engine { parent_line(pid) } else { String::new() };
        if of_none(&traces) && of_none(&groups) && !(is_engine && (!of_none(&line) || !of_none(&parent))) {
            found.push(format!("process {pid}: {line}"));
        }
    }
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
    found
}

/// The command line of a process's parent: that of the gofer names no sandbox.
fn parent_line(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or_default().trim().to_owned();
    fs::read(format!("/proc/{parent}/cmdline")).map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).unwrap_or_default()
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
