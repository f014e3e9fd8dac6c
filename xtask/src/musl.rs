//! The command as a program that is linked statically, with musl: it runs on any Linux of this architecture, so `ssh://` can put it onto any.

use std::env::consts::ARCH;

use xshell::{Shell, cmd};

use crate::{
    outcome::{Failure, say},
    setup::is_installed,
};

/// Apart, since its third-party crates are built for another target.
const FOLDER: &str = "target/static";
/// The compiler of what is written in C, which the crate `cc` finds by itself.
const PACKAGE: &str = "musl-tools";

/// Builds it, and runs it where nothing else is.
pub fn run(shell: &Shell) -> Result<(), Failure> {
    let target = format!("{ARCH}-unknown-linux-musl");
    fetch(shell, &target)?;
    let build = cmd!(shell, "cargo build --locked --package sandbar --bin sandbar --release --target {target} --target-dir {FOLDER}");
    build.run()?;
    let program = shell.current_dir().join(FOLDER).join(target).join("release/sandbar").canonicalize()?;
    let alone = shell.create_temp_dir()?;
    shell.copy_file(&program, alone.path())?;
    let root = alone.path();
    let said = cmd!(shell, "unshare --map-root-user --root {root} /sandbar version").quiet().read()?;
    say(&format!("{}: {said}, in a folder without a C library", program.display()));
    say(&format!("for ssh://: export SANDBAR_SSH_PROGRAM={}", program.display()));
    Ok(())
}

/// Installs what builds it, unless it is there.
fn fetch(shell: &Shell, target: &str) -> Result<(), Failure> {
    let libraries = cmd!(shell, "rustc --print target-libdir --target {target}").quiet().read()?;
    if !shell.path_exists(libraries) {
        cmd!(shell, "rustup target add {target}").run()?;
    }
    if !is_installed(shell, PACKAGE) {
        say(&format!("installing: {PACKAGE}"));
        cmd!(shell, "apt-get install -yq --no-install-recommends {PACKAGE}")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .quiet()
            .ignore_stdout()
            .run()?;
    }
    Ok(())
}
