//! This program again, as another process: one that has another user, a small disk, or is killed.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use sandbar_runtime::image::ImageStore;

use crate::store::{block, silent};

const VARIABLE: &str = "SANDBAR_IMAGE_CHILD";

/// If this is such a child: does what it is told (`import HOME SOURCE`, `pull HOME REFERENCE`), prints the image's id or the
/// error's kind, and tells its exit status.
pub(crate) fn run() -> Option<ExitCode> {
    let task = env::var(VARIABLE).ok()?;
    let words: Vec<_> = task.split('\n').collect();
    let store = ImageStore::open(Path::new(words[1])).unwrap();
    let done = match words[0] {
        "import" => block(store.import(Path::new(words[2]), Some("child"))),
        "pull" => block(store.pull(words[2], silent())),
        other => panic!("{other}"),
    };
    Some(match done {
        Ok(image) => {
            println!("{}", image.id);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", error.kind());
            eprintln!("{}", error.chain());
            ExitCode::FAILURE
        }
    })
}

/// Such a child, not started yet, behind a wrapper's words (`setpriv …`).
pub(crate) fn command(wrapper: &[&str], task: [&str; 3]) -> Command {
    // Where another user finds it, too.
    let program = Path::new("/proc/self/exe");
    let program = fs::canonicalize(program).unwrap();
    let mut command = match wrapper {
        [] => Command::new(&program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&program);
            command
        }
    };
    command.env(VARIABLE, task.join("\n")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

/// Runs such a child to its end: what it printed, without the line end.
pub(crate) fn output(wrapper: &[&str], task: [&str; 3]) -> String {
    let output = command(wrapper, task).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A wrapper that gives a child a disk of its own of this many MiB at `folder`; as a plain user in a user namespace.
/// The mount lives in the child's mount namespace and goes with it.
pub(crate) fn with_disk(folder: &Path, mebibytes: u32) -> Vec<String> {
    let namespaces = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let script = format!(
        "mount -t tmpfs -o size={mebibytes}m none '{}' && \"$@\"; status=$?; \
        find '{0}/images' -mindepth 2 -maxdepth 2 ! -path '*/host/*' ! -path '*/blobs/*'; exit $status",
        folder.display()
    );
    ["unshare", namespaces, "--propagation", "private", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

/// Whether namespaces can be made here; the reason if not.
pub(crate) fn no_disk() -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let wrapper = with_disk(folder.path(), 1);
    let done = Command::new(&wrapper[0]).args(&wrapper[1..]).arg("true").stderr(Stdio::null()).stdout(Stdio::null()).status();
    // `find` complains about the missing folder; the status is that of `true`.
    (!done.is_ok_and(|status| status.success())).then(|| "no mount namespace with a tmpfs can be made here".to_owned())
}

/// Whether this process can become another user; the reason if not.
pub(crate) fn no_other_user() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "only root can become another user".to_owned())
}

/// Lets everybody use a folder.
pub(crate) fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
}
