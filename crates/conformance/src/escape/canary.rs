use std::{
    fs::{self, Permissions},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use sandbar_core::{ExecRequest, SandboxSpec};
use tokio::time::timeout;

use crate::{
    Context, Failure, Reach, Sandbox,
    failure::{ensure, ensure_eq},
    sandbox::{noise, slowness},
};

/// Settings of the host that a sandbox must not change.
const SETTINGS: [&str; 4] =
    ["/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/sysrq"];
/// The longest that one attack may take, where the subject has no more patience.
const LONGEST: Duration = Duration::from_secs(50);

/// Something of the host that must stay as it is: a file that others may read and write, a process, settings.
pub(super) struct Canary {
    /// A folder of the host, open to everybody, with one file in it.
    pub(super) folder: PathBuf,
    /// What the file holds.
    pub(super) secret: String,
    /// A process of the host, of the user that runs the tests.
    pub(super) bystander: Child,
    settings: Vec<Option<String>>,
}

impl Canary {
    pub(super) fn new(context: &Context) -> Result<Self, Failure> {
        let folder = context.host_folder("canary")?;
        let mut seed = [0; 8];
        fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
        let secret = hex::encode(noise(16, u64::from_le_bytes(seed)));
        fs::write(folder.join("file"), &secret)?;
        // As open as can be: nothing but the wall protects it.
        fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
        fs::set_permissions(folder.join("file"), Permissions::from_mode(0o666))?;
        let bystander = Command::new("sleep").arg("100000").stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Self { folder, secret, bystander, settings: settings() })
    }

    /// The file's path.
    pub(super) fn file(&self) -> String {
        self.folder.join("file").display().to_string()
    }

    /// Looks whether all is as it was.
    pub(super) fn is_untouched(&mut self) -> Result<(), Failure> {
        ensure_eq!(fs::read_to_string(self.folder.join("file"))?, self.secret, "the host's file");
        let names: Vec<_> = fs::read_dir(&self.folder)?.flatten().map(|entry| entry.file_name()).collect();
        ensure_eq!(names, ["file"], "entries of the host's folder");
        ensure_eq!(fs::metadata(&self.folder)?.permissions().mode() & 0o7777, 0o777, "the mode of the host's folder");
        ensure!(self.bystander.try_wait()?.is_none(), "the host's process was ended");
        ensure_eq!(settings(), self.settings, "settings of the host");
        Ok(())
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = self.bystander.kill();
        let _ = self.bystander.wait();
    }
}

fn settings() -> Vec<Option<String>> {
    SETTINGS.iter().map(|path| fs::read_to_string(path).ok()).collect()
}

/// A sandbox with the guest program in it.
pub(super) async fn prey(context: &Context) -> Result<Sandbox, Failure> {
    prey_with(context, SandboxSpec::default()).await
}

/// The same of a specification.
pub(super) async fn prey_with(context: &Context, spec: SandboxSpec) -> Result<Sandbox, Failure> {
    let sandbox = context.sandbox_with(spec).await?;
    sandbox.put_guest().await?;
    Ok(sandbox)
}

/// Runs an attack and reports every attempt of it that was not refused.
pub(super) async fn attack(sandbox: &Sandbox, words: &[&str]) -> Result<String, Failure> {
    let argv = ["./guest", "attack"].iter().chain(words).copied();
    attack_by(sandbox, ExecRequest::argv(argv)).await
}

/// The same with a request of its own.
pub(super) async fn attack_by(sandbox: &Sandbox, request: ExecRequest) -> Result<String, Failure> {
    judged(sandbox, request, &[]).await
}

/// The same where some attempts are made at the kernel. Those whose names begin with one of `own` may succeed where that is the sandbox's own, which
/// then does as it likes with what is the sandbox's; the host must be untouched all the same.
pub(super) async fn attack_kernel(context: &Context, sandbox: &Sandbox, words: &[&str], own: &[&str]) -> Result<String, Failure> {
    let argv = ["./guest", "attack"].iter().chain(words).copied();
    let own = if context.subject().reach.contains(&Reach::SharedKernel) { &[] } else { own };
    judged(sandbox, ExecRequest::argv(argv), own).await
}

async fn judged(sandbox: &Sandbox, request: ExecRequest, own: &[&str]) -> Result<String, Failure> {
    let result = timeout(LONGEST * slowness(), sandbox.exec(request)).await??;
    let text = result.stdout_text();
    let (owned, breaches): (Vec<&str>, Vec<&str>) = text
        .lines()
        .filter(|line| line.starts_with("BREACH"))
        .partition(|line| line.strip_prefix("BREACH ").is_some_and(|attempt| own.iter().any(|name| attempt.starts_with(name))));
    let shown = breaches.get(..12).unwrap_or(&breaches).join("\n");
    ensure!(breaches.is_empty(), "{} attempts were not refused:\n{shown}", breaches.len());
    let refused = text.lines().filter(|line| line.starts_with("refused")).count();
    ensure!(refused > 0, "nothing was tried: {} {text}{}", result.status, result.stderr_text());
    let expected = i32::from(!owned.is_empty());
    ensure!(result.status.code == Some(expected), "the attack ended with {}: {text}{}", result.status, result.stderr_text());
    Ok(text)
}
