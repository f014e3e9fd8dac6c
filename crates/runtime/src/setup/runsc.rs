//! gVisor's `runsc`, new enough, from the distribution: Debian 12 has it in its backports only, whose packages nobody gets unasked.

use std::{fs, path::Path, process::Command};

use sandbar_backends::Distribution;
use sandbar_core::{Context, Error, ErrorKind, Result};

use super::{OPERATION, PackageSource, SetupStep, run};

/// The package, as Debian calls it.
const PACKAGE: &str = "runsc";
/// The release of Debian whose own is too old while its backports' is not; later ones have it themselves.
const BACKPORTED: u32 = 12;

/// The step that gets it here.
///
/// # Errors
/// `Unsupported` where the distribution is not known to have one.
pub(super) fn step() -> Result<SetupStep> {
    plan(&Distribution::here(), PackageSource::of_suite)
}

fn plan(distribution: &Distribution, source_of: impl Fn(&str) -> Option<PackageSource>) -> Result<SetupStep> {
    let unknown = |why: &str| {
        Error::new(ErrorKind::Unsupported, OPERATION, format!("this distribution is not known to have a runsc that is new enough: {why}"))
            .with_hint("get gVisor's own (https://gvisor.dev/docs/user_guide/install), and put it on PATH or name it: RUNSC_PATH")
    };
    if distribution.id != "debian" {
        return Err(unknown("it is no Debian"));
    }
    match (distribution.version.parse::<u32>(), distribution.codename.as_str()) {
        (Ok(release), _) if release < BACKPORTED => Err(unknown("its release is too old")),
        (Ok(BACKPORTED), suite) => {
            let source = source_of(suite).ok_or_else(|| unknown("there is no source of its packages here"))?;
            Ok(SetupStep::Backports { packages: vec![PACKAGE], suite: format!("{suite}-backports"), source })
        }
        // What has no number is the next release.
        _ => Ok(SetupStep::Packages(vec![PACKAGE])),
    }
}

/// The commands that get packages of a suite which is no source of this machine, as a shell would take them.
pub(super) fn describe(packages: &[&str], suite: &str, source: &PackageSource) -> String {
    let key = source.signed_by.as_ref().map(|key| format!("[signed-by={key}] ")).unwrap_or_default();
    let options = PackageSource::options(Path::new("$D/only.list"), Path::new("$D/lists")).join(" ");
    let packages = packages.join(" ");
    format!(
        "D=$(mktemp -d); echo 'deb {key}{} {suite} main' >$D/only.list; apt-get update {options}; \
         apt-get install --yes --no-install-recommends {options} {packages}",
        source.uri
    )
}

/// Gets them; `folder` is for the lists of what there is.
///
/// # Errors
/// `Unavailable` when apt fails.
pub(super) async fn install(folder: &Path, packages: &[&str], suite: &str, source: &PackageSource) -> Result<()> {
    let (file, lists) = (folder.join("only.sources"), folder.join("lists"));
    let made = fs::create_dir_all(lists.join("partial")).and_then(|()| fs::write(&file, source.file_for(suite)));
    made.context(OPERATION, || format!("cannot write into {}", folder.display()))?;
    let options = PackageSource::options(&file, &lists);
    let mut update = Command::new("apt-get");
    // It would become a user who cannot reach a folder of ours.
    update.args(["update", "--quiet", "-o", "APT::Sandbox::User=root"]).args(&options);
    run(update).await?;
    let mut install = Command::new("apt-get");
    install.args(["install", "--quiet", "--yes", "--no-install-recommends", "-o", "APT::Sandbox::User=root"]).args(&options).args(packages);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    run(install).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(suite: &str) -> Option<PackageSource> {
        (suite == "bookworm").then(|| PackageSource { uri: "http://mirror.example/debian".into(), signed_by: Some("/k.gpg".into()) })
    }

    fn of(id: &str, version: &str, codename: &str) -> Result<SetupStep> {
        plan(&Distribution::parse(&format!("ID={id}\nVERSION_ID=\"{version}\"\nVERSION_CODENAME={codename}\n")), source)
    }

    #[test]
    fn where_the_release_has_it_too_old_it_comes_from_its_backports() {
        let step = of("debian", "12", "bookworm").unwrap();
        let shown = step.describe();
        for part in ["deb [signed-by=/k.gpg] http://mirror.example/debian bookworm-backports main", "sourceparts=-", "install", " runsc"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert_eq!(of("debian", "13", "trixie").unwrap(), SetupStep::Packages(vec!["runsc"]));
        assert_eq!(of("debian", "", "sid").unwrap(), SetupStep::Packages(vec!["runsc"]));
    }

    #[test]
    fn where_no_package_is_known_it_is_said_where_to_get_it() {
        for (id, version, codename) in [("ubuntu", "24.04", "noble"), ("debian", "11", "bullseye"), ("debian", "12", "other"), ("", "", "")]
        {
            let error = of(id, version, codename).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("RUNSC_PATH")), "{error}");
        }
    }
}
