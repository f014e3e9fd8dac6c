use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use sandbar_core::{
    AttachRequest, Isolation, Needs, Probe, ProviderInfo, ProvisionRequest, Resource, RestoreRequest, Result, SandboxHandle, SandboxId,
    SandboxProvider, SandboxSpec,
};
use serde_json::Value;

use super::{
    Backend, MachineHandle,
    live::{Current, Shared},
    provision,
    record::{Holdings, Record},
};

/// A provider made of any wall that is a [`Backend`].
pub struct Machine<B: Backend> {
    backend: Arc<B>,
}

impl<B: Backend> Machine<B> {
    /// The provider over this wall.
    pub fn new(backend: B) -> Self {
        Self { backend: Arc::new(backend) }
    }

    /// The wall.
    pub fn backend(&self) -> &B {
        &self.backend
    }
}

#[async_trait]
impl<B: Backend> SandboxProvider for Machine<B> {
    fn info(&self) -> ProviderInfo {
        self.backend.info()
    }

    fn isolation(&self, spec: &SandboxSpec) -> Isolation {
        self.backend.isolation(spec)
    }

    async fn probe(&self) -> Probe {
        self.backend.probe().await
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Box<dyn SandboxHandle>> {
        let from = RestoreRequest { root: request.root.clone(), memory: None };
        self.restore(request, from).await
    }

    async fn attach(&self, request: AttachRequest) -> Result<Box<dyn SandboxHandle>> {
        let AttachRequest { provision, record } = request;
        let record = Record::from_json(record)?;
        let holdings = Arc::new(Holdings::new(Arc::clone(&provision.journal), record.resources.clone()));
        let shared = Shared::new(Arc::clone(&self.backend), provision, Current::new(record, holdings));
        Ok(Box::new(MachineHandle::new(Arc::new(shared))))
    }

    async fn restore(&self, request: ProvisionRequest, from: RestoreRequest) -> Result<Box<dyn SandboxHandle>> {
        let shared = provision::provision(Arc::clone(&self.backend), request, from).await?;
        Ok(Box::new(MachineHandle::new(shared)))
    }

    fn resources(&self, record: &Value) -> Result<Option<Vec<Resource>>> {
        Ok(Some(Record::<B::Place>::from_json(record.clone())?.resources))
    }

    async fn reclaim(&self, id: &SandboxId, resources: &[Resource]) -> Result<()> {
        self.backend.reclaim(id, resources).await
    }

    async fn collect(&self, needs: &(dyn Fn() -> Result<Needs> + Send + Sync)) -> Result<Vec<String>> {
        self.backend.collect(needs).await
    }

    async fn fetch_image(&self, reference: &str, into: &Path, said: &(dyn for<'s> Fn(&'s str) + Send + Sync)) -> Result<bool> {
        self.backend.fetch_image(reference, into, said).await
    }
}
