use std::path::PathBuf;

use clap::{Args, Subcommand};
use sandbar_core::{Error, ErrorKind};
use sandbar_runtime::Runtime;

use super::elsewhere;
use crate::{
    error::Outcome,
    output::{self, Table, ago, bytes},
};

/// Get, list and remove the kernels that virtual machines boot
///
/// Any distribution's kernel will do. The newest is the one that is booted.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sandbar kernel import --on farm linux-image-6.1.0-amd64.deb      for the machines of another host, as its key allows"
)]
pub(crate) struct Kernel {
    /// Those of another host: a context, https:// or ssh://
    #[arg(long, global = true, value_name = "PLACE")]
    on: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Take in a kernel: a vmlinuz, an ELF vmlinux, or a Debian package
    ///
    /// Prints its name. From the folder of its modules it takes those that a guest needs: disks, console, vsock, file systems, packet
    /// redirection. A package has the modules with it; a kernel without any must have everything built in.
    #[command(
        after_help = "Examples:\n  sandbar kernel import /boot/vmlinuz-$(uname -r) --modules /lib/modules/$(uname -r)\n  sandbar kernel import linux-image-6.1.0-amd64.deb"
    )]
    Import {
        /// The folder of its modules
        #[arg(long, value_name = "DIR")]
        modules: Option<PathBuf>,
        /// What to call it; its release when not given
        #[arg(long)]
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The kernel or the package
        file: PathBuf,
    },
    /// List the kernels, the one that is booted last
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove kernels; machines that run keep theirs
    Rm {
        /// The kernels
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

impl Kernel {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let there = elsewhere::other_host(runtime, self.on.as_deref(), "kernels")?;
        match self.action {
            Action::Import { modules, name, json, file } => {
                let kernel = match &there {
                    None => runtime.import_kernel(file, modules, name).await?,
                    Some(host) => {
                        let Some(mut kernel) = elsewhere::file(&file, "kernel import").await?.filter(|_| modules.is_none()) else {
                            let message = "to another host a kernel goes as one file: a package, or one that has everything built in";
                            return Err(Error::new(ErrorKind::InvalidInput, "kernel import", message).with("path", file.display()).into());
                        };
                        host.import_kernel(&mut kernel, name.as_deref()).await?
                    }
                };
                if !kernel.missing.is_empty() {
                    output::note(&format!("neither a module nor known to be built in: {}", kernel.missing.join(" ")));
                }
                if json { output::json(&kernel) } else { output::line(&kernel.name) }
            }
            Action::Ls { json } => {
                let kernels = match &there {
                    None => runtime.kernels().list()?,
                    Some(host) => host.kernels().await?,
                };
                if json {
                    return output::json(&kernels);
                }
                let mut table = Table::new(&["NAME", "RELEASE", "SIZE", "MODULES", "ADDED"]);
                for kernel in kernels {
                    let added = format!("{} ago", ago(kernel.added_ms));
                    table.row([kernel.name, kernel.release, bytes(kernel.bytes), kernel.modules.len().to_string(), added]);
                }
                table.print()
            }
            Action::Rm { names } => {
                elsewhere::each(&names, async |name| match &there {
                    None => runtime.remove_kernel(name),
                    Some(host) => host.remove_kernel(name).await,
                })
                .await
            }
        }
    }
}
