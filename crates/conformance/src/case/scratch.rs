use crate::{Context, Failure, suite::cases};
cases! { "scratch"; run, }
async fn run(context: &Context) -> Result<(), Failure> {
    let Ok(line) = std::fs::read_to_string("/tmp/scratch.sh") else { return Ok(()) };
    let limits = sandbar_core::Limits { pids: std::env::var("PIDS").ok().and_then(|x| x.parse().ok()), ..Default::default() };
    let sandbox = context.sandbox_with(sandbar_core::SandboxSpec { limits, ..Default::default() }).await?;
    sandbox.put_guest().await?;
    let r = sandbox.shell(&line).await?;
    Err(Failure::new(format!("{}\n{}\n{}\n{:?}", r.status, r.stdout_text(), r.stderr_text(), sandbox.limits())))
}
