use std::fmt;

/// Why a chore failed.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// With a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<xshell::Error> for Failure {
    fn from(error: xshell::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Tells the person at the terminal; standard output belongs to the programs that a chore runs.
#[expect(clippy::print_stderr, reason = "the one place where chores talk")]
pub fn say(line: &str) {
    eprintln!("{line}");
}

/// A named part of a chore.
pub type Step<'a> = (&'a str, Box<dyn FnOnce() -> Result<(), Failure> + 'a>);
/// One that may be taken on another thread.
pub type Elsewhere = (&'static str, Box<dyn FnOnce() -> Result<(), Failure> + Send>);

/// Runs every step, whatever the others did, and reports all failures at the end.
pub fn all(steps: Vec<Step<'_>>) -> Result<(), Failure> {
    let mut failed = Vec::new();
    for (name, step) in steps {
        say(&format!("==> {name}"));
        if let Err(failure) = step() {
            say(&format!("==> {name} FAILED: {failure}"));
            failed.push(format!("{name}: {failure}"));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(format!("failed: {}", failed.join("; ")))) }
}
