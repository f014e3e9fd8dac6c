use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use sandbar_core::Limits;

use super::{
    Setting,
    sandbox::{Stage, truth},
};
use crate::{Result, table};

/// Memory of idle containers: proportional set size of their processes, and what the kernel holds besides.
pub async fn run(setting: &Setting, stage: &Stage) -> Result {
    table::heading(&format!("memory of {} idle containers", setting.idle));
    let before = available();
    let mut sandboxes = Vec::new();
    for _ in 0..setting.idle {
        let sandbox = stage.container(Limits::default()).await?;
        truth(&sandbox).await?;
        sandboxes.push(sandbox);
    }
    let after = available();
    let sizes: Vec<u64> = proportional_sizes()?;
    for sandbox in &sandboxes {
        sandbox.destroy().await?;
    }
    let count = setting.idle.max(1) as f64;
    let mebibytes = |kilobytes: f64| format!("{:.2}", kilobytes / 1024.0);
    table::rows(
        &["", "MiB per sandbox"],
        &[
            vec!["processes, proportional set size".into(), mebibytes(sizes.iter().sum::<u64>() as f64 / sizes.len().max(1) as f64)],
            vec![
                "everything, by the fall of MemAvailable (with kernel objects and caches)".into(),
                mebibytes(before.saturating_sub(after) as f64 / count),
            ],
        ],
    );
    if sizes.len() != setting.idle {
        return Err(format!("{} agents were found for {} sandboxes", sizes.len(), setting.idle).into());
    }
    Ok(())
}

fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, "MemAvailable:")
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.trim().split(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Kilobytes of all processes whose command lines contain one of these marks, and of all that descend from them.
pub fn kilobytes_of(marks: &[String]) -> Result<u64> {
    Ok(processes_of(marks)?.iter().map(|folder| proportional_size(folder)).sum())
}

/// The same, of what is no other process's as well.
pub fn private_kilobytes_of(marks: &[String]) -> Result<u64> {
    let private = |folder: &PathBuf| {
        let text = fs::read_to_string(folder.join("smaps_rollup")).unwrap_or_default();
        field(&text, "Private_Clean:") + field(&text, "Private_Dirty:")
    };
    Ok(processes_of(marks)?.iter().map(private).sum())
}

/// The folders in `/proc` of all processes whose command lines or working directories contain one of these marks, and of all that descend from them.
fn processes_of(marks: &[String]) -> Result<Vec<PathBuf>> {
    let (mut parents, mut counted) = (HashMap::new(), HashSet::new());
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let read = |name: &str| String::from_utf8_lossy(&fs::read(entry.path().join(name)).unwrap_or_default()).into_owned();
        let line = read("cmdline");
        let place = fs::read_link(entry.path().join("cwd")).unwrap_or_default().display().to_string();
        if marks.iter().any(|mark| line.contains(mark.as_str()) || place.contains(mark.as_str())) {
            counted.insert(pid);
        }
        // The name before the state and the parent may have spaces and brackets in it.
        let parent = read("stat").rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parents.insert(pid, parent.unwrap_or(0));
    }
    loop {
        let more: Vec<u32> =
            parents.iter().filter(|(pid, parent)| counted.contains(parent) && !counted.contains(pid)).map(|(pid, _)| *pid).collect();
        if more.is_empty() {
            break;
        }
        counted.extend(more);
    }
    Ok(counted.iter().map(|pid| Path::new("/proc").join(pid.to_string())).collect())
}

/// Kilobytes of a process, by its folder in `/proc`.
fn proportional_size(folder: &Path) -> u64 {
    field(&fs::read_to_string(folder.join("smaps_rollup")).unwrap_or_default(), "Pss:")
}

/// Kilobytes of every agent on this machine.
fn proportional_sizes() -> Result<Vec<u64>> {
    let mut sizes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let folder = entry?.path();
        let is_agent = fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.trim() == "sandbar-agent");
        if is_agent {
            sizes.push(proportional_size(&folder));
        }
    }
    Ok(sizes)
}
