use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// A panic's report is some 3 KiB.
const TAIL: u64 = 16 << 10;
const MOST: usize = 300;

/// What is known of why a machine ended, in a few words: the agent's last line or the kernel's panic on its console, or what its monitor said last.
pub(crate) fn said(console: &Path, log: &Path) -> Option<String> {
    let console = tail(console);
    let lines: Vec<&str> = console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let panic = lines.iter().rev().find_map(|line| line.find("Kernel panic").map(|at| &line[at..]));
    let agent = lines.iter().rev().find_map(|line| line.find("sandbar-agent: ").map(|at| &line[at..]));
    let log = tail(log);
    let monitor = log.lines().map(str::trim).rfind(|line| !line.is_empty());
    // The agent says why before it ends the machine; a kernel whose first process has died says only that.
    let found = agent.or(panic).or(monitor)?;
    Some(found.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).take(MOST).collect())
}

fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
