//! New sandboxes from checkpoints.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sandbar_backends::remote::Address;
use sandbar_core::{CheckpointKind, Error, ErrorKind, Lifetime, Limits, Result, SandboxId, check_name};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    Runtime, Sandbox,
    choice::{AUTO, Choice},
    create::Plan,
    fault,
    ledger::CheckpointRow,
    runtime::to_the_end,
};

/// What forks have that their origin has not.
#[derive(Debug, Clone, Default)]
pub struct ForkOptions {
    /// The id of a single fork; a fresh one when `None`.
    pub id: Option<SandboxId>,
    /// The host name inside; the origin's when `None`.
    pub hostname: Option<String>,
    /// What it may use at most; as the origin when `None`.
    pub limits: Option<Limits>,
    /// The name of the fork; with several, its beginning: `NAME-1`, `NAME-2` ….
    pub name: Option<String>,
    /// The provider; that of the checkpoint when `None` or `auto`, also where its host is named and no provider there. Another one must take the checkpoint's image.
    pub provider: Option<String>,
    /// Whether they outlive this process.
    pub lifetime: Lifetime,
    /// Their time to live; the origin's when `None`.
    pub ttl: Option<Duration>,
    /// Take the disk of a checkpoint with memory alone, and start anew on it.
    pub without_memory: bool,
}

impl Runtime {
    /// Makes sandboxes from a checkpoint, or from a sandbox, which is saved first (its disk; that checkpoint goes with the last sandbox
    /// that needs it). All are made, or none.
    ///
    /// # Errors
    /// `NotFound` for the reference; those of [`create`](Self::create) and [`restore`](Sandbox::restore).
    pub async fn fork(&self, reference: &str, count: u32, options: ForkOptions) -> Result<Vec<Sandbox>> {
        options.name.as_deref().map_or(Ok(()), check_name)?;
        if options.id.is_some() && count != 1 {
            return Err(Error::new(ErrorKind::InvalidInput, "fork", "an id is of one fork").with("count", count));
        }
        if count == 0 || count > 10_000 {
            return Err(Error::new(ErrorKind::InvalidInput, "fork", "the number of forks is 1 to 10000").with("value", count));
        }
        let runtime = self.clone();
        let reference = reference.to_owned();
        to_the_end(async move {
            let deed = runtime.deed("fork").at(&reference);
            match runtime.fork_now(&reference, count, options).await {
                Ok(made) => {
                    deed.made(&made);
                    Ok(made)
                }
                failed => deed.end(failed),
            }
        })
        .await
    }

    async fn fork_now(&self, reference: &str, count: u32, options: ForkOptions) -> Result<Vec<Sandbox>> {
        let checkpoint = self.origin(reference).await?;
        fault::point("fork.saved");
        let made = self.fork_checkpoint(&checkpoint, count, options).await;
        if made.is_err() && checkpoint.implicit {
            self.remove_idle_checkpoints().await?;
        }
        made
    }

    async fn origin(&self, reference: &str) -> Result<CheckpointRow> {
        match self.ledger().find_checkpoint(reference, self.own()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
        let sandbox = self.ledger().find_sandbox(reference, self.own()).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, "fork", "there is no such checkpoint or sandbox").with("reference", reference)
            }
            _ => error,
        })?;
        Sandbox::of(self.clone(), &sandbox).save(None, CheckpointKind::Disk, None, true).await
    }

    async fn fork_checkpoint(&self, checkpoint: &CheckpointRow, count: u32, options: ForkOptions) -> Result<Vec<Sandbox>> {
        /// Enough to keep the processors busy; more would only hold more descriptors.
        const AT_ONCE: usize = 16;
        let name = match options.provider.as_deref().filter(|name| *name != AUTO) {
            Some(name) => self.providers().canonical(name)?,
            None => checkpoint.provider.clone(),
        };
        let name = if is_only_the_host_of(&name, &checkpoint.provider)? { checkpoint.provider.as_str() } else { &name };
        let choice = Choice {
            name: name.to_owned(),
            provider: self.provider(name)?,
            reason: format!("a fork of {}", checkpoint.id),
            notable: false,
        };
        self.require_floor(&choice, &checkpoint.spec)?;
        let (from, pin) = self.restore_request(checkpoint, name, !options.without_memory).await?;
        let pin = pin.map(Arc::new);
        let mut spec = checkpoint.spec.clone();
        spec.ttl = options.ttl.or(spec.ttl);
        spec.limits = options.limits.unwrap_or(spec.limits);
        spec.limits.check()?;
        spec.hostname = options.hostname.or(spec.hostname);
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        for index in 0..count {
            let plan = Plan {
                id: options.id.clone(),
                name: options.name.as_ref().map(|name| if count == 1 { name.clone() } else { format!("{name}-{}", index + 1) }),
                choice: choice.clone(),
                image: checkpoint.image.clone(),
                root: from.root.clone(),
                pin: pin.clone(),
                spec: spec.clone(),
                lifetime: options.lifetime,
                vault: None,
                secret_values: BTreeMap::new(),
                from: Some((checkpoint.id.clone(), from.clone())),
            };
            let (runtime, slots) = (self.clone(), Arc::clone(&slots));
            tasks.spawn(async move {
                match slots.acquire_owned().await {
                    Ok(_slot) => (index, runtime.bring_up(plan).await),
                    Err(_) => (index, Err(Error::new(ErrorKind::Internal, "fork", "not begun, since another one failed"))),
                }
            });
        }
        let mut made = Vec::new();
        let mut failed = None;
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok((index, Ok(sandbox))) => made.push((index, sandbox)),
                Ok((_, Err(error))) => failed = failed.or(Some(error)),
                Err(error) => failed = failed.or(Some(Error::new(ErrorKind::Internal, "fork", "a task failed").with_source(error))),
            }
            if failed.is_some() {
                // Those that wait for their turn need not begin.
                slots.close();
            }
        }
        made.sort_by_key(|(index, _)| *index);
        let made: Vec<Sandbox> = made.into_iter().map(|(_, sandbox)| sandbox).collect();
        let Some(error) = failed else { return Ok(made) };
        for sandbox in made {
            if let Err(error) = sandbox.destroy_now().await {
                tracing::warn!(id = %sandbox.id(), error = error.chain(), "a fork beside one that failed could not be removed");
            }
        }
        Err(error)
    }
}

/// Whether a name is the address of this provider's host, without one there.
fn is_only_the_host_of(name: &str, provider: &str) -> Result<bool> {
    if !Address::is_one(name) || !Address::is_one(provider) {
        return Ok(false);
    }
    let address: Address = name.parse()?;
    Ok(address.leaves_the_choice() && address.origin() == provider.parse::<Address>()?.origin())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_alone_names_no_other_provider_of_it() {
        let only_the_host = |name: &str, provider: &str| is_only_the_host_of(name, provider).unwrap();
        for name in ["https://farm", "https://farm/auto", "https://FARM:443/"] {
            assert!(only_the_host(name, "https://farm/firecracker"), "{name}");
        }
        assert!(only_the_host("ssh://me@box", "ssh://me@box/qemu"));
        for (name, provider) in [
            ("https://farm/container", "https://farm/firecracker"),
            ("https://other", "https://farm/firecracker"),
            ("https://farm:8443", "https://farm/firecracker"),
            ("ssh://you@box", "ssh://me@box/qemu"),
            ("https://farm", "container"),
            ("container", "https://farm/firecracker"),
        ] {
            assert!(!only_the_host(name, provider), "{name} {provider}");
        }
    }
}
