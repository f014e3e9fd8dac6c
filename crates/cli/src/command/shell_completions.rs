use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{command::Cli, error::Outcome, output};

/// Print a script that teaches a shell to complete sandbar's commands
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandbar completions bash > ~/.local/share/bash-completion/completions/sandbar
  sandbar completions zsh > \"${fpath[1]}/_sandbar\"
  sandbar completions fish > ~/.config/fish/completions/sandbar.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "sandbar", &mut script);
        output::raw(&script)
    }
}
