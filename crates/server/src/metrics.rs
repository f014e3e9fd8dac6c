use std::{sync::atomic::AtomicU64, time::Duration};

use axum::{
    http::{Method, StatusCode, header},
    response::IntoResponse,
};
use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        prometheus_text::{CONTENT_TYPE, encode},
    },
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use sandbar_core::{Error, ErrorKind, Result, SandboxStats, State};
use sandbar_runtime::{Runtime, Sandbox, SandboxSummary};
use serde::Deserialize;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use utoipa::IntoParams;

use crate::{
    caller::{May, Read},
    extract::Query,
    problem::{Answer, Problem},
};

/// What asking all sandboxes may take. Who asks for metrics usually waits for ten seconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// Sandboxes that are asked at once.
const AT_ONCE: usize = 32;
/// Seconds that a request may take, at the bounds of the histogram: from a listing to a machine that is emulated.
const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0, 120.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: &'static str,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    provider: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Which {
    sandbox: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    sandbox: String,
    decision: &'static str,
}

/// What a server counts.
pub(crate) struct Metrics {
    registry: Registry,
    answered: Family<Answered, Counter>,
    took: Family<Asked, Histogram, fn() -> Histogram>,
    commands: Gauge,
}

/// A command whose output a client waits for.
pub(crate) struct Attended(Gauge);

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("sandbar");
        let answered = Family::<Answered, Counter>::default();
        registry.register("http_requests", "Requests that were answered", answered.clone());
        let took = Family::<Asked, Histogram, fn() -> Histogram>::new_with_constructor(|| Histogram::new(BOUNDS));
        registry.register_with_unit("http_request_duration", "Time until the head of the answer", Unit::Seconds, took.clone());
        let commands = Gauge::default();
        registry.register("commands_attended", "Commands whose output clients of this server wait for", commands.clone());
        Self { registry, answered, took, commands }
    }

    /// A request was answered.
    pub(crate) fn answered(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        // A client may make methods up.
        let method = match method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "POST" => "POST",
            "PUT" => "PUT",
            "DELETE" => "DELETE",
            _ => "other",
        };
        self.answered.get_or_create(&Answered { method, route: route.to_owned(), status: status.as_u16() }).inc();
        self.took.get_or_create(&Asked { method, route: route.to_owned() }).observe(took.as_secs_f64());
    }

    /// A client waits for a command's output, until this is dropped.
    pub(crate) fn attended(&self) -> Attended {
        self.commands.inc();
        Attended(self.commands.clone())
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Whether there are numbers of each sandbox too; otherwise they are counted alone.
    #[serde(default = "yes")]
    sandboxes: bool,
}

const fn yes() -> bool {
    true
}

/// Tell what is counted and measured, for Prometheus
///
/// In its text format. Sandboxes are those that the caller sees; what the server itself has counted is for the token and keys with the scope admin. Sandboxes are asked when this is asked for, for five seconds at
/// most; those that have not answered then, or whose state is in doubt, are counted in `sandbar_sandboxes_unanswered`.
#[utoipa::path(get, path = "/metrics", tag = "host", operation_id = "metrics", params(Wanted),
    responses((status = 200, body = String, content_type = "text/plain"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn scrape(app: May<Read>, Query(wanted): Query<Wanted>) -> Answer<impl IntoResponse> {
    let mut text = String::new();
    let cannot = |error| Error::new(ErrorKind::Internal, "metrics", "cannot write them").with_source(error);
    if app.runtime.sees_all() {
        encode(&mut text, &app.metrics.registry).map_err(cannot)?;
    }
    let measured = measure(&app.runtime, wanted.sandboxes).await?;
    encode(&mut text, &measured).map_err(cannot)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

/// Asks the sandboxes.
async fn measure(runtime: &Runtime, each: bool) -> Result<Registry> {
    let mut registry = Registry::with_prefix("sandbar");
    let (kinds, unanswered) = (Family::<Kind, Gauge>::default(), Gauge::<i64>::default());
    registry.register("sandboxes", "Sandboxes by provider and state, which was verified", kinds.clone());
    registry.register("sandboxes_unanswered", "Sandboxes that could not be asked in time, or whose state is in doubt", unanswered.clone());
    let gauge = |registry: &mut Registry, name: &str, help: &str| {
        let family = Family::<Which, Gauge>::default();
        if each {
            registry.register(name, help, family.clone());
        }
        family
    };
    let memory = gauge(&mut registry, "sandbox_memory_bytes", "Memory in use");
    let pids = gauge(&mut registry, "sandbox_processes", "Processes and threads");
    let disk = gauge(&mut registry, "sandbox_disk_bytes", "Bytes of the writable layer");
    let cpu = Family::<Which, Counter<f64, AtomicU64>>::default();
    if each {
        registry.register("sandbox_cpu_seconds", "Processor time since the sandbox's start", cpu.clone());
    }
    let (sent, received) = (Family::<Which, Counter>::default(), Family::<Which, Counter>::default());
    let decided = Family::<Decided, Counter>::default();
    if each {
        registry.register("sandbox_network_sent_bytes", "Bytes that have left", sent.clone());
        registry.register("sandbox_network_received_bytes", "Bytes that have come in by connections that left", received.clone());
        registry.register("sandbox_network_decisions", "Names and connections, as they were decided about", decided.clone());
    }
    let until = Instant::now() + DEADLINE;
    let mut waiting = runtime.sandboxes()?.into_iter();
    let mut tasks = JoinSet::new();
    let (mut left, mut failed) = (waiting.len(), 0);
    loop {
        while tasks.len() < AT_ONCE
            && let Some(sandbox) = waiting.next()
        {
            tasks.spawn(ask(sandbox, each));
        }
        let Ok(Some(done)) = timeout_at(until, tasks.join_next()).await else { break };
        left -= 1;
        let (summary, stats) = match done.map_err(|error| Error::new(ErrorKind::Internal, "metrics", "a task failed").with_source(error))? {
            Ok(Some(answer)) => answer,
            // It was removed meanwhile.
            Ok(None) => continue,
            Err(error) => {
                tracing::debug!(error = error.chain(), "a sandbox could not be measured");
                failed += 1;
                continue;
            }
        };
        if summary.in_doubt {
            // Its agent may only be slow: the next who asks may be told otherwise, and nothing is verified.
            failed += 1;
        } else {
            kinds.get_or_create(&Kind { provider: summary.provider, state: summary.state.name() }).inc();
        }
        let which = Which { sandbox: summary.id.to_string() };
        let set = |family: &Family<Which, Gauge>, value: Option<u64>| {
            if let Some(value) = value {
                family.get_or_create(&which).set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        };
        set(&memory, stats.memory_bytes);
        set(&pids, stats.pids);
        set(&disk, stats.disk_bytes);
        for (family, value) in [(&sent, stats.network_sent_bytes), (&received, stats.network_received_bytes)] {
            if let Some(value) = value {
                family.get_or_create(&which).inc_by(value);
            }
        }
        let decisions = [("allowed", stats.network_allowed), ("refused", stats.network_refused), ("failed", stats.network_failed)];
        for (decision, value) in decisions {
            if let Some(value) = value {
                decided.get_or_create(&Decided { sandbox: which.sandbox.clone(), decision }).inc_by(value);
            }
        }
        if let Some(micros) = stats.cpu_micros {
            cpu.get_or_create(&which).inc_by(micros as f64 / 1e6);
        }
    }
    unanswered.set(i64::try_from(left + failed).unwrap_or(i64::MAX));
    Ok(registry)
}

/// What is true of a sandbox, and what it uses where that is wanted; `None` when it is gone.
async fn ask(sandbox: Sandbox, each: bool) -> Result<Option<(SandboxSummary, SandboxStats)>> {
    let summary = match sandbox.summary().await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        summary => summary?,
    };
    let stats = match summary.state {
        State::Running | State::Paused | State::Stopped if each => sandbox.stats().await,
        _ => return Ok(Some((summary, SandboxStats::default()))),
    };
    match stats {
        // Its state may have changed meanwhile.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => Ok(Some((summary, SandboxStats::default()))),
        stats => Ok(Some((summary, stats?))),
    }
}
