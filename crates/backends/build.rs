//! Builds the agent as a static program and hands its path and digest to `machine/agent.rs`, which embeds it.
//!
//! A nested cargo does it, in a target folder of its own that all profiles share, because the agent has its own profile, its own
//! code generation flags and must be static whatever the outer build is.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

/// What the agent is built from, relative to the workspace.
const SOURCES: [&str; 8] = [
    "crates/agent/src",
    "crates/agent/Cargo.toml",
    "crates/protocol/src",
    "crates/protocol/Cargo.toml",
    "crates/relay/src",
    "crates/relay/Cargo.toml",
    "crates/tree/src",
    "crates/tree/Cargo.toml",
];

/// A program to embed instead of building one: for packagers, and for cross builds whose linker cargo does not know.
const PREBUILT: &str = "SANDBAR_AGENT_BINARY";

fn main() -> Result<(), Box<dyn Error>> {
    say("rerun-if-changed", "build.rs");
    // There are no walls elsewhere, and so nothing to put behind them.
    if variable("CARGO_CFG_TARGET_OS")? != "linux" {
        return Ok(());
    }
    let workspace = Path::new(&variable("CARGO_MANIFEST_DIR")?).ancestors().nth(2).ok_or("no workspace above the crate")?.to_owned();
    for source in SOURCES.iter().copied().chain(["Cargo.lock", "Cargo.toml", "rust-toolchain.toml"]) {
        say("rerun-if-changed", workspace.join(source).display());
    }
    say("rerun-if-env-changed", PREBUILT);

    let built = match env::var_os(PREBUILT) {
        Some(path) => {
            say("rerun-if-changed", Path::new(&path).display());
            PathBuf::from(path)
        }
        None => build(&workspace)?,
    };
    let program = fs::read(&built).map_err(|error| format!("{}: {error}", built.display()))?;
    let digest = hex::encode(Sha256::digest(&program));
    // A copy of our own: another build may replace the shared one while the compiler reads it.
    let embedded = Path::new(&variable("OUT_DIR")?).join("sandbar-agent");
    if fs::read(&embedded).ok().as_ref() != Some(&program) {
        fs::write(&embedded, &program)?;
    }
    say("rustc-env=SANDBAR_AGENT_PATH", embedded.display());
    say("rustc-env=SANDBAR_AGENT_DIGEST", digest);
    Ok(())
}

fn say(key: &str, value: impl std::fmt::Display) {
    println!("cargo:{key}={value}");
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set"))
}

fn build(workspace: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let target = variable("TARGET")?;
    let folder = target_folder(workspace)?.join("agent-build");
    let mut cargo = Command::new(variable("CARGO")?);
    // The lock file covers the whole workspace, so the outer cargo has brought it up to date already if it was allowed to.
    cargo.current_dir(workspace).args(["build", "--locked", "--package", "sandbar-agent", "--bin", "sandbar-agent", "--profile", "agent"]);
    cargo.arg("--target").arg(&target).arg("--target-dir").arg(&folder);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_the_outer_build) {
            cargo.env_remove(name);
        }
    }
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    let status = cargo.status().map_err(|error| format!("cannot run cargo for the agent: {error}"))?;
    if !status.success() {
        return Err(format!("building the agent failed ({status}); its messages are above").into());
    }
    Ok(folder.join(target).join("agent").join("sandbar-agent"))
}

/// The target folder of the outer build, so that the agent is built once for all of its profiles.
fn target_folder(workspace: &Path) -> Result<PathBuf, String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let told = env::var_os("CARGO_TARGET_DIR").map(|folder| workspace.join(folder));
    // Cargo marks the folder it made; `target/PROFILE/build/PACKAGE/out` is the usual depth.
    let marked = || out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).map(Path::to_owned);
    told.or_else(marked).or_else(|| out.ancestors().nth(4).map(Path::to_owned)).ok_or_else(|| "no target folder above OUT_DIR".to_owned())
}

/// Whether a variable describes this package, this build or a tool that wraps its compiler (clippy, coverage), and would mislead the
/// nested cargo. Registries, proxies, linkers and the jobserver stay.
fn belongs_to_the_outer_build(name: &str) -> bool {
    const PREFIXES: [&str; 7] = ["CARGO_PKG_", "CARGO_CFG_", "CARGO_FEATURE_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_UNSTABLE_", "DEP_"];
    const NAMES: [&str; 25] = [
        "CARGO",
        "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_RUSTC_WRAPPER",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_CRATE_NAME",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_PRIMARY_PACKAGE",
        "CARGO_TARGET_DIR",
        "CLIPPY_ARGS",
        "CLIPPY_CONF_DIR",
        "DEBUG",
        "HOST",
        "LLVM_PROFILE_FILE",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
        "TARGET",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
