use std::path::PathBuf;

use clap::{Args, Subcommand};
use sandbar_core::{Context as _, Error, ErrorKind, Result};
use sandbar_runtime::{Address, Contexts, Place, Runtime, clean};
use serde::Serialize;
use tokio::io::AsyncReadExt;

use crate::{error::Outcome, output};

/// A key, or the certificates of an authority, at most.
const LONGEST: u64 = 1 << 20;

/// Names for other hosts, and which one is used
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandbar context add box ssh://me@box.example/firecracker
  sandbar context add farm https://farm.example --key-file ~/farm.key
  sandbar run --on farm -- uname -a
  sandbar context use box         and from now on without --on")]
pub(crate) struct Context {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Remember an address under a name
    Add {
        /// The name
        name: String,
        /// `https://HOST[:PORT][/PROVIDER]`, or `ssh://[USER@]HOST[:PORT][/PROVIDER]`
        url: String,
        /// The file with the server's key, or - for standard input; a key on a command line could be seen by others. All contexts of one
        /// server have the same
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// A file of certificates, in PEM, from which the server's must come; those that this machine trusts without it
        #[arg(long, value_name = "FILE")]
        authority: Option<PathBuf>,
    },
    /// Make sandboxes there where no --on says otherwise
    Use {
        /// The name; without it, sandboxes are made on this machine again
        name: Option<String>,
    },
    /// List them
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove what ssh:// has put onto a host: sandbar's program. Sandboxes there, and their files, stay
    Clean {
        /// The context's name, or the address
        name: String,
    },
    /// Forget some; what was made there stays there
    Rm {
        /// The names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// One in a list. Keys are not shown.
#[derive(Serialize)]
struct Shown {
    name: String,
    url: String,
    has_key: bool,
    current: bool,
}

impl Context {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let contexts = Contexts::of(&runtime.config().home);
        match self.action {
            Action::Add { name, url, key_file, authority } => {
                let key = match key_file {
                    Some(file) => Some(key(&read(&file).await?)?),
                    None => None,
                };
                let authority = match authority {
                    Some(file) => Some(read(&file).await?),
                    None => None,
                };
                contexts.add(&name, Place { url, key, authority })?;
                Ok(())
            }
            Action::Use { name } => Ok(contexts.select(name.as_deref())?),
            Action::Clean { name } => {
                let address: Address = runtime.providers().canonical(&name)?.parse()?;
                Ok(clean(&runtime.config().ssh, &address).await?)
            }
            Action::Rm { names } => Ok(names.iter().try_for_each(|name| contexts.remove(name))?),
            Action::Ls { json } => {
                let (all, current) = contexts.list()?;
                let shown: Vec<Shown> = all
                    .into_iter()
                    .map(|(name, place)| {
                        let current = current.as_ref() == Some(&name);
                        Shown { name, url: place.url, has_key: place.key.is_some(), current }
                    })
                    .collect();
                if json {
                    return output::json(&shown);
                }
                let mut table = output::Table::new(&["NAME", "URL", "KEY", "USED"]);
                for Shown { name, url, has_key, current } in shown {
                    let yes = |value: bool| if value { "yes".to_owned() } else { String::new() };
                    table.row([name, url, yes(has_key), yes(current)]);
                }
                table.print()
            }
        }
    }
}

async fn read(path: &std::path::Path) -> Result<String> {
    let mut text = String::new();
    let cannot = || format!("cannot read {}", path.display());
    if path.as_os_str() == "-" {
        tokio::io::stdin().take(LONGEST).read_to_string(&mut text).await.context("context", cannot)?;
    } else {
        let file = tokio::fs::File::open(path).await.context("context", cannot)?;
        file.take(LONGEST).read_to_string(&mut text).await.context("context", cannot)?;
    }
    Ok(text)
}

fn key(text: &str) -> Result<String> {
    let key = text.trim();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::new(ErrorKind::InvalidInput, "context", "the file holds no key: one line of printable characters"));
    }
    Ok(key.to_owned())
}
