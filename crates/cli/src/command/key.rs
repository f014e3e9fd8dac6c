use std::time::Duration;

use clap::{Args, Subcommand};
use sandbar_core::{Error, ErrorKind};
use sandbar_runtime::{NewKey, Runtime, Scope};
use serde_json::json;

use super::elsewhere;
use crate::{
    args,
    error::Outcome,
    output::{self, Table, ago},
};

/// Make, list and remove the keys of `sandbar serve`
///
/// Whoever shows one has the sandboxes and checkpoints made with it, and sees no others, unless its scope is admin.
#[derive(Debug, Args)]
#[command(after_help = "\
Scopes, each with what those before it may:
  read     see sandboxes, checkpoints and images, and what is used
  use      run commands, read and write files, and reach ports in sandboxes that are there
  manage   make, change, save, fork and remove sandboxes
  admin    everything, of everybody: folders of this machine inside, sandboxes without a wall, images, gc

Examples:
  sandbar key create ci --max-sandboxes 20 > ci.key
  sandbar key create dashboard --scope read --ttl 30d
  sandbar key ls --on farm                     of another host's server, as your key of it allows")]
pub(crate) struct Key {
    /// Those of another host: a context, https:// or ssh://
    #[arg(long, global = true, value_name = "PLACE")]
    on: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key, and print its secret, which is told this once
    Create {
        /// What its holder may: read, use, manage or admin
        #[arg(long, default_value_t = Scope::Manage)]
        scope: Scope,
        /// How many sandboxes made with it may be there at once
        #[arg(long, value_name = "NUMBER")]
        max_sandboxes: Option<u32>,
        /// How long it opens: seconds, or 5m, 2h
        #[arg(long, value_name = "SECONDS", value_parser = args::duration)]
        ttl: Option<Duration>,
        /// A name that no other key has
        name: String,
    },
    /// List the keys
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove keys: they open nothing from then on. What was made with them stays
    Rm {
        /// The keys
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

impl Key {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let there = elsewhere::other_host(runtime, self.on.as_deref(), "keys")?;
        match self.action {
            Action::Create { scope, max_sandboxes, ttl, name } => {
                let Some(host) = there else {
                    let (_, secret) = runtime.create_key(&NewKey { name, scope, max_sandboxes, ttl })?;
                    return output::line(&secret);
                };
                let ttl_ms = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
                let wanted = json!({ "name": name, "scope": scope, "max_sandboxes": max_sandboxes, "ttl_ms": ttl_ms });
                let made = host.create_key(&wanted).await?;
                let untold = || Error::new(ErrorKind::Unavailable, "key create", "the other host does not tell the secret");
                output::line(made["secret"].as_str().ok_or_else(untold)?)
            }
            Action::Ls { json } => {
                let keys = match &there {
                    None => runtime.keys()?,
                    Some(host) => host.keys().await?,
                };
                if json {
                    return output::json(&keys);
                }
                let mut table = Table::new(&["NAME", "SCOPE", "SANDBOXES", "AT MOST", "CREATED"]);
                for key in keys {
                    let most = key.max_sandboxes.map_or_else(String::new, |most| most.to_string());
                    table.row([key.name, key.scope.to_string(), key.sandboxes.to_string(), most, ago(key.created_ms)]);
                }
                table.print()
            }
            Action::Rm { names } => {
                elsewhere::each(&names, async |name| match &there {
                    None => runtime.remove_key(name),
                    Some(host) => host.remove_key(name).await,
                })
                .await
            }
        }
    }
}
