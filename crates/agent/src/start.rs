//! The process itself: what it inherits, and what it must be before it listens.
#![expect(unsafe_code, reason = "inherited descriptors are taken and closed by number")]

use std::{
    fmt::Display,
    fs::{DirBuilder, File},
    io::{self, Read},
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::fs::{DirBuilderExt, chown},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use prost::Message;
use rustix::{
    fs::{Mode, OFlags},
    io::FdFlags,
    process::{DumpableBehavior, Pid, Resource, Rlimit, Signal},
    thread::CapabilitySet,
};
use sandbar_protocol::{AgentConfig, CONFIG_FD, CONFIG_OPTION, LISTEN_FD, MAX_MESSAGE};
use sandbar_tree::Base;
use tokio::io::Interest;

use crate::{
    agent::Agent,
    child::Rules,
    door::Door,
    egress,
    files::path,
    memory, readiness, reaper, server, signals,
    spawn::Spawner,
    users::{self, User},
};

/// Runs the agent; what keeps it from running is said in one line on stderr.
pub fn run() -> ExitCode {
    // A defect ends the agent in every build, not only where the profile says so: half of one is worse than none.
    std::panic::set_hook(Box::new(|defect| {
        complain(defect);
        std::process::abort();
    }));
    match start() {
        Ok(never) => match never {},
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

fn complain(why: &dyn Display) {
    let line = format!("sandbar-agent: {why}").replace('\n', " ");
    let _ = rustix::io::write(rustix::stdio::stderr(), format!("{line}\n").as_bytes());
}

enum Never {}

/// By then everything that is only needed to start has been used, and usually the first command too.
const SETTLED: Duration = Duration::from_millis(100);

fn start() -> Result<Never, String> {
    memory::tune_allocator();
    let (config, listener) = inherit()?;
    let signals = signals::listen().map_err(|error| format!("cannot read signals: {error}"))?;
    let config = read_config(config)?;
    let listener = match (listener, &config.listen_folder) {
        (Some(listener), None) => Entrance::Inherited(listener),
        (_, Some(folder)) => Entrance::Folder(path(folder).to_owned()),
        (None, None) => return Err("the configuration names no folder to listen in".to_owned()),
    };
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|errno| format!("cannot hide its memory: {errno}"))?;
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    if !config.init {
        stay_with(config.owner_pid)?;
    }
    if config.owner_input {
        stay_with_input()?;
    }
    let rules = rules(&config)?;
    let user = config.user.as_ref().and_then(|user| users::resolve(user).ok()).unwrap_or_else(users::own);
    let base = base(&config, &user)?;
    let null = null().map_err(|errno| format!("cannot make an empty stdin: {errno}"))?;
    let processes = rules.processes;
    let spawner = Spawner::start(rules, null).map_err(|error| format!("cannot start a thread: {error}"))?;
    if let Some(processes) = processes {
        // At the limit of the sandbox an exec is refused, as it is there for everybody.
        rustix::process::setrlimit(Resource::Nproc, processes).map_err(|errno| format!("cannot limit processes: {errno}"))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| format!("cannot make an event loop: {error}"))?;
    let agent = Rc::new(Agent::new(config, spawner, base, (user.uid, user.gid)));
    let error = tokio::task::LocalSet::new().block_on(&runtime, async move {
        let signals = readiness::register(signals, Interest::READABLE)?;
        let door = match listener {
            Entrance::Inherited(listener) => Door::inherited(listener)?,
            Entrance::Folder(folder) => Door::open(folder)?,
        };
        if agent.config.egress {
            egress::start(&agent.egress)?;
        }
        tokio::task::spawn_local(reaper::run(Rc::clone(&agent), signals));
        tokio::task::spawn_local(async {
            tokio::time::sleep(SETTLED).await;
            memory::forget_start();
        });
        io::Result::Err(server::run(agent, door).await)
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

fn rules(config: &AgentConfig) -> Result<Rules, String> {
    let own = rustix::process::getrlimit(Resource::Nofile);
    let wanted = config.open_files.map_or(own, |limit| Rlimit { current: Some(limit), maximum: Some(limit) });
    let open_files = within(wanted, own);
    // The agent itself holds a few for each connection.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: own.maximum, maximum: own.maximum });
    let processes = config
        .processes
        .map(|limit| within(Rlimit { current: Some(limit), maximum: Some(limit) }, rustix::process::getrlimit(Resource::Nproc)));
    let kept = config.capabilities.map(CapabilitySet::from_bits_retain);
    Ok(Rules {
        open_files,
        processes,
        oom_score_adj: (config.oom_score_adj != 0).then(|| config.oom_score_adj.to_string().into_bytes()),
        unbound: kept.map_or(Ok(Vec::new()), unbound)?,
        kept,
        dies_with_agent: !config.init,
    })
}

/// No limit is raised over the hard one that this process has.
fn within(wanted: Rlimit, own: Rlimit) -> Rlimit {
    let least = |first: Option<u64>, second: Option<u64>| match (first, second) {
        (Some(first), Some(second)) => Some(first.min(second)),
        (limit, None) | (None, limit) => limit,
    };
    Rlimit { current: least(wanted.current, own.maximum), maximum: least(wanted.maximum, own.maximum) }
}

/// What is to be taken out of the bounding set.
fn unbound(kept: CapabilitySet) -> Result<Vec<CapabilitySet>, String> {
    let own = rustix::thread::capabilities(None).map_err(|errno| format!("cannot read its capabilities: {errno}"))?;
    if !own.effective.contains(CapabilitySet::SETPCAP) {
        // It cannot change the bounding set; that is no loss if it has nothing to hand down.
        let surplus = own.permitted.difference(kept);
        return if surplus.is_empty() {
            Ok(Vec::new())
        } else {
            Err(format!("cannot drop capabilities {:#x} without CAP_SETPCAP", surplus.bits()))
        };
    }
    let each = (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number));
    let is_bound = |capability: &CapabilitySet| rustix::thread::capability_is_in_bounding_set(*capability) == Ok(true);
    Ok(each.filter(|capability| !kept.contains(*capability)).filter(is_bound).collect())
}

/// Where paths of file calls are resolved. The working directory is made if it is missing.
fn base(config: &AgentConfig, user: &User) -> Result<Base, String> {
    if let Some(workdir) = &config.workdir {
        make_workdir(path(workdir), user).map_err(|error| format!("cannot make the working directory {:?}: {error}", path(workdir)))?;
    }
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    if let Some(jail) = &config.jail {
        let jail = path(jail);
        let directory = open(jail).map_err(|errno| format!("cannot open the workspace {jail:?}: {errno}"))?;
        let base = Base::jail(directory, Some(PathBuf::from(jail)));
        return Ok(match &config.workdir {
            Some(workdir) => base.with_working_directory(path(workdir)),
            None => base,
        });
    }
    let home = user.entry.as_ref().map(|entry| path(&entry.home));
    let workdir = config.workdir.as_ref().map(|workdir| path(workdir)).or(home).unwrap_or(Path::new("/"));
    match open(workdir).or_else(|_| open(Path::new("/"))) {
        Ok(directory) => Ok(Base::root_at(directory)),
        Err(errno) => Err(format!("cannot open the root directory: {errno}")),
    }
}

/// Makes what is missing of a path, for the user.
fn make_workdir(path: &Path, user: &User) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists()).collect();
    for directory in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o755).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        chown(directory, Some(user.uid), Some(user.gid)).or_else(|error| if user.uid == 0 { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}

/// What a command without stdin reads: `/dev/null`, or a pipe that nobody writes to where there is none.
fn null() -> Result<OwnedFd, rustix::io::Errno> {
    let opened = rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    opened.or_else(|_| rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map(|(read, _)| read))
}
