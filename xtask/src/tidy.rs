use std::path::Path;

use xshell::{Shell, cmd};

use crate::outcome::{Failure, say};

/// A file over this many lines holds more than one idea.
const MOST_LINES: usize = 500;
/// File names that say nothing about what is inside.
const NAMELESS: [&str; 5] = ["types.rs", "common.rs", "utils.rs", "util.rs", "helpers.rs"];

/// The house rules that no compiler knows.
pub fn run(shell: &Shell) -> Result<(), Failure> {
    let listed = cmd!(shell, "git ls-files --cached --others --exclude-standard").quiet().read()?;
    let files: Vec<&str> = listed.lines().filter(|file| shell.path_exists(file)).collect();
    let architecture = shell.read_file("docs/architecture.md")?;
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        let text = shell.read_file(file)?;
        let lines = text.lines().count();
        if lines > MOST_LINES {
            complaints.push(format!("{file}: {lines} lines; split what grew past one idea ({MOST_LINES} at most)"));
        }
        let name = Path::new(file).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if NAMELESS.contains(&name.as_str()) {
            complaints.push(format!("{file}: name it after the noun that it holds"));
        }
        let is_module =
            file.starts_with("crates/") && file.contains("/src/") && file.ends_with("/mod.rs") && file.matches('/').count() == 4;
        let folder = file.trim_end_matches("/mod.rs");
        if is_module && !architecture.contains(folder.rsplit('/').next().unwrap_or(folder)) {
            complaints.push(format!("docs/architecture.md does not mention {folder}"));
        }
    }
    for crate_folder in shell.read_dir("crates")? {
        let name = crate_folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !architecture.contains(&format!("crates/{name}")) {
            complaints.push(format!("docs/architecture.md does not mention crates/{name}"));
        }
    }
    for complaint in &complaints {
        say(complaint);
    }
    if complaints.is_empty() { Ok(()) } else { Err(Failure::new(format!("{} complaints", complaints.len()))) }
}
