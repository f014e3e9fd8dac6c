use std::{net::SocketAddr, path::Path, sync::Arc};

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::AsyncRead;

use crate::{
    AttachRequest, CheckpointKind, CheckpointOptions, Claim, Connection, DatagramStream, DirEntry, EgressStream, Error, ErrorKind,
    ExecRequest, ExecStream, ExposedPort, Feature, FileStat, ImageKind, Isolation, LimitReport, Needs, Network, PortStream, Probe,
    ProcessInfo, Program, ProviderInfo, ProvisionRequest, PtySize, PutOptions, RemoveOptions, Renewal, Resource, RestoreRequest, Result,
    SandboxHandle, SandboxId, SandboxProvider, SandboxSpec, SandboxStats, SandboxStatus, SavedCheckpoint, Signal, WatchStream,
};

/// A provider whose unclaimed features are refused, and whose arguments are validated, in one wording for all providers.
pub struct Checked<P> {
    inner: Arc<P>,
    others: Arc<[Claim]>,
}

impl<P: SandboxProvider + 'static> Checked<P> {
    /// Wraps a provider; `others` are the claims of every provider of this build, for the hints.
    pub fn new(inner: P, others: Arc<[Claim]>) -> Self {
        Self { inner: Arc::new(inner), others }
    }

    fn wrap(&self, handle: Box<dyn SandboxHandle>) -> Box<dyn SandboxHandle> {
        let provider = Arc::clone(&self.inner) as Arc<dyn SandboxProvider>;
        Box::new(CheckedHandle { inner: handle, provider, others: Arc::clone(&self.others) })
    }

    fn check(&self, request: &ProvisionRequest) -> Result<()> {
        let info = self.inner.info();
        let require = |feature| Claim::require(&info.name, &info.features, feature, &self.others);
        request.spec.limits.check()?;
        request.spec.features().try_for_each(require)?;
        for volume in &request.spec.volumes {
            if !volume.source.is_absolute() || !volume.target.is_absolute() {
                let message = "both paths of a volume must be absolute";
                return Err(Error::new(ErrorKind::InvalidInput, "volume", message).with("source", volume.source.display()));
            }
        }
        for (name, value) in &request.spec.env {
            check_variable(name, Some(value))?;
        }
        match &request.root.kind {
            ImageKind::Host { .. } => require(Feature::HostImage),
            ImageKind::Layers { .. } => require(Feature::LayeredImage),
            ImageKind::Elsewhere { .. } if !self.inner.is_elsewhere() => {
                Err(Error::new(ErrorKind::Unsupported, "check", format!("{} cannot begin from what only another host has", info.name))
                    .with_hint("make it on that host: --on with its address"))
            }
            ImageKind::Empty | ImageKind::Elsewhere { .. } => Ok(()),
        }
    }
}

#[async_trait]
impl<P: SandboxProvider + 'static> SandboxProvider for Checked<P> {
    fn info(&self) -> ProviderInfo {
        self.inner.info()
    }

    fn isolation(&self, spec: &SandboxSpec) -> Isolation {
        self.inner.isolation(spec)
    }

    fn is_elsewhere(&self) -> bool {
        self.inner.is_elsewhere()
    }

    async fn probe(&self) -> Probe {
        self.inner.probe().await
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Box<dyn SandboxHandle>> {
        self.check(&request)?;
        Ok(self.wrap(self.inner.provision(request).await?))
    }

    async fn attach(&self, request: AttachRequest) -> Result<Box<dyn SandboxHandle>> {
        Ok(self.wrap(self.inner.attach(request).await?))
    }

    async fn restore(&self, request: ProvisionRequest, from: RestoreRequest) -> Result<Box<dyn SandboxHandle>> {
        self.check(&request)?;
        let info = self.inner.info();
        Claim::require(&info.name, &info.features, Feature::Fork, &self.others)?;
        if from.memory.is_some() {
            Claim::require(&info.name, &info.features, Feature::MemoryCheckpoint, &self.others)?;
        }
        Ok(self.wrap(self.inner.restore(request, from).await?))
    }

    fn resources(&self, record: &Value) -> Result<Option<Vec<Resource>>> {
        self.inner.resources(record)
    }

    async fn reclaim(&self, id: &SandboxId, resources: &[Resource]) -> Result<()> {
        self.inner.reclaim(id, resources).await
    }

    async fn collect(&self, needs: &(dyn Fn() -> Result<Needs> + Send + Sync)) -> Result<Vec<String>> {
        self.inner.collect(needs).await
    }

    async fn discard_checkpoint(&self, folder: &Path) -> Result<()> {
        self.inner.discard_checkpoint(folder).await
    }

    async fn fetch_image(&self, reference: &str, into: &Path, said: &(dyn for<'s> Fn(&'s str) + Send + Sync)) -> Result<bool> {
        self.inner.fetch_image(reference, into, said).await
    }
}

/// A handle whose unclaimed features are refused; made by [`Checked`].
pub struct CheckedHandle {
    inner: Box<dyn SandboxHandle>,
    /// Asked only when a call needs a claim: it may have to look at the machine, which a plain exec need not wait for.
    provider: Arc<dyn SandboxProvider>,
    others: Arc<[Claim]>,
}

impl CheckedHandle {
    fn require(&self, feature: Feature) -> Result<()> {
        let info = self.provider.info();
        Claim::require(&info.name, &info.features, feature, &self.others)
    }
}

fn check_path(path: &str) -> Result<()> {
    if path.is_empty() || path.contains('\0') || path.len() > 4095 {
        let message = "a path has 1 to 4095 bytes and no NUL";
        return Err(Error::new(ErrorKind::InvalidInput, "path", message).with("value", format!("{:?}", path.get(..80).unwrap_or(path))));
    }
    Ok(())
}

fn check_variable(name: &str, value: Option<&str>) -> Result<()> {
    if name.is_empty() || name.contains(['=', '\0']) || value.is_some_and(|value| value.contains('\0')) {
        let message = "a variable's name has no '=' and no NUL and is not empty, its value has no NUL";
        return Err(Error::new(ErrorKind::InvalidInput, "environment", message).with("name", format!("{name:?}")));
    }
    Ok(())
}

fn check_size(size: PtySize) -> Result<()> {
    if size.rows == 0 || size.columns == 0 {
        return Err(Error::new(ErrorKind::InvalidInput, "terminal", "rows and columns must be at least 1"));
    }
    Ok(())
}

fn check_exec(request: &ExecRequest) -> Result<()> {
    let bad = |message: &str| Err(Error::new(ErrorKind::InvalidInput, "exec", message));
    match &request.program {
        Program::Argv(argv) if argv.first().is_none_or(Vec::is_empty) => {
            return bad("the command is empty");
        }
        Program::Argv(argv) if argv.iter().any(|argument| argument.contains(&0)) => {
            return bad("an argument has a NUL");
        }
        Program::Shell(line) if line.contains('\0') => return bad("the line has a NUL"),
        _ => {}
    }
    request.env.iter().try_for_each(|(name, value)| check_variable(name, value.as_deref()))?;
    request.workdir.as_deref().map_or(Ok(()), check_path)?;
    request.pty.map_or(Ok(()), check_size)
}

#[async_trait]
impl SandboxHandle for CheckedHandle {
    fn id(&self) -> &SandboxId {
        self.inner.id()
    }

    async fn exec_stream(&self, request: ExecRequest) -> Result<ExecStream> {
        check_exec(&request)?;
        if request.pty.is_some() {
            self.require(Feature::Pty)?;
        }
        if request.user.is_some() {
            self.require(Feature::User)?;
        }
        self.inner.exec_stream(request).await
    }

    async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        self.inner.processes().await
    }

    async fn reattach(&self, pid: u32, from: Option<u64>) -> Result<ExecStream> {
        self.inner.reattach(pid, from).await
    }

    async fn signal(&self, pid: u32, signal: Signal) -> Result<()> {
        if !(1..=64).contains(&signal.0) {
            return Err(Error::new(ErrorKind::InvalidInput, "signal", "a signal is 1 to 64").with("value", signal.0));
        }
        self.inner.signal(pid, signal).await
    }

    async fn put_file(&self, path: &str, options: PutOptions, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        check_path(path)?;
        self.inner.put_file(path, options, content).await
    }

    async fn get_file(&self, path: &str, offset: u64) -> Result<(FileStat, Box<dyn AsyncRead + Send + Unpin>)> {
        check_path(path)?;
        self.inner.get_file(path, offset).await
    }

    async fn put_dir(&self, path: &str, options: PutOptions, tar: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        check_path(path)?;
        self.inner.put_dir(path, options, tar).await
    }

    async fn get_dir(&self, path: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        check_path(path)?;
        self.inner.get_dir(path).await
    }

    async fn read_dir(&self, path: &str) -> Result<Vec<DirEntry>> {
        check_path(path)?;
        self.inner.read_dir(path).await
    }

    async fn stat(&self, path: &str, follow: bool) -> Result<FileStat> {
        check_path(path)?;
        self.inner.stat(path, follow).await
    }

    async fn make_dir(&self, path: &str, parents: bool, mode: Option<u32>) -> Result<()> {
        check_path(path)?;
        self.inner.make_dir(path, parents, mode).await
    }

    async fn rename(&self, from: &str, to: &str, no_replace: bool) -> Result<()> {
        check_path(from)?;
        check_path(to)?;
        self.inner.rename(from, to, no_replace).await
    }

    async fn symlink(&self, target: &str, path: &str) -> Result<()> {
        check_path(target)?;
        check_path(path)?;
        self.inner.symlink(target, path).await
    }

    async fn remove_path(&self, path: &str, options: RemoveOptions) -> Result<()> {
        check_path(path)?;
        self.inner.remove_path(path, options).await
    }

    async fn watch(&self, path: &str, recursive: bool) -> Result<Box<dyn WatchStream>> {
        check_path(path)?;
        self.require(Feature::Watch)?;
        self.inner.watch(path, recursive).await
    }

    async fn connect_port(&self, port: u16) -> Result<Connection> {
        check_port(port)?;
        self.inner.connect_port(port).await
    }

    async fn watch_ports(&self) -> Result<Box<dyn PortStream>> {
        self.inner.watch_ports().await
    }

    async fn expose_port(&self, port: u16, listen: SocketAddr) -> Result<ExposedPort> {
        check_port(port)?;
        self.require(Feature::ExposePort)?;
        self.inner.expose_port(port, listen).await
    }

    async fn unexpose_port(&self, port: u16) -> Result<()> {
        check_port(port)?;
        self.require(Feature::ExposePort)?;
        self.inner.unexpose_port(port).await
    }

    async fn egress(&self) -> Result<Box<dyn EgressStream>> {
        self.require(Feature::NetworkRules)?;
        self.inner.egress().await
    }

    async fn leave(&self, question: u64) -> Result<Connection> {
        self.require(Feature::NetworkRules)?;
        self.inner.leave(question).await
    }

    async fn leave_datagrams(&self, question: u64) -> Result<Box<dyn DatagramStream>> {
        self.require(Feature::NetworkUdp)?;
        self.inner.leave_datagrams(question).await
    }

    async fn set_network(&self, network: &Network) -> Result<()> {
        self.require(Feature::NetworkRules)?;
        if network.needs_udp() {
            self.require(Feature::NetworkUdp)?;
        }
        self.inner.set_network(network).await
    }

    async fn network_log(&self, since_ms: u64) -> Result<Vec<Value>> {
        self.require(Feature::NetworkRules)?;
        self.inner.network_log(since_ms).await
    }

    async fn checkpoint(&self, options: CheckpointOptions) -> Result<SavedCheckpoint> {
        self.require(match options.kind {
            CheckpointKind::Disk => Feature::DiskCheckpoint,
            CheckpointKind::Memory => Feature::MemoryCheckpoint,
        })?;
        self.inner.checkpoint(options).await
    }

    async fn restore(&self, from: RestoreRequest) -> Result<()> {
        self.require(Feature::Restore)?;
        if from.memory.is_some() {
            self.require(Feature::MemoryCheckpoint)?;
        }
        self.inner.restore(from).await
    }

    async fn pause(&self) -> Result<()> {
        self.require(Feature::Pause)?;
        self.inner.pause().await
    }

    async fn resume(&self) -> Result<()> {
        // A checkpoint freezes as well; who was killed in the middle of one leaves a sandbox that somebody else has to thaw.
        if !self.provider.info().features.has(Feature::DiskCheckpoint) {
            self.require(Feature::Pause)?;
        }
        self.inner.resume().await
    }

    async fn stop(&self) -> Result<()> {
        self.require(Feature::StopStart)?;
        self.inner.stop().await
    }

    async fn start(&self) -> Result<()> {
        self.require(Feature::StopStart)?;
        self.inner.start().await
    }

    async fn stats(&self) -> Result<SandboxStats> {
        self.require(Feature::Stats)?;
        self.inner.stats().await
    }

    fn limits(&self) -> Vec<LimitReport> {
        self.inner.limits()
    }

    fn most_connections(&self) -> Option<u32> {
        self.inner.most_connections()
    }

    fn no_datagrams(&self) -> Option<String> {
        self.inner.no_datagrams()
    }

    fn only_ports(&self) -> Vec<u16> {
        self.inner.only_ports()
    }

    fn renewal(&self) -> Option<Renewal> {
        self.inner.renewal()
    }

    async fn status(&self) -> SandboxStatus {
        self.inner.status().await
    }

    async fn destroy(&self) -> Result<()> {
        self.inner.destroy().await
    }
}

fn check_port(port: u16) -> Result<()> {
    if port == 0 {
        return Err(Error::new(ErrorKind::InvalidInput, "port", "a port is 1 to 65535"));
    }
    Ok(())
}
