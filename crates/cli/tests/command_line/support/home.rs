use std::{
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;

use super::{Client, Finished, Wall, assert_nothing_left, case::open_to_all, eventually};

/// A state folder for one test.
pub struct Home {
    folder: TempDir,
    pub wall: Wall,
}

impl Home {
    pub fn new(wall: &Wall) -> Self {
        let folder = tempfile::Builder::new().prefix("sandbar-test-").tempdir_in("/tmp").unwrap();
        open_to_all(folder.path());
        wall.hand_over(folder.path());
        Self { folder, wall: wall.clone() }
    }

    /// The folder around the state folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// A folder for the test's own files, of the wall's user.
    pub fn work(&self) -> PathBuf {
        let work = self.path().join("work");
        if !work.exists() {
            std::fs::create_dir(&work).unwrap();
            self.wall.hand_over(&work);
        }
        work
    }

    /// A command line, not started.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> std::process::Command {
        let mut command = self.wall.command(self.path());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a command line.
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> Client {
        Client::start(self.command(args), args)
    }

    /// Runs a command line to its end.
    pub fn sandbar<S: AsRef<OsStr>>(&self, args: &[S]) -> Finished {
        self.start(args).finish()
    }

    /// Runs a command line that must succeed; its output, trimmed.
    pub fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let finished = self.sandbar(args);
        assert_eq!(finished.code, 0, "{finished}");
        finished.text().trim().to_owned()
    }

    /// `run` on this wall.
    pub fn run(&self, command: &[&str]) -> Finished {
        self.sandbar(&self.run_args(&[], command))
    }

    /// The words of `run` on this wall.
    pub fn run_args<'a>(&self, options: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        [&["run"], self.wall.options().as_slice(), options, &["--"], command].concat()
    }

    /// Makes a sandbox; its id.
    pub fn create(&self, options: &[&str]) -> String {
        let id = self.ok(&[&["create"], self.wall.options().as_slice(), options].concat());
        assert!(id.starts_with("sb-") && id.len() == 15, "{id}");
        id
    }

    /// `exec` of a shell line; its output, trimmed.
    pub fn shell(&self, id: &str, line: &str) -> String {
        self.ok(&["exec", id, "--", "sh", "-c", line])
    }

    /// What is printed with `--json`, read.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let text = self.ok(args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// The same of sandboxes, when nothing of it is in doubt: on a busy machine an agent may be silent for longer than a status waits for it.
    pub fn certain(&self, args: &[&str]) -> serde_json::Value {
        let mut told = serde_json::Value::Null;
        eventually("nothing is in doubt", || {
            told = self.json(args);
            let is_certain = |sandbox: &serde_json::Value| sandbox["in_doubt"] != true;
            told.as_array().map_or_else(|| is_certain(&told), |all| all.iter().all(is_certain))
        });
        told
    }

    /// The ids of all sandboxes.
    pub fn ids(&self) -> Vec<String> {
        self.ok(&["ls", "-q"]).lines().map(ToOwned::to_owned).collect()
    }

    /// Whether a command line is refused because the wall does not claim a feature; the refusal says so, and names one that does.
    pub fn lacks(&self, feature: &str, args: &[&str]) -> bool {
        let tried = self.sandbar(args);
        let lacks = tried.code == 125 && tried.stderr.contains(&format!("does not have {feature}"));
        assert!(lacks || tried.code == 0, "{tried}");
        assert!(!lacks || tried.stderr.contains("hint: "), "{tried}");
        lacks
    }

    /// Gives the wall what it needs there, with this in `sandbar.toml`.
    pub fn furnish(&self, config: &str) {
        if config.is_empty() && self.wall.supplies.is_none() {
            return;
        }
        std::fs::create_dir(self.state()).unwrap();
        std::fs::set_permissions(self.state(), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(self.state().join("sandbar.toml"), config).unwrap();
        self.wall.hand_over(&self.state());
        self.wall.furnish(self, config);
    }

    /// Ends what the test made, and shows that nothing is left of it.
    pub fn close(self) {
        self.clear();
        assert_nothing_left(&self);
    }

    fn clear(&self) {
        let ids = self.ids();
        if !ids.is_empty() {
            let args: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.iter().map(String::as_str)).collect();
            let removed = self.sandbar(&args);
            assert_eq!(removed.code, 0, "{removed}");
        }
        eventually("all sandboxes are gone", || self.ids().is_empty());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A test that failed must not leave processes behind either; what else is left is told by the next one's search.
            let listed = self.command(&["ls", "-q"]).output();
            for id in listed.map(|listed| String::from_utf8_lossy(&listed.stdout).into_owned()).unwrap_or_default().lines() {
                let _ = self.command(&["rm", "-f", id]).output();
            }
            if std::env::var_os("SANDBAR_TEST_KEEP").is_some() {
                self.folder.disable_cleanup(true);
            }
        }
    }
}
