use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use sandbar_core::{Error, ErrorKind, Isolation, Lifetime, Limits, Network, SandboxSpec, Secret, SecretSource, Secrets, User, Volume};
use sandbar_runtime::{Address, Contexts, CreateRequest, Runtime, Sandbox};

use crate::{
    args::{self, Variable},
    error::Outcome,
    output,
};

/// The provider that is no wall; chosen only by this name.
pub(super) const NO_WALL: &str = "dangerous-host";

/// What a new sandbox shall be.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct SandboxOptions {
    /// The wall to use: container, dangerous-host …; another host: https://HOST[/PROVIDER], ssh://HOST[/PROVIDER], or a context's name. Without it,
    /// or as auto, the lightest real one that works here and has what is asked for
    #[arg(long, value_name = "PROVIDER")]
    on: Option<String>,
    /// The weakest wall to accept: none, namespaces, user-kernel or vm
    #[arg(long, value_name = "LEVEL")]
    isolation: Option<Isolation>,
    /// The root file system: `host` (this machine's programs, read-only), or an image of `sandbar image ls`
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// A name to call it by
    #[arg(long)]
    name: Option<String>,
    /// The host name inside
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// A host folder inside: SOURCE:TARGET, or SOURCE:TARGET:ro to forbid writing
    #[arg(short = 'v', long = "volume", value_name = "SRC:DST[:ro]", value_parser = args::volume)]
    volumes: Vec<Volume>,
    /// A variable for its commands: NAME=VALUE, or NAME to pass on your own
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<Variable>,
    /// The working directory of its commands, made if missing
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// The user of its commands: NAME, UID or UID:GID
    #[arg(short = 'u', long)]
    user: Option<User>,
    /// What it may reach: none (only itself), open (the internet, and nothing of this machine or of private networks), or rules, such as
    /// allow=pypi.org:443,*.pythonhosted.org:443 or deny=*:25,open; the first that matches decides. How much may pass stands among them:
    /// max-bytes=10G (in all), max-connections=50, max-rate=2M (bytes a second)
    #[arg(long, value_name = "none|open|RULES")]
    net: Option<Network>,
    /// A secret that it uses and never sees: NAME=env:VARIABLE@HOST,… or NAME=file:PATH@HOST,…. NAME is a variable inside, with a placeholder; this machine,
    /// or the other host that has the sandbox, puts the secret in its place in the headers of HTTP and HTTPS requests to exactly these hosts, which the network must allow
    #[arg(long = "secret", value_name = "NAME=SOURCE@HOST,…")]
    secrets: Vec<String>,
    /// Destroy it this long after its creation: seconds, or 5m, 2h
    #[arg(long, value_name = "SECONDS", value_parser = args::duration)]
    ttl: Option<Duration>,
    /// The runtime within the provider, such as runsc for docker
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    #[command(flatten)]
    limits: LimitOptions,
}

/// The most that it may use.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct LimitOptions {
    /// Memory of everything inside, such as 512M
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    memory: Option<u64>,
    /// CPUs, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = args::cpus)]
    cpus: Option<u32>,
    /// Processes and threads
    #[arg(long, value_name = "NUMBER")]
    pids: Option<u32>,
    /// What it may write to its own file system, such as 2G
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    disk: Option<u64>,
    /// Open files of each process
    #[arg(long, value_name = "NUMBER")]
    open_files: Option<u64>,
    /// What its own disk reads and writes a second, such as 20M
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    disk_rate: Option<u64>,
    /// How often its own disk reads or writes in a second
    #[arg(long, value_name = "NUMBER")]
    disk_operations: Option<u64>,
}

impl SandboxOptions {
    /// The request, with what the caller's environment and folders say about it; warns of a wall that is none.
    pub(crate) fn request(self, runtime: &Runtime, lifetime: Lifetime) -> Outcome<CreateRequest> {
        let provider = match self.on {
            Some(on) => Some(on),
            // With a floor, or without: what a context names is named.
            None => Contexts::of(&runtime.config().home).current()?,
        };
        let is_elsewhere =
            provider.as_deref().map(|name| runtime.providers().canonical(name)).transpose()?.is_some_and(|name| Address::is_one(&name));
        if let Some(volume) = self.volumes.first().filter(|_| is_elsewhere) {
            let message = "a folder of this machine cannot be inside a sandbox on another host";
            return Err(Error::new(ErrorKind::Unsupported, "volume", message)
                .with("source", volume.source.display())
                .with_hint("sandbar cp takes it there, and back")
                .into());
        }
        for volume in &self.volumes {
            if let Err(error) = std::fs::metadata(&volume.source) {
                return Err(Error::io("volume", "the source cannot be used", error).with("source", volume.source.display()).into());
            }
        }
        let env = resolve(&self.env)?.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        if provider.as_deref() == Some(NO_WALL) {
            warn_of_no_wall();
        }
        let limits = Limits {
            memory: self.limits.memory,
            cpu_millis: self.limits.cpus,
            pids: self.limits.pids,
            disk: self.limits.disk,
            open_files: self.limits.open_files,
            disk_rate: self.limits.disk_rate,
            disk_operations: self.limits.disk_operations,
        };
        let spec = SandboxSpec {
            hostname: self.hostname,
            limits,
            network: self.net.unwrap_or_default(),
            secrets: Secrets { vault: None, list: self.secrets.iter().map(|text| secret(text)).collect::<Result<_, _>>()? },
            volumes: self.volumes,
            env,
            workdir: self.workdir,
            user: self.user,
            ttl: self.ttl,
            runtime: self.runtime,
        };
        Ok(CreateRequest {
            id: None,
            name: self.name,
            provider,
            isolation: self.isolation,
            image: self.image,
            spec,
            secret_values: BTreeMap::new(),
            lifetime,
        })
    }
}

/// A secret whose file is named as others find it, too. What cannot be read is not printed, as an argument otherwise is: it may be the secret itself.
fn secret(text: &str) -> Result<Secret, Error> {
    let secret: Secret = text.parse()?;
    let SecretSource::File(path) = &secret.source else { return Ok(secret) };
    let path = std::path::absolute(path).map_err(|error| Error::io("secret", "the path of its file cannot be used", error))?;
    Ok(Secret { source: SecretSource::File(path), ..secret })
}

/// Says which wall was chosen, where nobody named one and it is not simply the usual one.
pub(super) fn tell_choice(sandbox: &Sandbox) {
    if let Some(remark) = sandbox.choice_remark() {
        output::note(&format!("on {remark}"));
    }
}

/// Says what the provider without a wall is, once, where it was asked for.
pub(super) fn warn_of_no_wall() {
    output::warning("dangerous-host is no wall: commands are processes of this machine, with your rights, files and network");
}

/// The values of variables; `None` for one that the caller does not have either, which is told.
pub(super) fn resolve(variables: &[Variable]) -> Outcome<Vec<(String, Option<String>)>> {
    let mut resolved = Vec::with_capacity(variables.len());
    for variable in variables {
        let value = variable
            .resolve(|name| std::env::var_os(name))
            .map_err(|message| Error::new(ErrorKind::InvalidInput, "environment", message))?;
        if value.is_none() {
            output::warning(&format!("{} is not set here, so it is not set inside", variable.name));
        }
        resolved.push((variable.name.clone(), value));
    }
    Ok(resolved)
}
