//! The client for macOS: checked here as far as a compiler reaches. What is to be run there is compiled for there, with the system's own headers for what is
//! written in C; nothing is linked, and nothing runs.
//!
//! The standard library for another system is built from its source, which must be of the compiler's own version. Debian 12 has such a pair, as
//! `rustc-web` and `rust-web-src`; the headers are those of the Zig project.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use xshell::{Shell, cmd};

use crate::{
    outcome::{Failure, say},
    setup::is_installed,
};

const FOLDER: &str = "target/macos";
const TARGET: &str = "aarch64-apple-darwin";
/// What Zig calls it.
const ZIG_TARGET: &str = "aarch64-macos";
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const ZIG: &str = "ziglang==0.17.1";

/// Installs what the check needs, unless it is there.
pub fn fetch(shell: &Shell) -> Result<(), Failure> {
    let missing: Vec<_> = PACKAGES.into_iter().filter(|package| !is_installed(shell, package)).collect();
    if !missing.is_empty() {
        say(&format!("installing: {}", missing.join(" ")));
        cmd!(shell, "apt-get install -yq --no-install-recommends --no-remove {missing...}")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .quiet()
            .ignore_stdout()
            .run()?;
    }
    if !shell.path_exists(zig(shell)) {
        say(&format!("fetching {ZIG}"));
        let folder = shell.current_dir().join(FOLDER).join("zig");
        cmd!(
            shell,
            "python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: --upgrade --target {folder} {ZIG}"
        )
        .quiet()
        .run()?;
    }
    Ok(())
}

fn zig(shell: &Shell) -> PathBuf {
    shell.current_dir().join(FOLDER).join("zig/ziglang/zig")
}

/// Checks it, behind whatever else is to be done: the tests run beside it. What the compiler says is told at once at the end.
pub fn run(shell: &Shell) -> Result<(), Failure> {
    fetch(shell)?;
    let folder = shell.current_dir().join(FOLDER);
    let compiler = Path::new("/usr/bin");
    let mut check = Command::new("chrt");
    check
        .args(["--idle", "0"])
        .arg(compiler.join("cargo"))
        .args(["check", "--package=sandbar", "--target", TARGET, "-Zbuild-std=std,panic_abort", "--quiet"])
        .current_dir(shell.current_dir());
    // Its nightly features are needed to build the standard library. What an outer cargo says of its own tools is not for this one.
    check.env("RUSTC", compiler.join("rustc")).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    check.env("CARGO_TARGET_DIR", folder.join("build")).env("CARGO_INCREMENTAL", "0");
    check.args(["-Zwarnings", "--config=build.warnings='deny'"]);
    let names = TARGET.replace('-', "_");
    check.env(format!("CC_{names}"), script(shell, &zig(shell), "cc", COMPILE)?);
    check.env(format!("AR_{names}"), script(shell, &zig(shell), "ar", "exec \"$zig\" ar \"$@\"\n")?);
    for cache in ["ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"] {
        check.env(cache, folder.join("cache"));
    }
    let checked = check.output()?;
    say(&String::from_utf8_lossy(&checked.stderr));
    if checked.status.success() { Ok(()) } else { Err(Failure::new(format!("the client does not compile for {TARGET}"))) }
}

/// Zig's C compiler has its own words for what the crate `cc` says of the target.
const COMPILE: &str = r#"for word; do
    shift
    case "$previous $word" in
        "-arch "*|*" -arch"|*" --target="*|*" -mmacosx-version-min="*) ;;
        *) set -- "$@" "$word" ;;
    esac
    previous=$word
done
exec "$zig" cc -target "$target" "$@"
"#;

fn script(shell: &Shell, zig: &Path, name: &str, body: &str) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let path = shell.current_dir().join(FOLDER).join(name);
    let text = format!("#!/bin/sh\nzig='{}'\ntarget={ZIG_TARGET}\n{body}", zig.display());
    shell.write_file(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
