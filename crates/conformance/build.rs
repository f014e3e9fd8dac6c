//! Compiles the guest program statically, with the standard library alone, so that it runs in any image of this architecture.

use std::{env, error::Error, path::PathBuf, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=guest");
    let output = PathBuf::from(env::var("OUT_DIR")?).join("guest");
    let status = Command::new(env::var("RUSTC")?)
        .args(["--edition", "2024", "--crate-name", "guest", "--crate-type", "bin", "--cap-lints", "allow"])
        .args(["--target", &env::var("TARGET")?, "-C", "target-feature=+crt-static", "-C", "opt-level=2", "-C", "panic=abort"])
        .args(["-C", "strip=symbols", "guest/main.rs", "-o"])
        .arg(&output)
        .status()?;
    if !status.success() {
        return Err(format!("the guest program does not compile: {status}").into());
    }
    println!("cargo::rustc-env=SANDBAR_GUEST_PROGRAM={}", output.display());
    Ok(())
}
