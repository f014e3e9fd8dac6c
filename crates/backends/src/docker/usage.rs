//! What a sandbox uses, as the engine counts.

use bollard::{models::ContainerStatsResponse, query_parameters::StatsOptions};
use futures_util::StreamExt;
use sandbar_core::{Isolation, Result, SandboxStats};

use super::{
    engine::{Engine, QUICK},
    image::blocking,
    layer, object,
    place::Place,
};

/// Asks the engine once. What it does not count is left to the agent.
///
/// # Errors
/// Those of the engine.
pub(super) async fn usage(engine: &Engine, place: &Place) -> Result<SandboxStats> {
    let asked = place.name.clone();
    let counted = engine.ask("count what a container uses", QUICK, |client| async move {
        let options = StatsOptions { stream: false, one_shot: true };
        std::pin::pin!(client.stats(&asked, Some(options))).next().await.transpose()
    });
    let counted = counted.await?;
    let upper = object::upper(engine, &place.name).await.ok();
    let disk = match upper {
        Some(upper) => blocking(move || layer::occupied(&upper)).await.ok(),
        None => None,
    };
    let limit = |name: &str| place.limits.iter().find(|report| report.limit == name).and_then(|report| report.value);
    let stats =
        SandboxStats { memory_limit_bytes: limit("memory"), disk_bytes: disk, disk_limit_bytes: limit("disk"), ..SandboxStats::default() };
    let counted = counted.map_or(stats, |counted| with_counted(stats, &counted));
    // The group of a kernel in user space holds that kernel's own threads.
    let pids = counted.pids.filter(|_| place.isolation != Isolation::UserKernel);
    Ok(SandboxStats { pids, ..counted })
}

fn with_counted(stats: SandboxStats, counted: &ContainerStatsResponse) -> SandboxStats {
    // A runtime that does not count says zero.
    let positive = |number: Option<u64>| number.filter(|number| *number > 0);
    SandboxStats {
        memory_bytes: positive(counted.memory_stats.as_ref().and_then(|memory| memory.usage)),
        cpu_micros: positive(counted.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage)).map(|nanos| nanos / 1000),
        pids: positive(counted.pids_stats.as_ref().and_then(|pids| pids.current)),
        ..stats
    }
}
