use std::path::PathBuf;

use clap::{Args, Subcommand};
use sandbar_runtime::Runtime;

use crate::{
    error::{Failure, Outcome},
    output::{self, Table, ago, bytes},
};

/// Get, list and remove the kernels that virtual machines boot
///
/// Any distribution's kernel will do. The newest is the one that is booted.
#[derive(Debug, Args)]
pub(crate) struct Kernel {
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
        match self.action {
            Action::Import { modules, name, json, file } => {
                let kernel = runtime.import_kernel(file, modules, name).await?;
                if !kernel.missing.is_empty() {
                    output::note(&format!("neither a module nor known to be built in: {}", kernel.missing.join(" ")));
                }
                if json { output::json(&kernel) } else { output::line(&kernel.name) }
            }
            Action::Ls { json } => {
                let kernels = runtime.kernels().list()?;
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
            Action::Rm { names } => Failure::from_all(names.iter().filter_map(|name| runtime.remove_kernel(name).err()).collect()),
        }
    }
}
