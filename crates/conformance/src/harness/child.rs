use std::{
    collections::HashMap,
    env,
    fs::{self, Permissions},
    io::{self, BufRead, BufReader, Write},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    process::{self, ChildStdin, Command, ExitCode, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use serde::{Deserialize, Serialize};

use super::{
    Account, Variant, World,
    program::{availability, refuse},
    runner::{self, Outcome},
    variant::Availability,
    world::FOLDER,
};
use crate::Case;

/// Tells a process that it is a child, and for which variant.
pub(super) const CHILD: &str = "SANDBAR_CONFORMANCE_CHILD";
/// What a child's PATH is: it gets no environment of its parent's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One line from a child.
#[derive(Serialize, Deserialize)]
struct Line {
    case: String,
    outcome: Outcome,
}

#[derive(Default)]
struct Results {
    known: HashMap<String, Outcome>,
    ended: bool,
}

/// A process of another user that runs a variant's cases.
pub(super) struct Child {
    results: Arc<(Mutex<Results>, Condvar)>,
    /// The child ends when this is closed.
    _input: ChildStdin,
}

impl Child {
    pub(super) fn start(variant: &Variant, world: &World, account: &Account, wanted: &[&str], threads: usize) -> io::Result<Self> {
        let home = world.folder(variant.name)?;
        chown(&home, Some(account.uid), Some(account.gid))?;
        let program = world.path().join("program");
        if !program.exists() {
            let fresh = world.path().join(format!("program-{}", variant.name));
            fs::copy(env::current_exe()?, &fresh)?;
            fs::set_permissions(&fresh, Permissions::from_mode(0o755))?;
            fs::rename(fresh, &program)?;
        }
        let kept = ["CI", "SANDBAR_LONG", "SANDBAR_LOG", "RUST_BACKTRACE"].into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
        let mut command = Command::new(program);
        command.args(["--test-threads", &threads.to_string()]);
        command.env_clear().envs(kept).env(CHILD, variant.name).env(FOLDER, &home).env("PATH", PATH).env("USER", &account.name);
        for name in ["HOME", "TMPDIR", "SANDBAR_HOME", "XDG_RUNTIME_DIR"] {
            let folder = home.join(name.to_lowercase());
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
            chown(&folder, Some(account.uid), Some(account.gid))?;
            command.env(name, folder);
        }
        command.uid(account.uid).gid(account.gid).current_dir(&home).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the child has no pipes"));
        };
        input.write_all(format!("{}\n\n", wanted.join("\n")).as_bytes())?;
        let results: Arc<(Mutex<Results>, Condvar)> = Arc::default();
        let heard = Arc::clone(&results);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str::<Line>(&line) {
                    heard.0.lock().unwrap_or_else(PoisonError::into_inner).known.insert(line.case, line.outcome);
                    heard.1.notify_all();
                }
            }
            let _ = child.wait();
            heard.0.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
            heard.1.notify_all();
        });
        Ok(Self { results, _input: input })
    }

    /// Waits for the outcome of a case.
    pub(super) fn outcome(&self, case: &str) -> Outcome {
        let mut results = self.results.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = results.known.get(case) {
                return outcome.clone();
            }
            if results.ended {
                return Outcome::Failed("the process that runs this variant ended without a result".to_owned());
            }
            results = self.results.1.wait(results).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// In a child: runs the cases that the parent names, and answers. `None` in any other process.
pub(super) fn serve(variants: &[Variant], suite: &[&'static Case], world: &Arc<World>, threads: usize) -> Option<ExitCode> {
    let name = env::var(CHILD).ok()?;
    let Some(variant) = variants.iter().find(|variant| variant.name == name) else {
        return Some(refuse(&format!("no variant {name:?}")));
    };
    let wanted: Vec<String> = io::stdin().lock().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    // The parent holds the other end; when it is gone, nobody waits for results.
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        process::exit(1);
    });
    let availability = availability(variant, world);
    let (subject, unavailable) = match availability {
        Availability::Here(subject) => (Some(Arc::from(subject)), String::new()),
        Availability::As(account) => (None, format!("needs the user {}", account.name)),
        Availability::Unavailable(reason) => (None, reason),
    };
    let queue = Mutex::new(suite.iter().copied().filter(|case| wanted.iter().any(|name| name == case.name)));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(case) = next else { break };
                    let outcome = match &subject {
                        Some(subject) => runner::run(subject, case),
                        None => Outcome::Unavailable(unavailable.clone()),
                    };
                    answer(&Line { case: case.name.to_owned(), outcome });
                }
            });
        }
    });
    Some(ExitCode::SUCCESS)
}

fn answer(line: &Line) {
    if let Ok(text) = serde_json::to_string(line) {
        let mut output = io::stdout().lock();
        let _ = writeln!(output, "{text}").and_then(|()| output.flush());
    }
}
