//! What nobody should send.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use prost::Message;
use sandbar_protocol::{AgentConfig, Exec, FrameKind, PREAMBLE, Preamble, Reply, VERSION, read_frame, reply, write_frame};

use crate::host::{Host, answer, exited, shell};

fn refusal(stream: &mut UnixStream) -> String {
    match answer(stream) {
        reply::Answer::Failure(failure) => failure.kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn random_bytes_do_not_end_the_agent() {
    let host = Host::new();
    for round in 0..300_usize {
        let mut stream = host.connect();
        let mut bytes = vec![0; round * 7 % 2000];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
        let mut all = Vec::new();
        if round % 3 > 0 {
            all.extend_from_slice(&VERSION.encode());
        }
        if round % 3 == 2 {
            // A well-formed frame around garbage.
            write_frame(&mut all, FrameKind::Message, &bytes).unwrap();
        } else {
            all.extend_from_slice(&bytes);
        }
        let _ = stream.write_all(&all);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut ignored = Vec::new();
        let _ = stream.read_to_end(&mut ignored);
    }
    assert_eq!(host.ping(), 0);
}

#[test]
fn a_malformed_request_is_told() {
    let host = Host::new();
    let ask = |bytes: &[u8]| {
        let mut stream = host.connect();
        stream.write_all(bytes).unwrap();
        refusal(&mut stream)
    };
    let framed = |kind, payload: &[u8]| {
        let mut bytes = VERSION.encode().to_vec();
        write_frame(&mut bytes, kind, payload).unwrap();
        bytes
    };
    assert_eq!(ask(b"GET / HTTP/1.1\r\n\r\n"), "invalid_input");
    assert_eq!(ask(&[VERSION.encode().as_slice(), &[0xff; 5]].concat()), "invalid_input");
    assert_eq!(ask(&framed(FrameKind::Bytes, b"x")), "invalid_input");
    assert_eq!(ask(&framed(FrameKind::Message, &[0xff; 20])), "invalid_input");
    assert_eq!(ask(&framed(FrameKind::Message, &[])), "unsupported");
    assert_eq!(ask(&Preamble { major: 2, minor: 0 }.encode()), "unsupported");
}

#[test]
fn a_newer_minor_version_is_welcome() {
    let host = Host::new();
    let mut stream = host.connect();
    let mut bytes = Preamble { minor: 99, ..VERSION }.encode().to_vec();
    // Ping, with a field that nobody knows yet.
    write_frame(&mut bytes, FrameKind::Message, &[0x0a, 0x02, 0x78, 0x01]).unwrap();
    stream.write_all(&bytes).unwrap();
    assert!(matches!(answer(&mut stream), reply::Answer::Pong(_)));
}

#[test]
fn garbage_in_the_middle_of_a_session_ends_only_that() {
    let host = Host::new();
    let mut session = host.exec(Exec { stdin: true, ..shell("echo ready; read line; exit 7") });
    session.wait_for("ready");
    session.stream.write_all(&[0xff; 64]).unwrap();
    let mut rest = Vec::new();
    let _ = session.stream.read_to_end(&mut rest);
    let mut again = host.attach(session.started.pid, None);
    again.write(b"\n");
    assert_eq!(again.collect().status, exited(7));
}

#[test]
fn connections_over_the_limit_are_refused_and_room_comes_back() {
    let host = Host::new();
    let (own, wanted) = (rustix::process::getrlimit(rustix::process::Resource::Nofile), 4096 + 200);
    if own.maximum.is_some_and(|maximum| maximum < wanted) {
        return;
    }
    let raised = rustix::process::Rlimit { current: own.maximum, maximum: own.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let idle: Vec<_> = (0..4096).map(|_| host.connect()).collect();
    let mut over = host.connect();
    assert_eq!(refusal(&mut over), "resource_exhausted");
    drop(idle);
    crate::host::eventually("there is room again", || {
        let mut stream = host.send(sandbar_protocol::request::Operation::Ping(sandbar_protocol::Ping {}));
        let mut preamble = [0; PREAMBLE];
        stream.read_exact(&mut preamble).unwrap();
        let reply = read_frame(&mut stream).unwrap().unwrap().message::<Reply>().unwrap();
        matches!(reply.answer, Some(reply::Answer::Pong(_)))
    });
}

#[test]
fn a_start_without_what_it_needs_is_told_in_one_line() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_sandbar-agent")).env_clear().output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("sandbar-agent: descriptor 3") && text.lines().count() == 1, "{text}");
    assert!(AgentConfig::default().encode_to_vec().is_empty());
}
