use std::{
    env, fs,
    fs::File,
    io::{Seek, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use super::materials::Materials;
use crate::outcome::Failure;

/// The two stages of the machine's start.
const FIRST: &str = include_str!("../../lab/first.sh");
const SECOND: &str = include_str!("../../lab/second.sh");
/// Which of our environment the command gets. `SANDBAR_LAB` says to tests where they are.
const ENVIRONMENT: [&str; 7] = ["CI", "HOME", "LANG", "LC_ALL", "LOGNAME", "TERM", "USER"];
const ENVIRONMENT_PREFIXES: [&str; 4] = ["CARGO", "RUST", "SANDBAR_", "XDG_"];

/// Writes what the machine starts with into a file that has no name: the modules, the two scripts, and the command.
pub fn build(materials: &Materials, command: &[String]) -> Result<File, Failure> {
    let mut file = tempfile::tempfile_in(&materials.folder)?;
    file.write_all(&fs::read(&materials.base)?)?;
    let stage = tempfile::tempdir_in(&materials.folder)?;
    let mut names = String::new();
    for (name, text) in [("init", FIRST), ("second.sh", SECOND), ("command.sh", &script(&materials.programs, command)?)] {
        let path = stage.path().join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        names.push_str(name);
        names.push('\n');
    }
    archive(stage.path(), &names, &file)?;
    file.rewind()?;
    Ok(file)
}

/// Appends the named files of a folder to an archive; the kernel unpacks one archive after another.
pub fn archive(folder: &Path, names: &str, to: &File) -> Result<(), Failure> {
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=+0:+0", "--quiet"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(to.try_clone()?)
        .spawn()
        .map_err(|error| Failure::new(format!("cannot run cpio: {error}")))?;
    if let Some(mut stdin) = cpio.stdin.take() {
        stdin.write_all(names.as_bytes())?;
    }
    if cpio.wait()?.success() { Ok(()) } else { Err(Failure::new("cpio failed")) }
}

/// The command, where we are, with what of our environment it gets.
fn script(programs: &Path, command: &[String]) -> Result<String, Failure> {
    let mut script = String::new();
    let path = env::var("PATH").unwrap_or_default();
    let mut set = |name: &str, value: &str| script.push_str(&format!("export {name}={}\n", quoted(value)));
    for (name, value) in env::vars() {
        if ENVIRONMENT.contains(&name.as_str()) || ENVIRONMENT_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            set(&name, &value);
        }
    }
    set("PATH", &format!("{}:{path}", programs.display()));
    set("SANDBAR_LAB", "1");
    script.push_str(&format!("cd {} || exit 125\n", quoted(&env::current_dir()?.to_string_lossy())));
    script.push_str("exec");
    for argument in command {
        script.push(' ');
        script.push_str(&quoted(argument));
    }
    script.push('\n');
    Ok(script)
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_argument_reaches_the_command_as_it_is() {
        for argument in ["", "plain", "two words", "it's", "$HOME `id` \\ \" *", "line\nbreak"] {
            let output = Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(argument))).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), argument);
        }
    }
}
