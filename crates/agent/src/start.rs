//! The process itself: what it inherits, and what it must be before it listens.
#![expect(unsafe_code, reason = "inherited descriptors are taken and closed by number")]

use std::{
    fmt::Display,
    fs::File,
    io::{self, Read},
    os::fd::{FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use prost::Message;
use rustix::{
    fs::{Mode, OFlags},
    io::FdFlags,
    process::{DumpableBehavior, Pid, Resource, Signal},
};
use sandbar_protocol::{AgentConfig, CONFIG_FD, CONFIG_OPTION, LISTEN_FD, MAX_MESSAGE};
use tokio::io::Interest;

use crate::{
    agent::Agent,
    door::Door,
    egress::Redirected,
    files::path,
    guest::{self, Wire},
    memory, pipe, reaper, server,
    settings::Settings,
    signals,
    spawn::Spawner,
};

/// Runs the agent; what keeps it from running is said in one line on stderr.
pub fn run() -> ExitCode {
    if let Some(role) = host_role() {
        return role;
    }
    // A defect ends the agent in every build, not only where the profile says so: half of one is worse than none.
    std::panic::set_hook(Box::new(|defect| {
        complain(defect);
        std::process::abort();
    }));
    match start() {
        Ok(never) => match never {},
        Err(why) => {
            complain(&why);
            if guest::is_first_process() {
                guest::power_off();
            }
            ExitCode::FAILURE
        }
    }
}

/// The program's other roles, on the host of a virtual machine. In a sandbox it has no arguments.
fn host_role() -> Option<ExitCode> {
    if rustix::process::getpid().is_init() {
        return None;
    }
    let mut arguments = std::env::args_os().skip(1);
    let role = arguments.next()?;
    if !matches!(role.to_str()?, "pipe" | "launch" | "confine" | "console" | "share") {
        return None;
    }
    // It lives as long as the machine: what whoever started it has open (a lock, a terminal) is not its to hold.
    close_from(3);
    let done = match role.to_str()? {
        "pipe" => crate::pipe::run_on_host(Path::new(&arguments.next()?)),
        "launch" => crate::launch::run(arguments),
        "confine" => crate::confine::run(arguments),
        "console" => crate::console::run(arguments),
        "share" => crate::share::run_on_host(arguments),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    })
}

/// Says something where whoever started this hears it.
pub(crate) fn complain(why: &dyn Display) {
    let line = format!("sandbar-agent: {why}").replace('\n', " ");
    let _ = rustix::io::write(rustix::stdio::stderr(), format!("{line}\n").as_bytes());
}

enum Never {}

/// By then everything that is only needed to start has been used, and usually the first command too.
const SETTLED: Duration = Duration::from_millis(100);

fn start() -> Result<Never, String> {
    memory::tune_allocator();
    let first = guest::is_first_process();
    // In a guest everything else waits for the kernel's file systems.
    let (config, entrance, guest) = if first {
        let (config, wire, guest) = guest::boot()?;
        (config, wire.into(), Some(guest))
    } else {
        let (config, listener) = inherit()?;
        let config = read_config(config)?;
        let entrance = match (listener, &config.listen_folder) {
            (Some(listener), None) => Entrance::Inherited(listener),
            (_, Some(folder)) => Entrance::Folder(path(folder).to_owned()),
            (None, None) => return Err("the configuration names no folder to listen in".to_owned()),
        };
        (config, entrance, None)
    };
    let signals = signals::listen().map_err(|error| format!("cannot read signals: {error}"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|errno| format!("cannot hide its memory: {errno}"))?;
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    if !config.init {
        stay_with(config.owner_pid)?;
    }
    if config.owner_input {
        stay_with_input()?;
    }
    // While this is the only thread: rights are each thread's own.
    let redirected =
        config.egress.then(|| Redirected::begin(first)).transpose().map_err(|error| format!("cannot redirect what leaves: {error}"))?;
    let settings = Settings::new(config, guest.as_ref())?;
    let null = null().map_err(|errno| format!("cannot make an empty stdin: {errno}"))?;
    let processes = settings.rules.processes;
    let spawner = Spawner::start(null).map_err(|error| format!("cannot start a thread: {error}"))?;
    if let Some(processes) = processes {
        // At the limit of the sandbox an exec is refused, as it is there for everybody.
        rustix::process::setrlimit(Resource::Nproc, processes).map_err(|errno| format!("cannot limit processes: {errno}"))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| format!("cannot make an event loop: {error}"))?;
    let agent = Rc::new(Agent::new(settings, spawner, guest));
    let error = tokio::task::LocalSet::new().block_on(&runtime, async move {
        let signals = agent.roll.watch(signals, Interest::READABLE)?;
        redirected.map_or(Ok(()), |redirected| redirected.serve(&agent))?;
        tokio::task::spawn_local(reaper::run(Rc::clone(&agent), signals));
        tokio::task::spawn_local(async {
            tokio::time::sleep(SETTLED).await;
            memory::forget_start();
        });
        let failed = match entrance {
            Entrance::Inherited(listener) => server::run(agent, Door::inherited(listener)?).await,
            Entrance::Guest(listener) => server::run(agent, Door::guest(listener)?).await,
            Entrance::Folder(folder) => server::run(agent, Door::open(folder)?).await,
            Entrance::Pipe(port) => {
                let mut connections = pipe::run_in_guest(port)?;
                while let Some(socket) = connections.recv().await {
                    server::welcome_in_guest(&agent, socket);
                }
                io::Error::other("the thread that serves the pipe has ended")
            }
        };
        io::Result::Err(failed)
    });
    match error {
        Ok(never) => Ok(never),
        Err(error) => Err(format!("cannot begin: {error}")),
    }
}

/// Where the listener comes from.
enum Entrance {
    Inherited(OwnedFd),
    Folder(PathBuf),
    Guest(OwnedFd),
    Pipe(OwnedFd),
}

impl From<Wire> for Entrance {
    fn from(wire: Wire) -> Self {
        match wire {
            Wire::Listener(listener) => Self::Guest(listener),
            Wire::Pipe(port) => Self::Pipe(port),
        }
    }
}

/// Takes the configuration, by its option or as a descriptor, and with the latter the listener; closes all other descriptors, and sees to it that 0, 1
/// and 2 are taken.
fn inherit() -> Result<(OwnedFd, Option<OwnedFd>), String> {
    let mut arguments = std::env::args_os().skip(1);
    if let Some(option) = arguments.next() {
        let file = arguments.next().filter(|_| option == CONFIG_OPTION);
        let file = file.ok_or_else(|| format!("expected nothing, or {CONFIG_OPTION} FILE"))?;
        close_from(CONFIG_FD);
        take_standard_descriptors()?;
        let config = rustix::fs::open(Path::new(&file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        return Ok((config.map_err(|errno| format!("cannot open {file:?}: {errno}"))?, None));
    }
    let take = |number: RawFd, what: &str| {
        // SAFETY: the contract of the start says that these are open and nobody else's; it is checked below.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        match rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC) {
            Ok(()) => Ok(fd),
            Err(errno) => {
                std::mem::forget(fd);
                Err(format!("descriptor {number} must be {what}: {errno}"))
            }
        }
    };
    let config = take(CONFIG_FD, "the configuration")?;
    let listener = take(LISTEN_FD, "the listening socket")?;
    close_from(LISTEN_FD + 1);
    take_standard_descriptors()?;
    rustix::fs::fcntl_getfl(&listener)
        .and_then(|flags| rustix::fs::fcntl_setfl(&listener, flags | OFlags::NONBLOCK))
        .map_err(|errno| format!("cannot use the listening socket: {errno}"))?;
    Ok((config, Some(listener)))
}

/// A descriptor that is closed would be taken by the next file, which commands then would inherit.
fn take_standard_descriptors() -> Result<(), String> {
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        if rustix::io::fcntl_getfd(fd).is_err() {
            let opened = rustix::fs::open(c"/dev/null", OFlags::RDWR, Mode::empty());
            std::mem::forget(opened.map_err(|errno| format!("cannot open /dev/null: {errno}"))?);
        }
    }
    Ok(())
}

/// Closes everything from a number on: what was inherited by mistake.
fn close_from(first: RawFd) {
    // SAFETY: called before anything of this process is open there.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_int::MAX, 0) };
}

fn read_config(file: OwnedFd) -> Result<AgentConfig, String> {
    let mut bytes = Vec::new();
    File::from(file).take(MAX_MESSAGE as u64).read_to_end(&mut bytes).map_err(|error| format!("cannot read the configuration: {error}"))?;
    // Whoever starts an agent over a pipe, and dies before it has written down that there is one, closes it without a word.
    if bytes.is_empty() {
        return Err("the configuration is empty: whoever started this is gone".to_owned());
    }
    AgentConfig::decode(bytes.as_slice()).map_err(|error| format!("the configuration is malformed: {error}"))
}

/// As no process 1: adopts what its descendants leave behind, and hears, as TERM, of the end of its owner. Not as KILL, so that it can
/// end its descendants first.
fn stay_with(owner: u32) -> Result<(), String> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|errno| format!("cannot adopt orphans: {errno}"))?;
    let Some(owner) = i32::try_from(owner).ok().and_then(Pid::from_raw) else { return Ok(()) };
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(|errno| format!("cannot follow its owner: {errno}"))?;
    // It may have gone before that was asked for.
    if rustix::process::getppid() == Some(owner) { Ok(()) } else { Err(format!("the owner, process {}, is gone", owner.as_raw_pid())) }
}

/// Ends, and everything with it where this is process 1, when standard input ends, which is when an engine has lost whoever held the other end.
fn stay_with_input() -> Result<(), String> {
    let cannot = |errno: rustix::io::Errno| format!("cannot follow its standard input: {errno}");
    let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), LISTEN_FD + 1).map_err(cannot)?;
    // Commands have no part in it.
    rustix::stdio::dup2_stdin(null().map_err(cannot)?).map_err(cannot)?;
    let follow = move || {
        let _ = io::copy(&mut File::from(input), &mut io::sink());
        std::process::exit(0);
    };
    std::thread::Builder::new().stack_size(64 << 10).spawn(follow).map_err(|error| format!("cannot start a thread: {error}"))?;
    Ok(())
}

/// What a command without stdin reads: `/dev/null`, or a pipe that nobody writes to where there is none.
fn null() -> Result<OwnedFd, rustix::io::Errno> {
    let opened = rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    opened.or_else(|_| rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map(|(read, _)| read))
}
