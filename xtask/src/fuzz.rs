use xshell::{Shell, cmd};

use crate::outcome::{Failure, Step, all};

/// libFuzzer's coverage counters with the stable compiler: these are LLVM's passes, no nightly flag is among them.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1";

/// Runs one target, or all, for a bounded time each. New inputs stay in `target/fuzz-corpus`; a crash is written to `target/fuzz-crashes`.
pub fn run(shell: &Shell, target: Option<&str>, seconds: u32) -> Result<(), Failure> {
    let host = cmd!(shell, "rustc -vV").read()?;
    let triple = host.lines().find_map(|line| line.strip_prefix("host: ")).ok_or_else(|| Failure::new("rustc names no host"))?.to_owned();
    // An explicit target keeps the coverage flags away from build scripts.
    cmd!(shell, "cargo build --release --manifest-path fuzz/Cargo.toml --target {triple} --target-dir target/fuzz")
        .env("RUSTFLAGS", COVERAGE)
        .run()?;
    let mut targets = Vec::new();
    for path in shell.read_dir("fuzz/fuzz_targets")? {
        targets.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    if let Some(only) = target {
        if !targets.iter().any(|known| known == only) {
            return Err(Failure::new(format!("no fuzz target {only:?}; there are: {}", targets.join(", "))));
        }
        targets.retain(|known| known == only);
    }
    shell.create_dir("target/fuzz-crashes")?;
    let mut steps: Vec<Step<'_>> = Vec::new();
    for name in &targets {
        let (program, corpus) = (format!("target/fuzz/{triple}/release/{name}"), format!("target/fuzz-corpus/{name}"));
        let time = format!("-max_total_time={seconds}");
        steps.push((
            name,
            Box::new(move || {
                shell.create_dir(&corpus)?;
                cmd!(
                    shell,
                    "{program} {time} -max_len=65536 -rss_limit_mb=1024 -timeout=10 -artifact_prefix=target/fuzz-crashes/ -verbosity=0 -print_final_stats=1 {corpus}"
                )
                .run()?;
                Ok(())
            }),
        ));
    }
    all(steps)
}
