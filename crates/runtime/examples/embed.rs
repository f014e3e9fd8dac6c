//! A program that embeds sandbar: one container, one command, one file, gone.

use sandbar_core::{ExecRequest, PutOptions};
use sandbar_runtime::{CreateRequest, Runtime, RuntimeConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::open(RuntimeConfig::from_env()?).await?;
    let sandbox = runtime.create(CreateRequest::default()).await?;

    sandbox.put_file("/tmp/job.py", PutOptions::default(), &mut &b"print(6*7)"[..]).await?;
    let result = sandbox.exec(ExecRequest::argv(["python3", "/tmp/job.py"])).await?;
    assert_eq!(result.stdout_text().trim(), "42", "{}", result.stderr_text());

    sandbox.destroy().await?;
    Ok(())
}
