//! The commands: what each accepts, and what it does.
//!
//! | file | commands |
//! |---|---|
//! | `create` | `run`, `create` |
//! | `exec` | `exec`, `shell` |
//! | `process` | `ps`, `attach`, `kill` |
//! | `logs` | `logs` |
//! | `copy` | `cp` |
//! | `list` | `ls`, `inspect`, `stats` |
//! | `checkpoint` | `checkpoint`, `checkpoints`, `restore`, `fork` |
//! | `portable` | `checkpoint export`, `checkpoint import` |
//! | `life` | `pause`, `resume`, `stop`, `start`, `rm`, `gc` |
//! | `port` | `expose`, `unexpose` |
//! | `net` | `net log`, `net set` |
//! | `audit` | `audit` |
//! | `image` | `image` |
//! | `doctor`, `setup` | `doctor`, `setup` |
//! | `kernel`, `template` | `kernel`, `template` |
//! | `serve`, `key` | `serve`, `key` |
//! | `elsewhere` | `--on` of images, kernels, templates and keys |
//! | `context` | `context add`, `use`, `ls`, `rm` |
//! | `shell_completions` | `completions` |

mod audit;
mod checkpoint;
mod context;
mod copy;
mod create;
mod doctor;
mod elsewhere;
mod exec;
mod image;
mod kernel;
mod key;
mod life;
mod list;
mod logs;
mod net;
mod options;
mod port;
mod portable;
mod process;
#[cfg(test)]
mod routes;
mod serve;
mod setup;
mod shell_completions;
mod template;

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand};
use sandbar_core::{Context, Result};
use sandbar_runtime::{Runtime, RuntimeConfig};

use crate::{error::Outcome, log::LogFormat, output};

const EXAMPLES: &str = "\
Examples:
  sandbar run -- python3 -c 'print(6*7)'    run one command behind a wall, and leave nothing
  sandbar run -it -- bash                   look around inside
  ID=$(sandbar create --memory 512M)        a sandbox that stays
  sandbar exec $ID -- ls -la                a command in it
  sandbar cp ./src $ID:/work                files into it
  sandbar rm -f $ID                         and its end

Wherever an ID is expected, a name or the beginning of an id will do.
Exit status: the command's own; 124 timed out, 125 sandbar failed, 126 not executable, 127 not found, 128+n signal n.";

/// Run code that nobody has read, behind a wall
#[derive(Debug, Parser)]
#[command(name = "sandbar", version, after_help = EXAMPLES, max_term_width = 120, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Place {
    /// The state folder
    #[arg(long, global = true, value_name = "DIR", env = "SANDBAR_HOME", hide_env_values = true)]
    home: Option<PathBuf>,
}

/// A command line with few commands that it could be.
#[derive(Debug, Parser)]
struct Only<Commands: Subcommand> {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum OnlyExec {
    Exec(exec::Exec),
}

#[derive(Debug, Subcommand)]
enum OnlyRun {
    Run(create::Run),
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(create::Run),
    Create(create::Create),
    Exec(exec::Exec),
    Shell(exec::Shell),
    Ps(process::Ps),
    Attach(process::Attach),
    Kill(process::Kill),
    Logs(logs::Logs),
    Cp(copy::Cp),
    Ls(list::Ls),
    Inspect(list::Inspect),
    Stats(list::Stats),
    Checkpoint(checkpoint::Checkpoint),
    Checkpoints(checkpoint::Checkpoints),
    Restore(checkpoint::Restore),
    Fork(checkpoint::Fork),
    /// Freeze everything inside a sandbox
    Pause(life::Which),
    /// Let a paused sandbox go on
    Resume(life::Which),
    /// End the processes of a sandbox, and keep its files
    Stop(life::Which),
    /// Run a stopped or crashed sandbox again, on the files it had
    Start(life::Which),
    Rm(life::Rm),
    Gc(life::Gc),
    Expose(port::Expose),
    Unexpose(port::Unexpose),
    Net(net::Net),
    Audit(audit::Audit),
    Image(image::Image),
    Doctor(doctor::Doctor),
    Serve(serve::Serve),
    Key(key::Key),
    Context(context::Context),
    Setup(setup::Setup),
    Kernel(kernel::Kernel),
    Template(template::Template),
    Completions(shell_completions::Completions),
    /// Print the version
    Version,
    /// What goes on for one sandbox after a command has returned; started by sandbar itself
    #[command(hide = true)]
    Keeper {
        id: String,
    },
}

impl Cli {
    /// Reads a command line.
    ///
    /// The definitions of all commands together take more time to build than an `exec` takes to do. So what scripts call in loops is tried
    /// alone first; what does not fit there, a mistake or a call for help, is read again with everything that could be said about it.
    ///
    /// # Errors
    /// What clap says, which may be the help that was asked for.
    pub(crate) fn read(words: &[OsString]) -> Result<Self, clap::Error> {
        let alone = match verb(words).and_then(OsStr::to_str) {
            Some("exec") => Only::try_parse_from(words)
                .map(|Only { place, command: OnlyExec::Exec(command) }| Self { place, command: Command::Exec(command) }),
            Some("run") => Only::try_parse_from(words)
                .map(|Only { place, command: OnlyRun::Run(command) }| Self { place, command: Command::Run(command) }),
            _ => return Self::try_parse_from(words),
        };
        alone.or_else(|_| Self::try_parse_from(words))
    }

    /// How it logs, if it was asked for a log.
    pub(crate) fn log_format(&self) -> Option<LogFormat> {
        match &self.command {
            Command::Serve(serve) => serve.log_format(),
            _ => None,
        }
    }

    /// Whether many clients are to be answered at once.
    pub(crate) fn has_clients(&self) -> bool {
        matches!(&self.command, Command::Serve(serve) if serve.has_clients())
    }

    /// Does it, and gives the status to exit with.
    pub(crate) async fn run(self) -> Outcome<u8> {
        let home = self.place.home;
        match self.command {
            Command::Completions(command) => command.run()?,
            Command::Version => output::line(concat!("sandbar ", env!("CARGO_PKG_VERSION")))?,
            Command::Doctor(command) => {
                let config = configure(home)?;
                let home = config.home.clone();
                return command.run(open(config).await, home).await;
            }
            command => return command.run(&open(configure(home)?).await?).await,
        }
        Ok(0)
    }
}

/// The command among the words: the first that is neither `--home` nor its value.
fn verb(words: &[OsString]) -> Option<&OsStr> {
    let mut rest = words.iter().skip(1);
    loop {
        let word = rest.next()?;
        if word == "--home" {
            rest.next()?;
        } else if !word.as_encoded_bytes().starts_with(b"--home=") {
            return Some(word);
        }
    }
}

impl Command {
    async fn run(self, runtime: &Runtime) -> Outcome<u8> {
        match self {
            Self::Run(command) => return command.run(runtime).await,
            Self::Exec(command) => return command.run(runtime).await,
            Self::Shell(command) => return command.run(runtime).await,
            Self::Attach(command) => return command.run(runtime).await,
            Self::Checkpoint(command) => return command.run(runtime).await,
            Self::Create(command) => command.run(runtime).await?,
            Self::Ps(command) => command.run(runtime).await?,
            Self::Kill(command) => command.run(runtime).await?,
            Self::Logs(command) => command.run(runtime).await?,
            Self::Cp(command) => command.run(runtime).await?,
            Self::Ls(command) => command.run(runtime).await?,
            Self::Inspect(command) => command.run(runtime).await?,
            Self::Stats(command) => command.run(runtime).await?,
            Self::Checkpoints(command) => command.run(runtime).await?,
            Self::Restore(command) => command.run(runtime).await?,
            Self::Fork(command) => command.run(runtime).await?,
            Self::Pause(which) => life::pause(which, runtime).await?,
            Self::Resume(which) => life::resume(which, runtime).await?,
            Self::Stop(which) => life::stop(which, runtime).await?,
            Self::Start(which) => life::start(which, runtime).await?,
            Self::Rm(command) => command.run(runtime).await?,
            Self::Gc(command) => command.run(runtime).await?,
            Self::Expose(command) => command.run(runtime).await?,
            Self::Unexpose(command) => command.run(runtime).await?,
            Self::Net(command) => command.run(runtime).await?,
            Self::Audit(command) => command.run(runtime).await?,
            Self::Image(command) => command.run(runtime).await?,
            Self::Serve(command) => command.run(runtime).await?,
            Self::Key(command) => command.run(runtime).await?,
            Self::Context(command) => command.run(runtime).await?,
            Self::Setup(command) => command.run(runtime).await?,
            Self::Kernel(command) => command.run(runtime).await?,
            Self::Template(command) => command.run(runtime).await?,
            Self::Keeper { id } => runtime.run_keeper(&id).await?,
            Self::Completions(_) | Self::Version | Self::Doctor(_) => {}
        }
        Ok(0)
    }
}

fn configure(home: Option<PathBuf>) -> Result<RuntimeConfig> {
    match home {
        Some(home) => {
            RuntimeConfig::at(std::path::absolute(&home).context("state folder", || format!("{} is not a path", home.display()))?)
        }
        None => RuntimeConfig::from_env(),
    }
}

async fn open(config: RuntimeConfig) -> Result<Runtime> {
    let program = std::env::current_exe().context("keeper", || "cannot find sandbar's own program".to_owned())?;
    Runtime::open(config.with_keeper(program)).await
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn refusal(words: &[&str]) -> String {
        Cli::try_parse_from(words).unwrap_err().to_string()
    }

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn words_after_the_command_are_its_own() {
        let run = |words: &[&str]| match Cli::try_parse_from(words).unwrap().command {
            Command::Run(run) => run.command,
            other => panic!("{other:?}"),
        };
        assert_eq!(run(&["sandbar", "run", "--", "a", "--help", "--", "-x"]), ["a", "--help", "--", "-x"]);
        assert_eq!(run(&["sandbar", "run", "--memory", "1G", "a", "--memory", "2G"]), ["a", "--memory", "2G"]);
        assert_eq!(run(&["sandbar", "run", "--", "-x"]), ["-x"]);
    }

    #[test]
    fn a_command_that_is_read_alone_is_the_same_command() {
        let read = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let show = |read: Result<Cli, clap::Error>| read.map(|cli| format!("{cli:?}")).map_err(|error| error.to_string());
            let (quickly, slowly) = (show(Cli::read(&words)), show(Cli::try_parse_from(&words)));
            assert_eq!(quickly, slowly);
            quickly
        };
        for line in [
            "sandbar exec web -- ls -la",
            "sandbar --home /x exec -it -e A=B -w /y --timeout 5 web bash",
            "sandbar exec --home=/x web -- ls --home /y",
            "sandbar --home=/x run --memory 1G -v /a:/b:ro -- exec",
        ] {
            assert!(read(line).unwrap().contains("home: "), "{line}");
        }
        for line in
            ["sandbar exec", "sandbar exec --help", "sandbar run --memroy 1G -- ls", "sandbar exce web -- ls", "sandbar --home", "sandbar"]
        {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_misspelled_option_is_not_taken_for_the_command() {
        assert!(refusal(&["sandbar", "run", "--memroy", "1G", "--", "ls"]).contains("--memory"));
        assert!(refusal(&["sandbar", "exec", "-x", "web", "--", "ls"]).contains("-x"));
        assert!(refusal(&["sandbar", "run"]).contains("CMD"));
        assert!(refusal(&["sandbar", "exec", "web"]).contains("CMD"));
    }

    #[test]
    fn checkpoint_makes_one_and_removes_some() {
        assert!(Cli::try_parse_from(["sandbar", "checkpoint", "web", "--name", "clean"]).is_ok());
        assert!(Cli::try_parse_from(["sandbar", "checkpoint", "rm", "clean", "other"]).is_ok());
        assert!(Cli::try_parse_from(["sandbar", "checkpoint", "export", "--thin", "clean", "-"]).is_ok());
        assert!(Cli::try_parse_from(["sandbar", "checkpoint", "import", "-", "--name", "clean"]).is_ok());
        assert!(refusal(&["sandbar", "checkpoint", "export", "--thin", "--flatten", "clean", "-"]).contains("--flatten"));
        assert!(refusal(&["sandbar", "checkpoint"]).contains("ID"));
        assert!(refusal(&["sandbar", "checkpoint", "rm"]).contains("CHECKPOINT"));
    }
}
