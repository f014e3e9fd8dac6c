use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sandbar_core::Limits;

use super::{Setting, sandbox::Stage};
use crate::{Result, peer::bwrap, table};

/// Create + first exec + destroy, 1 to 64 at a time.
pub async fn run(setting: &Setting, stage: &Arc<Stage>) -> Result {
    table::heading("create + first exec + destroy, several at a time: completed per second");
    let total = setting.samples.max(64) * 2;
    let has_bwrap = bwrap::is_here().await;
    let mut rows = Vec::new();
    for width in [1, 4, 16, 64] {
        let ours = rate(width, total, {
            let stage = Arc::clone(stage);
            move || {
                let stage = Arc::clone(&stage);
                async move { stage.cycle(Limits::default()).await.map_err(|error| error.to_string()) }
            }
        })
        .await?;
        let theirs = if has_bwrap {
            Some(rate(width, total, || async { bwrap::once().await.map_err(|error| error.to_string()) }).await?)
        } else {
            None
        };
        rows.push(vec![
            width.to_string(),
            format!("{ours:.0}"),
            theirs.map_or("–".into(), |theirs| format!("{theirs:.0}")),
            theirs.map_or("–".into(), |theirs| format!("{:.2}", ours / theirs)),
        ]);
    }
    table::rows(&["at a time", "sandbar, library /s", "`bwrap` /s", "ratio"], &rows);
    Ok(())
}

async fn rate<F, W>(width: usize, total: usize, work: W) -> Result<f64>
where
    W: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = std::result::Result<(), String>> + Send,
{
    let (work, left) = (Arc::new(work), Arc::new(AtomicUsize::new(total)));
    let begin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..width {
        let (work, left) = (Arc::clone(&work), Arc::clone(&left));
        tasks.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                work().await?;
            }
            Ok::<(), String>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(total as f64 / begin.elapsed().max(Duration::from_micros(1)).as_secs_f64())
}
