//! The commands that a fake sandbox knows.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use sandbar_core::{ExitStatus, OutputKind, PutOptions};
use tokio::{sync::mpsc, time::sleep};

use super::{
    machine::Machine,
    process::Process,
    shell::{Simple, Target, parse},
};
use crate::guest;

/// Names that are found in the `PATH`.
pub(super) const BUILTINS: [&str; 10] = ["cat", "echo", "env", "false", "kill", "printf", "pwd", "sh", "sleep", "true"];

/// What a process runs with.
pub(super) struct Interpreter {
    pub(super) machine: Arc<Machine>,
    pub(super) process: Arc<Process>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: String,
    pub(super) stdin: Option<mpsc::Receiver<Bytes>>,
}

/// How a command went: its code, and whether the whole line ends with it.
struct Done(i32, bool);

impl Interpreter {
    /// Runs a line of shell.
    pub(super) async fn line(&mut self, line: &str) -> ExitStatus {
        let mut code = 0;
        for command in parse(line, &self.env) {
            if command.only_after_success && code != 0 {
                continue;
            }
            self.machine.thawed().await;
            let Done(result, over) = self.command(&command).await;
            code = result;
            if over {
                break;
            }
        }
        ExitStatus::exited(code & 0xff)
    }

    /// Runs one command given by its arguments.
    pub(super) async fn argv(&mut self, words: Vec<String>) -> ExitStatus {
        let command = Simple { words, target: Target::Stdout, only_after_success: false };
        let Done(code, _) = self.command(&command).await;
        ExitStatus::exited(code & 0xff)
    }

    fn say(&self, target: &Target, data: impl Into<Bytes>) {
        let data = data.into();
        match target {
            Target::Stdout => self.process.write(OutputKind::Stdout, data),
            Target::Stderr => self.process.write(OutputKind::Stderr, data),
            Target::File { path, append } => {
                let mut tree = self.machine.tree();
                let mut content = Vec::new();
                if *append && let Ok((_, old)) = tree.read(&self.workdir, path) {
                    content.extend_from_slice(&old);
                }
                content.extend_from_slice(&data);
                let _ = tree.write(&self.workdir, path, &PutOptions::default(), content);
            }
        }
    }

    async fn command(&mut self, command: &Simple) -> Done {
        let words: Vec<&str> = command.words.iter().map(String::as_str).skip_while(|word| *word == "exec").collect();
        let target = &command.target;
        match words.as_slice() {
            ["exit"] => return Done(0, true),
            ["exit", code] => return Done(code.parse().unwrap_or(2), true),
            ["true"] => {}
            ["false"] => return Done(1, false),
            ["echo", rest @ ..] => self.say(target, format!("{}\n", rest.join(" "))),
            ["printf", format, rest @ ..] => self.say(target, print(format, rest)),
            ["pwd"] => self.say(target, format!("{}\n", self.workdir)),
            ["env"] => self.say(target, self.env.iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>()),
            ["sleep", seconds] => sleep(Duration::from_secs_f64(seconds.parse().unwrap_or(0.0))).await,
            ["kill", signal, "$$"] => {
                let number = signal.trim_start_matches('-').parse().unwrap_or(15);
                let _ = self.process.signal(sandbar_core::Signal(number));
                // The signal ends this task from outside.
                std::future::pending::<()>().await;
            }
            ["cat"] => self.cat_stdin(target).await,
            ["cat", paths @ ..] => return self.cat(target, paths),
            ["sh", "-c", line] => return Done(Box::pin(self.line(line)).await.code.unwrap_or(1), false),
            [guest::COMMAND, "echo", address] => {
                let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0);
                let _listening = self.machine.listen(port);
                self.say(target, "ready\n");
                std::future::pending::<()>().await;
            }
            [guest::COMMAND, "tick", millis] => self.tick(millis.parse().unwrap_or(20)).await,
            [name, ..] => {
                self.say(&Target::Stderr, format!("sh: {name}: not found\n"));
                return Done(127, false);
            }
            [] => {}
        }
        Done(0, false)
    }

    fn cat(&self, target: &Target, paths: &[&str]) -> Done {
        for path in paths {
            let content = self.machine.tree().read(&self.workdir, path);
            match content {
                Ok((_, content)) => self.say(target, content.to_vec()),
                Err(error) => {
                    self.say(&Target::Stderr, format!("cat: {error}\n"));
                    return Done(1, false);
                }
            }
        }
        Done(0, false)
    }

    async fn cat_stdin(&mut self, target: &Target) {
        if let Some(mut stdin) = self.stdin.take() {
            while let Some(data) = stdin.recv().await {
                self.machine.thawed().await;
                self.say(target, data);
            }
        }
    }

    async fn tick(&self, millis: u64) {
        self.say(&Target::Stdout, "ready\n");
        for count in 0u64.. {
            self.machine.thawed().await;
            self.say(&Target::Stdout, format!("tick {count}\n"));
            sleep(Duration::from_millis(millis)).await;
        }
    }
}

/// `printf` with `%s` and `\n`; the format is used again while arguments are left.
fn print(format: &str, arguments: &[&str]) -> String {
    let mut arguments = arguments.iter();
    let mut text = String::new();
    loop {
        let mut pieces = format.split("%s");
        text.push_str(&pieces.next().unwrap_or_default().replace("\\n", "\n"));
        for piece in pieces {
            text.push_str(arguments.next().copied().unwrap_or_default());
            text.push_str(&piece.replace("\\n", "\n"));
        }
        if arguments.len() == 0 || !format.contains("%s") {
            return text;
        }
    }
}
