//! The schema is frozen: what old agents and hosts were built with must mean the same for ever.
//!
//! `schema.txt` holds one line for each sample: its name and its bytes. A new field adds a sample to the end of the list here and a line to
//! the end of the file (`SANDBAR_ADD_TO_SCHEMA=1` writes it); a line that exists is never changed.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::{fmt::Debug, fs, path::Path};

use prost::Message;
use sandbar_protocol::{
    AgentConfig, Attach, Chunk, Claimed, Dial, DirEntries, DiskRole, Egress, Empty, Entry, EnvVar, Event, Exec, Exited, Failure, GetLayer,
    GuestBoot, GuestDisk, GuestLimits, GuestWire, Identity, Input, KindOfFile, Leave, List, Lost, MakeDir, OpenPorts, Owner, Ping, Pong,
    Preamble, Process, ProcessList, PtySize, Put, Question, Quiesce, ReadDir, Remote, Remove, Rename, Renewal, Reply, Request, Resumed,
    Settle, Share, Shutdown, SignalProcess, Started, Stat, Status, Symlink, Target, Usage, UsageReport, UserRef, VERSION, Verdict, Watch,
    WatchEvent, WatchPorts, event, input, question, reply, request, user_ref,
};

type Check = Box<dyn Fn(&[u8])>;

/// A sample: its name, its bytes, and whether its bytes decode to it again, with and without fields that nobody knows.
struct Sample {
    name: String,
    bytes: Vec<u8>,
    check: Check,
}

fn sample<M: Message + Default + PartialEq + Debug + Clone + 'static>(name: impl Into<String>, message: M) -> Sample {
    let bytes = message.encode_to_vec();
    let check = move |bytes: &[u8]| {
        assert_eq!(M::decode(bytes).as_ref(), Ok(&message));
        // Field 1000 as a number, as text and as a message; a reader that knows less must not care.
        for unknown in [&[0xc0, 0x3e, 0x2a][..], &[0xc2, 0x3e, 3, b'n', b'e', b'w'], &[0xc2, 0x3e, 2, 0x08, 0x01]] {
            assert_eq!(M::decode([bytes, unknown].concat().as_slice()).as_ref(), Ok(&message));
            assert_eq!(M::decode([unknown, bytes].concat().as_slice()).as_ref(), Ok(&message));
        }
    };
    Sample { name: name.into(), bytes, check: Box::new(check) }
}

fn env(name: &str, value: Option<&str>) -> EnvVar {
    EnvVar { name: name.into(), value: value.map(Into::into) }
}

fn user() -> UserRef {
    UserRef { which: Some(user_ref::Which::Name("somebody".into())), gid: Some(1001) }
}

fn status() -> Status {
    Status { code: Some(-3), signal: Some(15), timed_out: true }
}

fn exec() -> Exec {
    Exec {
        argv: vec![b"echo".to_vec(), vec![0xff, 0xfe]],
        env: vec![env("A", Some("1")), env("B", None)],
        workdir: Some(b"/work".to_vec()),
        user: Some(user()),
        pty: Some(PtySize { rows: 24, columns: 80 }),
        stdin: true,
        timeout_ms: 1001,
        grace_ms: 1002,
        kill_on_disconnect: true,
    }
}

fn process() -> Process {
    Process {
        pid: 11,
        command: "echo".into(),
        started_ms: 1_700_000_000_001,
        ended_ms: Some(1_700_000_000_002),
        status: Some(status()),
        pty: true,
        attached: 12,
        output_start: 13,
        output_end: 14,
        epoch: 15,
    }
}

fn put() -> Put {
    Put { path: b"/put".to_vec(), mode: Some(0o640), owner: Some(Owner { uid: 21, gid: 22 }), make_parents: true, no_replace: true }
}

fn target() -> Target {
    Target { path: b"/get".to_vec(), offset: 31 }
}

fn entry() -> Entry {
    Entry {
        name: b"name".to_vec(),
        kind: KindOfFile::Symlink as i32,
        size: 41,
        mode: 0o777,
        uid: 42,
        gid: 43,
        modified_ns: -44,
        symlink_target: Some(b"target".to_vec()),
    }
}

fn failure() -> Failure {
    Failure { kind: "not_found".into(), message: "no such thing".into(), errno: Some(2) }
}

fn resumed() -> Resumed {
    let identity = Identity { hostname: "clone".into(), machine_id: "0123456789abcdef0123456789abcdef".into() };
    Resumed { seed: vec![51; 32], now_ns: 1_700_000_000_000_000_003, identity: Some(identity), config: None }
}

fn config() -> AgentConfig {
    AgentConfig {
        listen_folder: None,
        owner_input: false,
        egress: false,
        datagrams: false,
        guest: None,
        env: vec![env("C", Some("3"))],
        workdir: Some(b"/home".to_vec()),
        user: Some(UserRef { which: Some(user_ref::Which::Uid(61)), gid: None }),
        jail: Some(b"/jail".to_vec()),
        init: true,
        open_files: Some(62),
        processes: Some(63),
        capabilities: Some(64),
        oom_score_adj: -65,
        ring_bytes: 66,
        owner_pid: 67,
    }
}

fn watch_event() -> WatchEvent {
    WatchEvent { kind: 4, path: b"changed".to_vec(), is_directory: true }
}

/// Every message, every field of it with a value of its own, every choice of every `oneof`.
fn samples() -> Vec<Sample> {
    use request::Operation;
    let operations = [
        ("ping", Operation::Ping(Ping {})),
        ("exec", Operation::Exec(exec())),
        ("attach", Operation::Attach(Attach { pid: 1, from: Some(0), ..Attach::default() })),
        ("list", Operation::List(List {})),
        ("signal", Operation::Signal(SignalProcess { pid: 2, signal: 9 })),
        ("put_file", Operation::PutFile(put())),
        ("get_file", Operation::GetFile(target())),
        ("put_tree", Operation::PutTree(put())),
        ("get_tree", Operation::GetTree(target())),
        ("read_dir", Operation::ReadDir(ReadDir { path: b"/dir".to_vec() })),
        ("stat", Operation::Stat(Stat { path: b"/stat".to_vec(), follow: true })),
        ("make_dir", Operation::MakeDir(MakeDir { path: b"/make".to_vec(), parents: true, mode: Some(0o700) })),
        ("rename", Operation::Rename(Rename { from: b"/from".to_vec(), to: b"/to".to_vec(), no_replace: true })),
        ("symlink", Operation::Symlink(Symlink { target: b"target".to_vec(), path: b"/link".to_vec() })),
        ("remove", Operation::Remove(Remove { path: b"/gone".to_vec(), recursive: true, missing_ok: true })),
        ("watch", Operation::Watch(Watch { path: b"/watch".to_vec(), recursive: true })),
        ("dial", Operation::Dial(Dial { port: 8080 })),
        ("usage", Operation::Usage(Usage {})),
        ("quiesce", Operation::Quiesce(Quiesce { resume_after_ms: 3 })),
        ("resumed", Operation::Resumed(resumed())),
        ("shutdown", Operation::Shutdown(Shutdown { grace_ms: 4, output_limit: 5 })),
    ];
    let answers = [
        ("done", reply::Answer::Done(Empty {})),
        ("failure", reply::Answer::Failure(failure())),
        ("pong", reply::Answer::Pong(Pong { agent: "1.2.3".into(), epoch: 6, ..Pong::default() })),
        ("started", reply::Answer::Started(Started { pid: 7, offset: 8, epoch: 9, input: 0 })),
        ("processes", reply::Answer::Processes(ProcessList { processes: vec![process()] })),
        ("entry", reply::Answer::Entry(entry())),
        ("entries", reply::Answer::Entries(DirEntries { entries: vec![entry()], last: true })),
        ("usage", reply::Answer::Usage(UsageReport { memory_bytes: 71, cpu_micros: 72, pids: 73 })),
        ("renewed", reply::Answer::Renewed(Renewal { done: vec!["clock".into()], failed: vec!["entropy".into()] })),
    ];
    let inputs = [("signal", input::What::Signal(-10)), ("resize", input::What::Resize(PtySize { rows: 81, columns: 82 }))];
    let events = [
        ("lost", event::What::Lost(Lost { bytes: 91 })),
        ("exited", event::What::Exited(Exited { status: Some(status()) })),
        ("watch", event::What::Watch(watch_event())),
        ("failure", event::What::Failure(failure())),
    ];
    let mut samples = vec![sample("AgentConfig", config()), sample("Chunk", Chunk { pid: 101, offset: 102 })];
    let request = |(name, operation)| sample(format!("Request.{name}"), Request { operation: Some(operation) });
    samples.extend(operations.map(request));
    samples.extend(answers.map(|(name, answer)| sample(format!("Reply.{name}"), Reply { answer: Some(answer) })));
    samples.extend(inputs.map(|(name, what)| sample(format!("Input.{name}"), Input { what: Some(what) })));
    samples.extend(events.map(|(name, what)| sample(format!("Event.{name}"), Event { what: Some(what) })));
    samples.push(sample("Event.input_closed", Event { what: Some(event::What::InputClosed(Empty {})) }));
    samples.push(sample("AgentConfig.listen_folder", AgentConfig { listen_folder: Some(b"/door".to_vec()), ..AgentConfig::default() }));
    samples.push(sample("AgentConfig.owner_input", AgentConfig { owner_input: true, ..AgentConfig::default() }));
    samples.push(sample("Attach.epoch", Attach { pid: 1, from: Some(0), epoch: Some(2), kill_on_disconnect: true }));
    let guest = GuestBoot {
        disks: vec![GuestDisk { role: DiskRole::Layer.into(), target: b"/volume".to_vec() }],
        hostname: "guest".into(),
        wire: GuestWire::Serial.into(),
        limits: Some(GuestLimits { memory_bytes: Some(111), processes: Some(112), cpu_millis: Some(113) }),
    };
    let last = [
        sample("AgentConfig.guest", AgentConfig { guest: Some(guest), ..AgentConfig::default() }),
        sample("Resumed.config", Resumed { config: Some(Box::new(config())), ..Resumed::default() }),
        sample("Request.get_layer", Request { operation: Some(request::Operation::GetLayer(GetLayer {})) }),
    ];
    samples.push(sample("Started.input", Started { pid: 7, offset: 8, epoch: 9, input: 10 }));
    samples.extend(last);
    samples.extend(leaving());
    samples.push(sample("Request.watch_ports", Request { operation: Some(request::Operation::WatchPorts(WatchPorts {})) }));
    samples.push(sample("Event.ports", Event { what: Some(event::What::Ports(OpenPorts { ports: vec![80, 443] })) }));
    samples.extend(volumes());
    let without = Pong { agent: "1.2.3".into(), no_datagrams: Some("no".into()), ..Pong::default() };
    samples.push(sample("Pong.no_datagrams", without));
    samples.push(sample("Pong.only_ports", Pong { only_ports: vec![80, 443], ..Pong::default() }));
    samples
}

fn volumes() -> [Sample; 2] {
    let share = Share { target: b"/mnt".to_vec(), read_only: true, is_file: true };
    [
        sample("Request.share", Request { operation: Some(request::Operation::Share(share)) }),
        sample("Request.settle", Request { operation: Some(request::Operation::Settle(Settle {})) }),
    ]
}

fn leaving() -> [Sample; 9] {
    let question = |what| Question { id: 121, process: Some(Claimed { pid: 122, name: b"curl".to_vec() }), what: Some(what) };
    let remote = Remote { name: Some("example.com".into()), address: vec![10, 0, 0, 1], port: 443 };
    [
        sample("AgentConfig.egress", AgentConfig { egress: true, ..AgentConfig::default() }),
        sample("Request.egress", Request { operation: Some(request::Operation::Egress(Egress { confirms_ends: false })) }),
        sample("Request.leave", Request { operation: Some(request::Operation::Leave(Leave { id: 123 })) }),
        sample("Question.name", question(question::What::Name("example.com".into()))),
        sample("Question.connection", question(question::What::Connection(remote.clone()))),
        sample("Verdict", Verdict { id: 124, allowed: true }),
        sample("AgentConfig.datagrams", AgentConfig { datagrams: true, ..AgentConfig::default() }),
        sample("Question.datagrams", question(question::What::Datagrams(remote))),
        sample("Egress.confirms_ends", Egress { confirms_ends: true }),
    ]
}

fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|index| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap()).collect()
}

#[test]
fn every_message_is_written_and_read_as_it_was_frozen() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema.txt");
    let frozen = fs::read_to_string(&file).unwrap_or_default();
    let mut lines = frozen.lines();
    let mut added = String::new();
    for sample in samples() {
        let line = format!("{} {}", sample.name, hex(&sample.bytes));
        match lines.next() {
            Some(known) => {
                assert_eq!(known, line, "the schema changed");
                (sample.check)(&unhex(known.rsplit_once(' ').unwrap().1));
            }
            None => added += &(line + "\n"),
        }
    }
    assert_eq!(lines.next(), None, "a sample is missing");
    if std::env::var_os("SANDBAR_ADD_TO_SCHEMA").is_some() {
        fs::write(file, frozen + &added).unwrap();
    } else {
        assert_eq!(added, "", "samples that are not frozen yet");
    }
}

#[test]
fn kinds_of_files_keep_their_numbers() {
    let kinds = [KindOfFile::Other, KindOfFile::File, KindOfFile::Directory, KindOfFile::Symlink];
    assert_eq!(kinds.map(|kind| kind as i32), [0, 1, 2, 3]);
}

#[test]
fn the_preamble_keeps_its_form() {
    assert_eq!(VERSION.encode(), *b"SBAR\x00\x01\x00\x00");
    assert_eq!(Preamble { major: 0x0102, minor: 0x0304 }.encode(), *b"SBAR\x01\x02\x03\x04");
    let newer = Preamble { minor: 9, ..VERSION };
    assert_eq!(Preamble::decode(newer.encode()).unwrap(), newer);
    assert!(Preamble::decode(Preamble { major: 2, minor: 0 }.encode()).is_err());
}
