//! What a container is created with: the wall, as far as the engine lets us build it.

use std::{collections::HashMap, path::Path};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountBindOptions, MountType,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use sandbar_core::{Context, Isolation, Lifetime, Limits, Result, SandboxSpec, Volume};
use sandbar_protocol::CONFIG_OPTION;

use super::{
    error::OPERATION,
    layer::INSIDE,
    limits::{self, AGENT_PROCESSES},
};

/// Docker's default without NET_RAW (there is no network but loopback), MKNOD and AUDIT_WRITE: what the provider `container` keeps as well.
const CAPABILITIES: [&str; 11] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "SETFCAP"];
/// What the agent alone has besides, where the kernel is the sandbox's own: after a load of memory it names the sandbox. It uses it for that alone, and its
/// commands do not have it.
const NAMING: &str = "SYS_ADMIN";
/// What the agent alone has where it redirects what would leave: it gives that up before the first command.
const REDIRECTING: [&str; 2] = ["NET_ADMIN", "NET_RAW"];
/// Bytes of `/dev/shm` where there is no memory limit. The engine's own default of 64 MiB breaks browsers and data loaders.
const SHARED_MEMORY: u64 = 256 << 20;

/// The names inside of what is mounted for the agent.
pub(super) const AGENT: &str = "agent";
pub(super) const CONFIG: &str = "config";
pub(super) const RUN: &str = "run";

/// A path inside of what is mounted for the agent.
pub(super) fn inside(name: &str) -> String {
    format!("/{INSIDE}/{name}")
}

/// Everything that a container follows from.
pub(super) struct Outline<'a> {
    pub(super) spec: &'a SandboxSpec,
    pub(super) hostname: &'a str,
    pub(super) image: &'a str,
    pub(super) runtime: &'a str,
    pub(super) isolation: Isolation,
    pub(super) lifetime: Lifetime,
    pub(super) labels: HashMap<String, String>,
    /// The agent's program on this host.
    pub(super) agent: &'a Path,
    /// The generation's folder, with its configuration and the folder of its socket.
    pub(super) folder: &'a Path,
}

impl Outline<'_> {
    /// The request.
    ///
    /// # Errors
    /// `NotFound` for a volume whose source is missing.
    pub(super) fn request(&self) -> Result<ContainerCreateBody> {
        let owned = self.lifetime == Lifetime::Owned;
        Ok(ContainerCreateBody {
            hostname: Some(self.hostname.to_owned()),
            // The agent is root whatever the image says; its commands are not.
            user: Some("0:0".to_owned()),
            image: Some(self.image.to_owned()),
            entrypoint: Some(vec![inside(AGENT), CONFIG_OPTION.to_owned(), inside(CONFIG)]),
            cmd: Some(Vec::new()),
            working_dir: Some("/".to_owned()),
            // The engine closes it when the one who holds it is gone, and then the agent ends.
            open_stdin: Some(owned),
            attach_stdin: Some(owned),
            stdin_once: Some(owned),
            healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
            labels: Some(self.labels.clone()),
            host_config: Some(self.host_config()?),
            ..ContainerCreateBody::default()
        })
    }

    fn host_config(&self) -> Result<HostConfig> {
        let Limits { memory, cpu_millis, .. } = self.spec.limits;
        let text = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let open_files = signed(limits::most_open_files());
        let limit = |name: &str, value: i64| ResourcesUlimits { name: Some(name.to_owned()), soft: Some(value), hard: Some(value) };
        Ok(HostConfig {
            mounts: Some(self.mounts()?),
            runtime: Some(self.runtime.to_owned()),
            network_mode: Some("none".to_owned()),
            // Many programs look their own name up, and fail or wait when nobody knows it.
            extra_hosts: Some(vec![format!("{}:127.0.0.1", self.hostname)]),
            sysctls: self.sysctls(),
            ipc_mode: Some("private".to_owned()),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            cap_drop: text(&["ALL"]),
            cap_add: Some(self.capabilities().map(str::to_owned).collect()),
            security_opt: text(&["no-new-privileges:true"]),
            memory: memory.map(signed),
            // No more than the memory: what is swapped out counts as well.
            memory_swap: memory.map(signed),
            nano_cpus: cpu_millis.map(|millis| i64::from(millis) * 1_000_000),
            pids_limit: (self.isolation != Isolation::UserKernel).then(|| i64::from(limits::pids(&self.spec.limits) + AGENT_PROCESSES)),
            ulimits: Some(vec![limit("nofile", open_files), limit("core", 0)]),
            shm_size: Some(signed(memory.unwrap_or(SHARED_MEMORY))),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            ..HostConfig::default()
        })
    }

    fn capabilities(&self) -> impl Iterator<Item = &'static str> {
        let naming = (self.isolation == Isolation::UserKernel).then_some(NAMING);
        let redirecting = self.spec.network.policy().map(|_| REDIRECTING);
        CAPABILITIES.into_iter().chain(naming).chain(redirecting.into_iter().flatten())
    }

    /// Without a network engines turn IPv6 off, and what leaves by it would not be asked for.
    fn sysctls(&self) -> Option<HashMap<String, String>> {
        let leaves =
            self.isolation == Isolation::Namespaces && self.spec.network.policy().is_some() && Path::new("/proc/sys/net/ipv6").exists();
        leaves.then(|| HashMap::from([("net.ipv6.conf.all.disable_ipv6".to_owned(), "0".to_owned())]))
    }

    fn mounts(&self) -> Result<Vec<Mount>> {
        let own = [
            mount(self.agent, inside(AGENT), true),
            mount(&self.folder.join(CONFIG), inside(CONFIG), true),
            mount(&self.folder.join(RUN), inside(RUN), false),
        ];
        let volume = |volume: &Volume| {
            let source = volume
                .source
                .canonicalize()
                .context(OPERATION, || format!("cannot find the source of a volume: {}", volume.source.display()))?;
            Ok(mount(&source, volume.target.display().to_string(), volume.read_only))
        };
        own.into_iter().map(Ok).chain(self.spec.volumes.iter().map(volume)).collect()
    }
}

fn mount(source: &Path, target: String, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target),
        read_only: Some(read_only),
        // What is mounted below a read-only folder would be writable: engines seal the first mount alone.
        bind_options: Some(MountBindOptions { non_recursive: Some(read_only), ..MountBindOptions::default() }),
        ..Mount::default()
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use sandbar_core::Network;

    use super::*;

    fn outline(spec: &SandboxSpec) -> Outline<'_> {
        Outline {
            spec,
            hostname: "box",
            image: "sandbar-x:y",
            runtime: "runc",
            isolation: Isolation::Namespaces,
            lifetime: Lifetime::Detached,
            labels: HashMap::new(),
            agent: Path::new("/home/agent"),
            folder: Path::new("/home/g1"),
        }
    }

    #[test]
    fn the_wall_is_there_without_being_asked_for() {
        let spec = SandboxSpec::default();
        let host = outline(&spec).request().unwrap().host_config.unwrap();
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges:true".to_owned()]));
        assert!(host.privileged.is_none() && host.pid_mode.is_none() && host.devices.is_none() && host.userns_mode.is_none());
        let writable: Vec<_> =
            host.mounts.unwrap().into_iter().filter(|mount| mount.read_only != Some(true)).filter_map(|mount| mount.source).collect();
        assert_eq!(writable, ["/home/g1/run"], "the agent and its configuration cannot be written from inside");
    }

    #[test]
    fn only_an_own_kernel_gives_the_agent_the_right_to_name_it() {
        let spec = SandboxSpec::default();
        let has = |isolation| {
            let outline = Outline { isolation, ..outline(&spec) };
            let added = outline.request().unwrap().host_config.unwrap().cap_add.unwrap();
            added.iter().any(|name| name == NAMING)
        };
        assert!(has(Isolation::UserKernel) && !has(Isolation::Namespaces) && !has(Isolation::Vm));
    }

    #[test]
    fn only_what_may_leave_somewhere_gives_the_agent_the_right_to_redirect_it_and_no_network_of_the_engine() {
        let has = |network: Network| {
            let spec = SandboxSpec { network, ..SandboxSpec::default() };
            let host = outline(&spec).request().unwrap().host_config.unwrap();
            assert_eq!(host.network_mode.as_deref(), Some("none"));
            host.cap_add.unwrap().iter().any(|name| REDIRECTING.contains(&name.as_str()))
        };
        assert!(has(Network::Open) && !has(Network::None) && !has(Network::Default));
    }

    #[test]
    fn a_missing_source_is_refused_before_the_engine_is_asked() {
        let volume = Volume { source: "/nonexistent".into(), target: "/mnt".into(), read_only: true };
        let spec = SandboxSpec { volumes: vec![volume], ..SandboxSpec::default() };
        assert_eq!(outline(&spec).request().unwrap_err().kind(), sandbar_core::ErrorKind::NotFound);
    }
}
