//! The server, asked by schemathesis for everything that its OpenAPI document has, sensible and not. No answer may tell of a defect (500), or be
//! another one than the document says.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use xshell::{Shell, cmd};

use crate::outcome::{Failure, say};

/// The virtual environment, and what the last run has left.
const FOLDER: &str = "target/schemathesis";
const PACKAGE: &str = "schemathesis==4.32.5";
/// How it asks.
const CONFIG: &str = "xtask/schemathesis/config.toml";
const HOOKS: &str = "xtask/schemathesis";
/// Beside the cases that it derives from the document, so many are made up for each operation.
const EXAMPLES: &str = "40";
/// Of one request. What takes longer has been forgotten.
const PATIENCE_SECONDS: &str = "60";
/// The sandboxes of its configuration.
const SANDBOXES: [&str; 6] = ["lasting", "turned", "mortal-1", "mortal-2", "mortal-3", "mortal-4"];

/// Installs it, unless it is there.
pub fn fetch(shell: &Shell) -> Result<(), Failure> {
    let folder = shell.current_dir().join(FOLDER).join(PACKAGE);
    if shell.path_exists(&folder) {
        return Ok(());
    }
    say(&format!("fetching {PACKAGE}"));
    // Under its name when it is complete. The programs in it begin with the path of its interpreter, so they are not called.
    let begun = shell.current_dir().join(FOLDER).join("begun");
    shell.remove_path(&begun)?;
    cmd!(shell, "python3 -m venv {begun}").quiet().run()?;
    let python = begun.join("bin/python");
    cmd!(shell, "{python} -m pip install --quiet --disable-pip-version-check --only-binary=:all: {PACKAGE}").quiet().run()?;
    Ok(std::fs::rename(begun, folder)?)
}

/// Asks a server in a state folder of its own.
pub fn run(shell: &Shell) -> Result<(), Failure> {
    fetch(shell)?;
    // As the tests have it, so that it is built once.
    cmd!(shell, "cargo test --workspace --test serve --no-run --quiet").quiet().run()?;
    let root = shell.current_dir();
    let folder = root.join(FOLDER);
    let log = folder.join("server.log");
    let server = Server::start(&root.join("target/debug/sandbar"), &log)?;
    server.import_small_image()?;
    for name in SANDBOXES {
        server.sandbar(&["create", "--on", "container", "--image", "small", "--name", name])?;
    }
    server.sandbar(&["checkpoint", "lasting", "--name", "saved"])?;
    let asked = Command::new(folder.join(PACKAGE).join("bin/python"))
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(root.join(CONFIG))
        .args(["run", "--no-color", "--continue-on-failure", "--max-examples", EXAMPLES, "--request-timeout", PATIENCE_SECONDS])
        .args(["--warnings", "off", "--header", &format!("Authorization: Bearer {}", server.token()?)])
        .arg(format!("{}/openapi.json", server.address))
        .env("PYTHONPATH", root.join(HOOKS))
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // What it writes where it is called.
        .current_dir(&folder)
        .status()?;
    // It is still there, and says nothing of a defect that an answer did not say.
    server.sandbar(&["ls"])?;
    let defects = defects(&std::fs::read_to_string(&log)?);
    drop(server);
    match (asked.success(), defects.is_empty()) {
        (true, true) => Ok(()),
        (_, false) => Err(Failure::new(format!("the server's log tells of defects:\n{defects}"))),
        (false, true) => Err(Failure::new("an answer tells of a defect, or is not as docs/openapi.json says")),
    }
}

/// The lines that tell of any.
fn defects(log: &str) -> String {
    let tells = |line: &&str| line.contains(r#""level":"ERROR""#) || line.contains("panicked at");
    log.lines().filter(tells).collect::<Vec<_>>().join("\n")
}

struct Server {
    program: PathBuf,
    home: TempDir,
    process: Child,
    address: String,
}

impl Server {
    fn start(program: &Path, log: &Path) -> Result<Self, Failure> {
        // A socket's path must be short.
        let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        let home = tempfile::Builder::new().prefix("sandbar-schemathesis-").tempdir_in(parent)?;
        let mut process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .env("SANDBAR_HOME", home.path())
            .stdout(Stdio::piped())
            .stderr(File::create(log)?)
            .spawn()?;
        let mut address = String::new();
        let read = process.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut address));
        let server = Self { program: program.to_owned(), home, process, address: address.trim().to_owned() };
        match read {
            Some(Ok(_)) if server.address.starts_with("http://") => Ok(server),
            _ => Err(Failure::new(format!("the server does not listen; {} says why", log.display()))),
        }
    }

    fn token(&self) -> Result<String, Failure> {
        Ok(std::fs::read_to_string(self.home.path().join("server-token"))?.trim().to_owned())
    }

    /// One of a single program: of the image `host` it would take minutes to pack a flattened checkpoint.
    fn import_small_image(&self) -> Result<(), Failure> {
        let root = tempfile::tempdir()?;
        for folder in ["bin", "etc", "tmp"] {
            std::fs::create_dir(root.path().join(folder))?;
        }
        std::fs::copy("/bin/busybox", root.path().join("bin/busybox"))?;
        for name in ["sh", "true", "echo", "kill"] {
            std::os::unix::fs::symlink("busybox", root.path().join("bin").join(name))?;
        }
        std::fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
        self.sandbar(&["image", "import", &root.path().display().to_string(), "small"]).map(drop)
    }

    /// The command line on the same state folder.
    fn sandbar(&self, arguments: &[&str]) -> Result<String, Failure> {
        let output = Command::new(&self.program).args(arguments).env("SANDBAR_HOME", self.home.path()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::new(format!("sandbar {}: {said}", arguments.join(" "))));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let gone = self.sandbar(&["ls", "-q"]).and_then(|ids| {
            let ids: Vec<&str> = ids.lines().collect();
            if ids.is_empty() { Ok(String::new()) } else { self.sandbar(&[&["rm", "-f"], ids.as_slice()].concat()) }
        });
        if let Err(failure) = gone {
            say(&format!("sandboxes of the server that was asked are left: {failure}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_says_of_a_defect_is_found() {
        let log = "{\"level\":\"INFO\",\"status\":200}\nthread 'x' panicked at crates/x.rs:1\n{\"level\":\"ERROR\",\"message\":\"y\"}\n";
        assert_eq!(defects(log).lines().count(), 2);
        assert_eq!(defects("{\"level\":\"WARN\"}"), "");
    }
}
