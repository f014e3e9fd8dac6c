use super::canary::{Canary, attack_by, attack_kernel, prey};
use crate::{Context, Failure, suite::cases};
use sandbar_core::{ExecRequest, PtySize};

cases! { "kernel";
    forbidden_system_calls_are_refused_by_the_filter,
    keyrings_are_out_of_reach,
    its_files_are_not_written_and_tell_nothing,
    a_terminals_input_is_not_faked,
}

async fn forbidden_system_calls_are_refused_by_the_filter(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    attack_kernel(context, &sandbox, &["syscalls"], &[""]).await?;
    canary.is_untouched()
}

async fn keyrings_are_out_of_reach(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    attack_kernel(context, &sandbox, &["keyring"], &[""]).await?;
    Ok(())
}

async fn its_files_are_not_written_and_tell_nothing(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    attack_kernel(context, &sandbox, &["kernel-files"], &[""]).await?;
    canary.is_untouched()
}

async fn a_terminals_input_is_not_faked(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    let request = ExecRequest::argv(["./guest", "attack", "terminal"]).with_pty(PtySize { rows: 24, columns: 200 });
    attack_by(&sandbox, request).await?;
    Ok(())
}
