use sandbar_core::CheckpointKind;

use super::{
    Setting,
    life::{self, Wall},
    sandbox::Stage,
};
use crate::{
    Result,
    peer::{answers, runc::Runc, runsc::Runsc},
    table,
};

/// gVisor: the same things by `runsc` alone.
pub async fn run(setting: &Setting, stage: &Stage) -> Result {
    table::heading("gvisor, beside `runsc` alone; checkpoints hold memory");
    if !answers("runsc", &["--version"]).await || !Runc::is_here().await {
        table::paragraph("runsc (or runc, which writes its bundle) is not installed.");
        return Ok(());
    }
    let wall = Wall { provider: "gvisor", image: None, kind: CheckpointKind::Memory };
    life::run(setting, stage, &wall, &Runsc::new()?).await
}
