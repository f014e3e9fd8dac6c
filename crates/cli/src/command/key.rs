use std::time::Duration;

use clap::{Args, Subcommand};
use sandbar_runtime::{NewKey, Runtime, Scope};

use crate::{
    args,
    error::{Failure, Outcome},
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
  sandbar key create dashboard --scope read --ttl 30d")]
pub(crate) struct Key {
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
    pub(super) fn run(self, runtime: &Runtime) -> Outcome {
        match self.action {
            Action::Create { scope, max_sandboxes, ttl, name } => {
                let (_, secret) = runtime.create_key(&NewKey { name, scope, max_sandboxes, ttl })?;
                output::line(&secret)
            }
            Action::Ls { json } => {
                let keys = runtime.keys()?;
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
            Action::Rm { names } => Failure::from_all(names.iter().filter_map(|name| runtime.remove_key(name).err()).collect()),
        }
    }
}
