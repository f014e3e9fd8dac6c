//! After memory was loaded: the sandbox gets an identity, entropy and a time of its own.

use std::{
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use sandbar_core::{Context, Error, ErrorKind, ProvisionRequest, Renewal, Result};
use sandbar_protocol::{AgentConfig, Identity, Resumed, reply::Answer, request::Operation};

use super::{
    Backend, answer,
    client::{Call, Patience},
};

/// Bytes of fresh entropy: 256 bits.
const SEED: usize = 32;
/// Bytes of a machine-id, as `machine-id(5)` has it.
const MACHINE_ID: usize = 16;
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
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let resumed = Resumed {
        seed: random::<SEED>()?.to_vec(),
        now_ns: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        identity: Some(Identity { hostname, machine_id }),
        config: config.map(Box::new),
    };
    let (_, Answer::Renewed(renewal)) = call.ask(Operation::Resumed(resumed), Patience::Quick).await? else {
        return Err(call.unexpected());
    };
    if must_take && !renewal.done.iter().any(|line| line.starts_with("configuration: ")) {
        let why = renewal.failed.iter().find(|line| line.starts_with("configuration: ")).map_or("it does not say why", String::as_str);
        return Err(
            Error::new(ErrorKind::InvalidInput, call.verb, "the agent did not take its configuration").with("why", answer::text(why))
        );
    }
    let lines = |lines: Vec<String>| lines.iter().take(MAX_LINES).map(|line| answer::text(line)).collect();
    Ok(Renewal { done: lines(renewal.done), failed: lines(renewal.failed) })
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(io::Error::from).context("restore", || "cannot get random bytes".to_owned())?;
    Ok(bytes)
}
