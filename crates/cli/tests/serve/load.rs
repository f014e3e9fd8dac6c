//! Many at once.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, LazyLock},
    time::Instant,
};

use futures_util::{StreamExt, stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::server::{PATIENCE, Server, Socket, expect};

pub const MIB: u64 = 1 << 20;
/// Bytes of a line of numbered output: what belongs at an offset is known from the offset.
const LINE: u64 = 8;
/// The first number, and how many there are that have as many digits.
const FIRST: u64 = 1_000_000;
const NUMBERS: u64 = 600_000;
/// What a command with much to say says in a second: nobody has an unbounded one, and whoever runs on without a client would take every processor.
const PACE: f64 = 24e6;
/// Descriptors that may come and go: connections that this test's client keeps, and those of the ledger.
const AROUND: usize = 8;
/// Memory of the server for a command that somebody waits for, at most; and for one whose output is on its way.
pub const EACH_COMMAND: u64 = 160 << 10;
pub const EACH_STREAM: u64 = MIB / 2;
/// And for whatever happened once: the allocator's own, more threads for blocking work.
const ONCE: u64 = 32 * MIB;
/// Sandboxes that are made at once.
const MAKERS: usize = 8;

impl Server {
    /// A number of `/proc/PID/status` in KiB, as bytes.
    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// The most memory that the server ever had.
    pub fn peak(&self) -> u64 {
        self.status("VmHWM")
    }

    /// Fails where the peak is more than this much, and what happened once, above what it was before.
    pub fn has_grown(&self, before: u64, most: u64) {
        let grown = self.peak() - before;
        assert!(grown <= most + ONCE, "by {} KiB, of {} KiB", grown >> 10, (most + ONCE) >> 10);
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Waits until the server holds no more descriptors than before.
    pub async fn lets_go(&self, before: usize) {
        let until = Instant::now() + PATIENCE;
        while self.descriptors() > before + AROUND {
            assert!(Instant::now() < until, "{} descriptors, {before} before", self.descriptors());
            // What it says comes after what it has let go of.
            self.get("/v1/sandboxes?limit=1").await;
        }
    }

    pub async fn create_many(&self, count: usize) -> Vec<String> {
        stream::iter(0..count).map(|_| self.create(json!({ "provider": "container" }))).buffered(MAKERS).collect().await
    }

    pub async fn begin(&self, id: &str, command: Value) -> (Socket, u64) {
        let mut socket = self.socket(&format!("/v1/sandboxes/{id}/exec")).await;
        socket.say(&command).await;
        let pid = socket.started().await;
        (socket, pid)
    }

    /// Waits until no command has a client any more.
    async fn attends_to_nobody(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let attended = self.attended().await;
            if attended == "0" {
                break;
            }
            assert!(Instant::now() < until, "{attended} commands are still attended");
        }
    }

    pub async fn attended(&self) -> String {
        let text = self.request(Method::GET, "/metrics?sandboxes=false").send().await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix("sandbar_commands_attended ")).unwrap().to_owned()
    }
}

/// Numbered lines without end, [`PACE`] bytes a second at most: after the last number comes the first.
pub fn numbers(kill_on_disconnect: bool) -> Value {
    let (last, pause) = (FIRST + NUMBERS - 1, LINE as f64 * NUMBERS as f64 / PACE);
    let line = format!("seq {FIRST} {last} > /tmp/$$; while :; do cat /tmp/$$ & sleep {pause}; wait; done");
    json!({ "shell": line, "kill_on_disconnect": kill_on_disconnect })
}

/// All lines once, as `seq` prints them: gigabytes are compared with it.
static NUMBERED: LazyLock<Vec<u8>> =
    LazyLock::new(|| (FIRST..FIRST + NUMBERS).flat_map(|number| format!("{number}\n").into_bytes()).collect());

/// Whether numbered output has this at an offset.
fn is_numbered(offset: u64, mut data: &[u8]) -> bool {
    let mut expected = &NUMBERED[(offset % (LINE * NUMBERS)) as usize..];
    while !data.is_empty() {
        let (now, later) = data.split_at(data.len().min(expected.len()));
        if !expected.starts_with(now) {
            return false;
        }
        (data, expected) = (later, &NUMBERED);
    }
    true
}

/// Where a reader of numbered output is.
#[derive(Debug, Default)]
pub struct Place {
    pub offset: u64,
    /// What the ring did not keep.
    pub lost: u64,
    end: Option<Value>,
}

impl Place {
    /// Takes a message; what belongs at another place, or is something else, fails.
    pub fn take(&mut self, message: Message) {
        match message {
            Message::Binary(bytes) => {
                let (head, data) = bytes.split_at(9);
                assert_eq!(u64::from_be_bytes(head[1..].try_into().unwrap()), self.offset, "output is missing");
                assert!(is_numbered(self.offset, data), "not the output of {}", self.offset);
                self.offset += data.len() as u64;
            }
            Message::Text(text) => {
                let words: Value = serde_json::from_str(&text).unwrap();
                match words["type"].as_str().unwrap() {
                    "lost" => {
                        self.lost += words["bytes"].as_u64().unwrap();
                        self.offset += words["bytes"].as_u64().unwrap();
                    }
                    "exited" => self.end = Some(words),
                    _ => panic!("{words}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn many_commands_run_at_once_in_many_sandboxes() {
    let (sandboxes, commands) = (200, 2000);
    let server = Server::new();
    let ids = server.create_many(sandboxes).await;
    let mut listed = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("/v1/sandboxes?limit=7{cursor}")).await;
        listed.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(listed, ids.iter().cloned().collect());
    let (before, peak) = (server.descriptors(), server.peak());

    let (server, ids) = (Arc::new(server), Arc::new(ids));
    let begun = stream::iter(0..commands).map(|number| {
        let (server, ids) = (Arc::clone(&server), Arc::clone(&ids));
        async move {
            let line = json!({ "shell": format!("read x; echo {number} $x; echo e{number} >&2; exit {}", number % 100), "stdin": true });
            (number, server.begin(&ids[number % ids.len()], line).await.0)
        }
    });
    let begun: Vec<_> = begun.buffer_unordered(64).collect().await;
    assert_eq!(server.attended().await, commands.to_string());
    let ended = stream::iter(begun).for_each_concurrent(None, |(number, mut socket)| async move {
        socket.write(format!("word{number}\n").as_bytes()).await;
        let said = socket.listen().await;
        assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{number} word{number}\n"));
        assert_eq!(String::from_utf8_lossy(&said.stderr), format!("e{number}\n"));
        assert_eq!((&said.end["type"], &said.end["exit_code"]), (&"exited".into(), &(number % 100).into()));
    });
    ended.await;
    server.has_grown(peak, commands as u64 * EACH_COMMAND);
    server.lets_go(before).await;
    server.attends_to_nobody().await;
}

#[tokio::test]
async fn large_outputs_and_clients_that_do_not_read_take_little_memory() {
    let (sandboxes, readers, sleepers, each) = (10, 50, 50, 64 * MIB);
    let server = Server::new();
    let ids = server.create_many(sandboxes).await;
    server.begin(&ids[0], json!({ "argv": ["true"] })).await.0.listen().await;
    let (before, peak) = (server.descriptors(), server.peak());

    let id = |number: usize| &ids[number % ids.len()];
    let asleep: Vec<_> = stream::iter(0..sleepers).then(|number| server.begin(id(number), numbers(true))).collect().await;
    let awake = stream::iter(0..readers).for_each_concurrent(None, |number| {
        let begun = server.begin(id(number), numbers(true));
        async move {
            let (mut socket, _) = begun.await;
            let mut place = Place::default();
            while place.offset < each {
                place.take(socket.next().await.unwrap());
            }
            assert_eq!(place.lost, 0);
        }
    });
    awake.await;
    // Whoever did not read has lost nothing, and holds up nobody.
    for (number, (mut socket, pid)) in asleep.into_iter().enumerate() {
        let info = server.get(&format!("/v1/sandboxes/{}/processes/{pid}", id(number))).await;
        assert!(info["ended_ms"].is_null() && info["output_end"].as_u64() < Some(each.max(16 * MIB)), "{info}");
        let mut place = Place::default();
        while place.offset < MIB {
            place.take(socket.next().await.unwrap());
        }
        assert_eq!(place.lost, 0);
    }
    server.has_grown(peak, (readers + sleepers) as u64 * EACH_STREAM);
    // All clients have vanished by now, in the middle of the output.
    server.lets_go(before).await;
    server.attends_to_nobody().await;
}

/// A command that somebody listens to.
struct Attended {
    socket: Socket,
    pid: u64,
    place: Place,
}

#[tokio::test]
async fn what_streams_when_the_server_is_killed_goes_on_where_it_was() {
    let (sandboxes, streams, others) = (200, 50, 1950);
    let mut server = Server::new();
    let ids = server.create_many(sandboxes).await;
    let id = |number: usize| ids[number % ids.len()].as_str();
    // Most commands have little to say, and wait.
    let waiting = waiting();
    let begun = stream::iter(0..streams + others).map(|number| {
        let (server, waiting) = (&server, &waiting);
        async move { server.begin(id(number), if number < streams { numbers(false) } else { waiting.clone() }).await }
    });
    let mut clients: Vec<_> = begun.buffered(16).map(|(socket, pid)| Attended { socket, pid, place: Place::default() }).collect().await;
    // Everyone is in the middle.
    let (streaming, waiters) = clients.split_at_mut(streams);
    for Attended { socket, place, .. } in streaming {
        while place.offset < 4 * MIB {
            place.take(socket.next().await.unwrap());
        }
    }
    for Attended { socket, place, .. } in waiters {
        place.offset = has_begun(socket).await;
    }
    server.kill();
    let rest = stream::iter(clients).map(|Attended { mut socket, pid, mut place }| async move {
        // What has arrived before the end.
        while let Some(Ok(message)) = socket.try_next().await {
            // A client that is slow to read has been asked meanwhile whether it is there.
            if !message.is_ping() {
                place.take(message);
            }
        }
        (pid, place)
    });
    let places: Vec<_> = rest.buffered(streams + others).collect().await;
    server.again();
    let listed = server.listed(&format!("?limit={sandboxes}")).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), sandboxes);
    assert!(listed["items"].as_array().unwrap().iter().all(|item| item["state"] == "running"), "{listed}");
    let server = &server;
    let ended = stream::iter(places.into_iter().enumerate()).map(|(number, (pid, place))| async move {
        let path = format!("/v1/sandboxes/{}/processes/{pid}", id(number));
        let mut socket = server.socket(&format!("{path}/attach?from={}", place.offset)).await;
        assert_eq!(socket.started().await, pid);
        if number < streams { server.ends_streaming(socket, place, &path).await } else { ends_waiting(socket).await }
    });
    ended.buffer_unordered(16).collect::<Vec<()>>().await;
}

impl Server {
    /// Output goes on, with what the ring does not have told as lost, to its very end.
    pub async fn ends_streaming(&self, mut socket: Socket, mut place: Place, path: &str) {
        let reached = place.offset + MIB;
        while place.offset < reached {
            place.take(socket.next().await.unwrap());
        }
        let signal = self.request(Method::POST, &format!("{path}/signal")).json(&json!({ "signal": "KILL" }));
        expect(signal, StatusCode::NO_CONTENT).await;
        while let Some(message) = socket.next().await {
            place.take(message);
        }
        // What the killed shell had begun may still write what it has in its hands: whoever attaches later is told that too.
        let (lost, mut info) = (place.lost, self.get(path).await);
        while info["output_end"].as_u64() > Some(place.offset) {
            let mut socket = self.socket(&format!("{path}/attach?from={}", place.offset)).await;
            socket.started().await;
            while let Some(message) = socket.next().await {
                place.take(message);
            }
            assert!(info["output_end"].as_u64() <= Some(place.offset), "{info} {place:?}");
            info = self.get(path).await;
        }
        assert_eq!((&info["output_end"], lost), (&place.offset.into(), place.lost), "{place:?}");
        assert_eq!(place.end.as_ref().unwrap()["status"], info["status"]);
    }
}

/// A command that has little to say, and waits.
pub fn waiting() -> Value {
    json!({ "shell": "echo begun; read word; echo $word; exit 3", "stdin": true })
}

/// Hears that it waits; where its output is then.
pub async fn has_begun(socket: &mut Socket) -> u64 {
    let Some(Message::Binary(bytes)) = socket.next().await else { panic!("it has not begun") };
    assert_eq!(&bytes[9..], b"begun\n");
    6
}

/// Who waited has lost nothing, and hears what is said.
pub async fn ends_waiting(mut socket: Socket) {
    socket.write(b"word\n").await;
    let said = socket.listen().await;
    assert_eq!((String::from_utf8_lossy(&said.stdout).as_ref(), &said.end["exit_code"]), ("word\n", &3.into()), "{said:?}");
}
