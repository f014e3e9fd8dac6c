//! What is told of a sandbox.

use std::sync::Arc;

use sandbar_core::{
    CheckpointId, ExposedPort, IdRange, Isolation, Lifetime, LimitReport, Renewal, Result, SandboxHandle, SandboxId, SandboxSpec, State,
};
use serde::Serialize;

use crate::{
    Sandbox,
    ledger::{PortRow, SandboxRow},
    lock::SandboxLock,
    runtime::gone,
};

/// A sandbox in a list. The names of the fields are those of the JSON.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SandboxSummary {
    /// Its id.
    pub id: SandboxId,
    /// Its name.
    pub name: Option<String>,
    /// The provider's name.
    pub provider: String,
    /// How strong its wall is; `None` when the provider is not in this build.
    pub isolation: Option<Isolation>,
    /// The image, as it was asked for.
    pub image: String,
    /// The state, verified: `running` means that the agent answered just now.
    pub state: State,
    /// Why it is in this state, where nobody asked for it.
    pub reason: Option<String>,
    /// Whether the next one who asks may be told otherwise: an agent is silent whose sandbox the host sees alive. Not told where it is not so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[cfg_attr(feature = "schema", schema(required = false))]
    pub in_doubt: bool,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds; after them it is destroyed.
    pub expires_ms: Option<u64>,
    /// Whether it ends with the process that made it.
    pub owned: bool,
    /// The ports that listen on the host.
    pub ports: Vec<ExposedPort>,
}

/// Everything about a sandbox.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspect {
    /// As in a list.
    #[serde(flatten)]
    pub summary: SandboxSummary,
    /// What it was asked to be.
    #[cfg_attr(feature = "schema", schema(value_type = Object))]
    pub spec: SandboxSpec,
    /// Which limits hold, and by what. Empty when the provider cannot say.
    pub limits: Vec<LimitReport>,
    /// What was renewed, if it began from saved memory. By its agent's own account.
    pub renewal: Option<Renewal>,
    /// Why this provider was chosen.
    pub choice: String,
    /// What the provider says of itself here: versions, ways of working.
    pub provider_notes: Vec<String>,
    /// The id of the image, or the fingerprint of the host.
    pub image_id: Option<String>,
    /// The checkpoint that it began from, or was last restored to.
    pub base: Option<CheckpointId>,
    /// The host ids that are its own.
    pub ids: Option<IdRange>,
    /// Ports that shall listen and cannot, with the reason.
    pub port_failures: Vec<String>,
    /// The life-cycle verb that is under way.
    pub operation: Option<String>,
}

impl Sandbox {
    /// What is true of it now.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub async fn summary(&self) -> Result<SandboxSummary> {
        let row = self.runtime().row(self.id())?;
        self.summarize(row).await
    }

    /// Everything about it.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub async fn inspect(&self) -> Result<Inspect> {
        let row = self.runtime().row(self.id())?;
        let (limits, renewal) = match self.handle_of(&row).await {
            Ok(handle) => (handle.limits(), handle.renewal()),
            Err(_) => (Vec::new(), None),
        };
        let provider_notes = self.runtime().provider(&row.provider).map(|provider| provider.info().notes).unwrap_or_default();
        let ports = self.runtime().ledger().ports(self.id())?;
        let port_failures = ports.iter().filter_map(|port| port.failure.as_ref().map(|failure| format!("{}: {failure}", port.port)));
        let image_id = match &row.root.kind {
            sandbar_core::ImageKind::Host { fingerprint } => Some(fingerprint.clone()),
            sandbar_core::ImageKind::Layers { digest } => Some(digest.clone()),
            sandbar_core::ImageKind::Empty | sandbar_core::ImageKind::Elsewhere { .. } => None,
        };
        Ok(Inspect {
            spec: row.spec.clone(),
            limits,
            renewal,
            choice: row.choice.clone(),
            provider_notes,
            image_id,
            base: row.base.clone(),
            ids: row.ids,
            port_failures: port_failures.collect(),
            operation: row.operation.map(|operation| operation.name().to_owned()),
            summary: self.summarize(row).await?,
        })
    }

    /// A summary of a row that was just read, with its state verified.
    pub(crate) async fn summarize(&self, row: SandboxRow) -> Result<SandboxSummary> {
        let (row, certain) = self.verify(row).await?;
        let ports = self.runtime().ledger().ports(&row.id)?;
        let listening = |row: PortRow| row.actual.filter(|_| row.failure.is_none()).map(|listen| ExposedPort { port: row.port, listen });
        Ok(SandboxSummary {
            isolation: self.runtime().provider(&row.provider).map(|provider| provider.isolation(&row.spec)).ok(),
            id: row.id,
            name: row.name,
            provider: row.provider,
            image: row.image,
            state: row.state,
            reason: row.reason,
            in_doubt: !certain,
            created_ms: row.created_ms,
            expires_ms: row.expires_ms,
            owned: row.lifetime == Lifetime::Owned,
            ports: ports.into_iter().filter_map(listening).collect(),
        })
    }

    /// The row with what is true now in the place of what was written, and whether that is beyond doubt.
    async fn verify(&self, mut row: SandboxRow) -> Result<(SandboxRow, bool)> {
        if !matches!(row.state, State::Running | State::Paused) {
            return Ok((row, true));
        }
        let handle = match self.handle_of(&row).await {
            Ok(handle) => handle,
            Err(error) => {
                row.reason = Some(format!("not verified: {}", error.chain()));
                return Ok((row, false));
            }
        };
        let status = handle.status().await;
        if status.state == row.state {
            row.reason = status.reason.or(row.reason);
            return Ok((row, status.certain));
        }
        match SandboxLock::try_take(self.runtime().home(), &row.id, "status")? {
            Some(lock) => self.settle_difference(row, handle, lock).await,
            None => {
                // Somebody is at it; the row may have moved on meanwhile.
                let mut row = self.runtime().ledger().sandbox(self.id())?.ok_or_else(|| gone(self.id()))?;
                if matches!(row.state, State::Running | State::Paused) {
                    let under_way = row.operation.map_or("change", |operation| operation.name());
                    let by = row.operator.as_ref().map(|operator| format!(" by process {}", operator.pid)).unwrap_or_default();
                    row.state = status.state;
                    row.reason = Some(format!("a {under_way} is under way{by}"));
                }
                Ok((row, false))
            }
        }
    }

    /// Under the lock: what differs is corrected, unless it changed while the lock was free.
    async fn settle_difference(&self, row: SandboxRow, handle: Arc<dyn SandboxHandle>, lock: SandboxLock) -> Result<(SandboxRow, bool)> {
        let Some(mut now) = self.runtime().ledger().sandbox(self.id())? else {
            lock.remove();
            return Err(gone(self.id()));
        };
        let mut certain = true;
        let unchanged = now.revision == row.revision && now.state == row.state;
        if unchanged && now.operation.is_none() {
            let status = handle.status().await;
            certain = status.certain;
            self.correct(&mut now, status)?;
        } else if unchanged {
            // Its operator died and nobody has recovered it yet.
            let status = handle.status().await;
            certain = status.certain;
            (now.state, now.reason) = (status.state, status.reason.or_else(|| Some("the command that worked on it was ended".into())));
        }
        Ok((now, certain))
    }
}
