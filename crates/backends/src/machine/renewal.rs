//! After memory was loaded: the sandbox gets an identity, entropy and a time of its own.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sandbar_core::{Context, Error, ErrorKind, ProvisionRequest, Renewal, Result};
use sandbar_protocol::{AgentConfig, Identity, Resumed, reply::Answer, request::Operation};
use tokio::time::Instant;

use super::{
    Backend, answer,
    client::{Call, Patience, exchange},
};

/// Bytes of fresh entropy: 256 bits.
const SEED: usize = 32;
/// Bytes of a machine-id, as `machine-id(5)` has it.
const MACHINE_ID: usize = 16;
/// How late the clock may be set.
const LATE: Duration = Duration::from_secs(1);
/// How often the time is told once more.
const MORE: u32 = 5;
/// Most lines that an agent may say.
const MAX_LINES: usize = 64;

/// Has the agent renew what must not be shared, and takes its report.
///
/// # Errors
/// `Unavailable` when the agent is gone, `Corrupt` when its report makes no sense. What it could not renew is in the report.
pub(super) async fn renew<B: Backend>(call: &Call<B>, request: &ProvisionRequest, config: Option<AgentConfig>) -> Result<Renewal> {
    let must_take = config.is_some();
    let machine_id = hex::encode(random::<MACHINE_ID>()?);
    let hostname = request.spec.hostname.clone().unwrap_or_else(|| request.id.to_string());
    let (mut renewal, mut late) = resume(call, Some(Identity { hostname, machine_id }), config).await?;
    // The agent sets the time that it is told, which on a busy machine it may read long after: so often it is told anew.
    for _ in 0..MORE {
        if late <= LATE || !renewal.done.iter().any(|line| line.starts_with("clock: ")) {
            break;
        }
        let again;
        (again, late) = match resume(call, None, None).await {
            Ok(resumed) => resumed,
            Err(error) => {
                renewal.failed.push(format!("clock: it may be late: {}", error.message()));
                break;
            }
        };
        // Each resumption counts as one.
        let is_new = |line: &String| line.starts_with("clock: ") || line.starts_with("epoch: ");
        renewal.done.extend(again.done.into_iter().filter(is_new));
        renewal.failed.extend(again.failed.into_iter().filter(is_new));
    }
    if must_take && !renewal.done.iter().any(|line| line.starts_with("configuration: ")) {
        let why = renewal.failed.iter().find(|line| line.starts_with("configuration: ")).map_or("it does not say why", String::as_str);
        return Err(
            Error::new(ErrorKind::InvalidInput, call.verb, "the agent did not take its configuration").with("why", answer::text(why))
        );
    }
    let lines = |lines: Vec<String>| lines.iter().take(MAX_LINES).map(|line| answer::text(line)).collect();
    Ok(Renewal { done: lines(renewal.done), failed: lines(renewal.failed) })
}

/// Tells the agent that it was resumed, and the time. Gives what it has renewed, and how late the time may be that it has set.
async fn resume<B: Backend>(
    call: &Call<B>,
    identity: Option<Identity>,
    config: Option<AgentConfig>,
) -> Result<(sandbar_protocol::Renewal, Duration)> {
    let seed = random::<SEED>()?.to_vec();
    let mut link = call.dial().await?;
    let asked = Instant::now();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ns = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
    let resumed = Resumed { seed, now_ns, identity, config: config.map(Box::new) };
    let answer = call.patiently(Patience::Quick, exchange(&mut link, Operation::Resumed(resumed))).await?;
    match call.accept(answer)? {
        Answer::Renewed(renewal) => Ok((renewal, asked.elapsed())),
        _ => Err(call.unexpected()),
    }
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(io::Error::from).context("restore", || "cannot get random bytes".to_owned())?;
    Ok(bytes)
}
