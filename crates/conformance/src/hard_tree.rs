//! A tree with everything that a layer can hold, made by a program inside a sandbox, and told line by line: what a checkpoint must bring
//! through, wherever it is put back.

use sandbar_core::{
    ExecRequest,
    Feature::{DiskCheckpoint, Fork},
    SandboxSpec,
};

use crate::{
    Context, Failure,
    Reach::{OwnRoot, RealFiles, Shell},
    Sandbox,
    failure::ensure,
    suite::cases,
};

/// The program, for the Python that is the sandbox's own: `below`, `above` or `look`, and a folder.
pub const PROGRAM: &str = include_str!("hard_tree.py");

const PYTHON: &str = "/usr/bin/python3";
const FOLDER: &str = "hard tree";

cases! { "hard_tree";
    a_fork_has_all_of_it [.needs(&[DiskCheckpoint, Fork]).reach(&[Shell, OwnRoot, RealFiles])],
}

/// Runs the program inside; what it says.
async fn run(sandbox: &Sandbox, verb: &str) -> Result<String, Failure> {
    let result = sandbox.exec(ExecRequest::argv([PYTHON, "-I", "-S", "-c", PROGRAM, verb, FOLDER])).await?;
    ensure!(result.status.success(), "{verb}: {}", result.stderr_text());
    Ok(result.stdout_text())
}

async fn a_fork_has_all_of_it(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    if !sandbox.has(PYTHON).await? {
        return Err(Failure::Ignored(format!("{PYTHON} is not inside")));
    }
    sandbox.make_dir(FOLDER, false, None).await?;
    run(&sandbox, "below").await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    let changed = context.fork(&sandbox, &layer, SandboxSpec::default()).await?;
    run(&changed, "above").await?;
    let before = run(&changed, "look").await?;
    let (layer, _) = context.checkpoint(&changed).await?;
    let fork = context.fork(&changed, &layer, SandboxSpec::default()).await?;
    let after = run(&fork, "look").await?;
    let missing: Vec<&str> = before.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
    let new: Vec<&str> = after.lines().filter(|line| !before.lines().any(|other| other == *line)).collect();
    ensure!(missing.is_empty() && new.is_empty(), "before: {missing:#?}\nin the fork: {new:#?}");
    Ok(())
}
