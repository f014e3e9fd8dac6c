use clap::{Args, Subcommand};
use sandbar_core::Lifetime;
use sandbar_runtime::Runtime;

use super::{elsewhere, options::SandboxOptions};
use crate::{
    error::Outcome,
    output::{self, Table, bytes},
};

/// Build, list and remove what virtual machines begin from
///
/// A machine is booted once for each kernel, image and size, and saved when its agent answers; all later ones of that kind begin from there, in a
/// fraction of the time. That happens by itself at the first use.
#[derive(Debug, Args)]
pub(crate) struct Template {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the template that a sandbox with these options would begin from
    #[command(after_help = "Example:\n  sandbar template build --on qemu --memory 1G")]
    Build {
        #[command(flatten)]
        options: Box<SandboxOptions>,
    },
    /// List the templates
    Ls {
        /// Those of another host: a context, https:// or ssh://
        #[arg(long, value_name = "PLACE")]
        on: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove templates; machines that run keep theirs
    Rm {
        /// Those of another host: a context, https:// or ssh://
        #[arg(long, value_name = "PLACE")]
        on: Option<String>,
        /// The templates
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

impl Template {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        match self.action {
            Action::Build { options } => Ok(runtime.build_template(options.request(runtime, Lifetime::Owned)?).await?),
            Action::Ls { on, json } => {
                let templates = match elsewhere::other_host(runtime, on.as_deref(), "templates")? {
                    None => runtime.templates()?,
                    Some(host) => host.templates().await?,
                };
                if json {
                    return output::json(&templates);
                }
                let mut table = Table::new(&["ID", "PROVIDER", "SIZE", "MEMORY", "CPUS"]);
                for template in templates {
                    let part =
                        |name: &str| template.parts.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default();
                    let memory = part("memory").parse().map(bytes).unwrap_or_default();
                    table.row([template.id.clone(), template.provider.clone(), bytes(template.bytes), memory, part("processors")]);
                }
                table.print()
            }
            Action::Rm { on, ids } => {
                let there = elsewhere::other_host(runtime, on.as_deref(), "templates")?;
                elsewhere::each(&ids, async |id| match &there {
                    None => runtime.remove_template(id),
                    Some(host) => host.remove_template(id).await,
                })
                .await
            }
        }
    }
}
