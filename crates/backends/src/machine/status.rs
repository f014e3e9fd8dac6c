use std::{sync::Arc, time::Duration};

use sandbar_core::{Result, SandboxStats, SandboxStatus, State};
use sandbar_protocol::{Usage, UsageReport, reply::Answer, request::Operation};

use super::{
    Backend, Facts,
    client::{Call, Patience},
    live::{Running, Shared},
};

/// How long an agent that the host sees alive has for its answer. A status is told within about two seconds.
const PATIENCE: Duration = Duration::from_millis(1800);

/// The state, by the host's facts and the agent's answer.
pub(super) async fn status<B: Backend>(shared: &Arc<Shared<B>>) -> SandboxStatus {
    let Some(running) = Running::of(shared.current()) else { return SandboxStatus { state: State::Stopped, reason: None, certain: true } };
    let call = Call { shared: Arc::clone(shared), running, verb: "status" };
    if let Some(known) = by_facts(&call) {
        return known;
    }
    match call.ping(PATIENCE).await {
        Ok(_) => SandboxStatus { state: State::Running, reason: None, certain: true },
        // The facts may have changed while it did not answer.
        Err(error) => by_facts(&call).unwrap_or_else(|| SandboxStatus {
            state: State::Crashed,
            reason: Some(format!("the agent does not answer: {}", error.message())),
            certain: false,
        }),
    }
}

fn by_facts<B: Backend>(call: &Call<B>) -> Option<SandboxStatus> {
    match call.shared.facts(&call.running) {
        Facts::Gone(reason) => Some(SandboxStatus { state: State::Crashed, reason: Some(reason), certain: true }),
        Facts::Frozen => Some(SandboxStatus { state: State::Paused, reason: None, certain: true }),
        Facts::Alive => None,
    }
}

/// Usage by the host's facts, and the agent's claims for what the host cannot see.
pub(super) async fn stats<B: Backend>(call: Call<B>) -> Result<SandboxStats> {
    let folder = call.shared.folder_of(call.running.current());
    let mut stats = call.shared.backend.usage(call.running.place(), &folder).await?;
    let complete = stats.memory_bytes.is_some() && stats.cpu_micros.is_some() && stats.pids.is_some();
    if complete || call.shared.facts(&call.running) != Facts::Alive {
        return Ok(stats);
    }
    let (_, answer) = call.ask(Operation::Usage(Usage {}), Patience::Quick).await?;
    let Answer::Usage(UsageReport { memory_bytes, cpu_micros, pids }) = answer else { return Err(call.unexpected()) };
    stats.memory_bytes = stats.memory_bytes.or(Some(memory_bytes));
    stats.cpu_micros = stats.cpu_micros.or(Some(cpu_micros));
    stats.pids = stats.pids.or(Some(pids));
    Ok(stats)
}
