//! Numbers for people: `cargo test -p sandbar-agent --test agent -- --ignored --nocapture measure`, with the program as it is shipped in
//! `SANDBAR_AGENT_BINARY`.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use sandbar_protocol::{Dial, FrameKind, Put, Target, read_frame, request::Operation, write_frame};

use crate::host::{Host, answer, argv};

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort();
    samples[samples.len() / 2]
}

#[test]
#[ignore = "prints numbers, checks nothing"]
fn measure_exec_and_memory() {
    let host = Host::new();
    host.ping();
    println!("resident after start: {} kB", host.resident());
    let mut agent = Vec::new();
    let mut ping = Vec::new();
    let mut plain = Vec::new();
    for _ in 0..300 {
        let start = Instant::now();
        host.ping();
        ping.push(start.elapsed());
        let start = Instant::now();
        host.exec(argv(&["/bin/true"])).collect();
        agent.push(start.elapsed());
        let start = Instant::now();
        let command = Command::new("/bin/true").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        assert!(command.unwrap().status.success());
        plain.push(start.elapsed());
    }
    let (agent, plain, ping) = (median(agent), median(plain), median(ping));
    println!("ping {ping:?}, exec {agent:?}, spawn in this process {plain:?}: {:.2}", agent.as_secs_f64() / plain.as_secs_f64());
    println!("resident after 300 execs: {} kB", host.resident());
}

const SIZE: usize = 1 << 30;
const CHUNK: usize = 256 << 10;

fn push(to: &mut impl Write) {
    let chunk = vec![7; CHUNK];
    for _ in 0..SIZE / CHUNK {
        to.write_all(&chunk).unwrap();
    }
}

fn pull(from: &mut impl Read) -> usize {
    let mut chunk = vec![0; CHUNK];
    let mut all = 0;
    loop {
        match from.read(&mut chunk).unwrap() {
            0 => return all,
            length => all += length,
        }
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk).unwrap() {
            0 => return,
            length => to.write_all(&chunk[..length]).unwrap(),
        }
    }
}

/// Seconds of processor time.
fn cpu(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn rate(start: Instant) -> f64 {
    SIZE as f64 / start.elapsed().as_secs_f64() / f64::from(1 << 30)
}

#[test]
#[ignore = "prints numbers, checks nothing"]
fn measure_streams() {
    let host = Host::new();
    for _ in 0..3 {
        let mut seconds = Vec::new();
        let mut last = cpu(host.pid());
        let mut spent = |what: &'static str| {
            let now = cpu(host.pid());
            seconds.push((what, now - last));
            last = now;
        };
        let start = Instant::now();
        let (mut first, mut second) = UnixStream::pair().unwrap();
        let writer = thread::spawn(move || push(&mut first));
        assert_eq!(pull(&mut second), SIZE);
        writer.join().unwrap();
        let plain = rate(start);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = u32::from(listener.local_addr().unwrap().port());
        let start = Instant::now();
        let server = thread::spawn(move || push(&mut listener.accept().unwrap().0));
        assert_eq!(pull(&mut std::net::TcpStream::connect(("127.0.0.1", port as u16)).unwrap()), SIZE);
        server.join().unwrap();
        let tcp = rate(start);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = u32::from(listener.local_addr().unwrap().port());
        let start = Instant::now();
        let server = thread::spawn(move || push(&mut listener.accept().unwrap().0));
        let mut stream = host.done(Operation::Dial(Dial { port }));
        assert_eq!(pull(&mut stream), SIZE);
        server.join().unwrap();
        let out = rate(start);
        spent("out");

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = u32::from(listener.local_addr().unwrap().port());
        let start = Instant::now();
        let server = thread::spawn(move || pull(&mut listener.accept().unwrap().0));
        let mut stream = host.done(Operation::Dial(Dial { port }));
        push(&mut stream);
        drop(stream);
        assert_eq!(server.join().unwrap(), SIZE);
        let into = rate(start);
        spent("into");

        // What any program must do: from a socket into a file, from a file into a socket.
        let start = Instant::now();
        let (mut first, mut second) = UnixStream::pair().unwrap();
        let path = host.workspace().join("plain");
        let writer = thread::spawn(move || push(&mut first));
        let mut file = std::fs::File::create(&path).unwrap();
        copy(&mut second, &mut file);
        writer.join().unwrap();
        let plain_put = rate(start);
        let start = Instant::now();
        let (first, mut second) = UnixStream::pair().unwrap();
        let reader = thread::spawn(move || copy(&mut std::fs::File::open(path).unwrap(), &mut { first }));
        assert_eq!(pull(&mut second), SIZE);
        reader.join().unwrap();
        let plain_get = rate(start);
        std::fs::remove_file(host.workspace().join("plain")).unwrap();

        let start = Instant::now();
        let mut stream = host.send(Operation::PutFile(Put { path: b"big".to_vec(), ..Put::default() }));
        let chunk = vec![7; CHUNK];
        for _ in 0..SIZE / CHUNK {
            write_frame(&mut stream, FrameKind::Bytes, &chunk).unwrap();
        }
        write_frame(&mut stream, FrameKind::End, &[]).unwrap();
        answer(&mut stream);
        let put = rate(start);
        spent("put");

        let start = Instant::now();
        let (mut stream, _) = host.ask(Operation::GetFile(Target { path: b"big".to_vec(), offset: 0 }));
        while read_frame(&mut stream).unwrap().unwrap().kind != FrameKind::End {}
        let get = rate(start);
        spent("get");

        let start = Instant::now();
        let output = host.run("head -c 1073741824 /dev/zero");
        assert_eq!(output.stdout.len(), SIZE);
        let exec = rate(start);
        spent("exec");
        println!("the agent's processor seconds per GiB: {seconds:?}");
        println!(
            "GiB/s: unix {plain:.2} tcp {tcp:.2}, port out {out:.2}, port in {into:.2}, put {put:.2} plain {plain_put:.2}, get {get:.2} plain {plain_get:.2}, exec output {exec:.2}"
        );
    }
    println!("resident afterwards: {} kB", host.resident());
}
