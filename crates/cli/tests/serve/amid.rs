//! Clients that read nothing, and clients that go without a word, amid many sandboxes, many commands and much output; and the end of the server in the middle of it.

use std::time::Instant;

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    load::{EACH_COMMAND, EACH_STREAM, MIB, Place, ends_waiting, has_begun, numbers, waiting},
    server::{PATIENCE, Server, Socket},
    vanished::{Cable, connections},
};

/// Clients that are begun at once.
const AT_ONCE: usize = 16;
/// Seconds after which somebody who does not answer is given up.
const GIVEN_UP: &str = "3";

/// How many of each.
struct Crowd {
    sandboxes: usize,
    /// Who has little to say, and whose client listens.
    waiting: usize,
    /// Who has 24 MB a second to say, and whose client reads.
    reading: usize,
    /// The same, and whose client reads nothing.
    slow: usize,
    /// Clients that have a connection closed without a word; a half has the one kind of command, a half the other.
    closed: usize,
    /// Clients whose host is gone, likewise.
    gone: usize,
    /// What each client that reads has read in the end, at least.
    each: u64,
}

/// A moment's work.
const SMALL: Crowd = Crowd { sandboxes: 8, waiting: 40, reading: 6, slow: 4, closed: 6, gone: 6, each: 16 * MIB };
/// What the server is to bear: two thousand commands in all.
const FULL: Crowd = Crowd { sandboxes: 200, waiting: 1865, reading: 50, slow: 25, closed: 30, gone: 30, each: 64 * MIB };

/// A command with somebody at its other end, or nobody any more.
struct Attended {
    sandbox: usize,
    pid: u64,
    socket: Option<Socket>,
    place: Place,
}

impl Attended {
    fn new(sandbox: usize, (socket, pid): (Socket, u64)) -> Self {
        Self { sandbox, pid, socket: Some(socket), place: Place::default() }
    }

    async fn reads_until(&mut self, offset: u64) {
        let socket = self.socket.as_mut().unwrap();
        while self.place.offset < offset {
            self.place.take(socket.next().await.expect("it was cut off"));
        }
        assert_eq!(self.place.lost, 0);
    }

    async fn waits(&mut self) {
        self.place.offset = has_begun(self.socket.as_mut().unwrap()).await;
    }

    fn path(&self, ids: &[String]) -> String {
        format!("/v1/sandboxes/{}/processes/{}", ids[self.sandbox], self.pid)
    }

    /// What comes once the server is gone.
    async fn reads_the_rest(&mut self) {
        let Some(mut socket) = self.socket.take() else { return };
        while let Some(Ok(message)) = socket.try_next().await {
            if message.is_binary() || message.is_text() {
                self.place.take(message);
            }
        }
    }
}

#[tokio::test]
async fn who_does_not_read_and_who_vanishes_costs_the_others_nothing_and_a_kill_loses_nothing() {
    let crowd = if std::env::var_os("SANDBAR_LONG").is_some() { FULL } else { SMALL };
    let cable = match Cable::new() {
        Ok(cable) => cable,
        Err(why) => return eprintln!("ignored: {why}"),
    };
    let mut server = Server::listening("0.0.0.0:0", &["--client-timeout", GIVEN_UP]);
    let ids = server.create_many(crowd.sandboxes).await;
    server.begin(&ids[0], serde_json::json!({ "argv": ["true"] })).await.0.listen().await;
    let peak = server.peak();

    // Those who stay.
    let mut slow = begin(&server, &ids, crowd.slow, &numbers(false)).await;
    let mut waiters = begin(&server, &ids, crowd.waiting, &waiting()).await;
    for waiter in &mut waiters {
        waiter.waits().await;
    }
    let mut readers = begin(&server, &ids, crowd.reading, &numbers(false)).await;
    let staying = slow.len() + waiters.len() + readers.len();
    let descriptors = server.descriptors();

    // Those who do not. What the first half of them runs ends with its client, and says much until then.
    let mut closed = begin(&server, &ids, crowd.closed / 2, &numbers(true)).await;
    let mut closed_waiting = begin(&server, &ids, crowd.closed / 2, &waiting()).await;
    let (mut gone, mut gone_waiting) = (Vec::new(), Vec::new());
    for number in 0..crowd.gone {
        let sandbox = number % ids.len();
        let mut socket = server.socket_from(&cable, &format!("/v1/sandboxes/{}/exec", ids[sandbox])).await;
        let (command, of) = if number % 2 == 0 { (numbers(true), &mut gone) } else { (waiting(), &mut gone_waiting) };
        socket.say(&command).await;
        let pid = socket.started().await;
        of.push(Attended::new(sandbox, (socket, pid)));
    }
    for waiter in closed_waiting.iter_mut().chain(&mut gone_waiting) {
        waiter.waits().await;
    }
    for client in &mut closed {
        client.reads_until(MIB).await;
    }
    // They read, so that it is not for their slowness that they are given up.
    let mut reading = JoinSet::new();
    for client in &mut gone {
        let mut socket = client.socket.take().unwrap();
        reading.spawn(async move { while socket.try_next().await.is_some() {} });
    }
    read(&mut readers, MIB).await;
    assert_eq!(server.attended().await, (staying + crowd.closed + crowd.gone).to_string());
    assert_eq!(connections(&server, "192.0.2.2"), crowd.gone);

    // In the middle of it they are gone, and the others read on.
    for client in closed.iter_mut().chain(&mut closed_waiting) {
        drop(client.socket.take());
    }
    cable.pull();
    let begun = Instant::now();
    let before: u64 = readers.iter().map(|reader| reader.place.offset).sum();
    read(&mut readers, crowd.each).await;
    let (took, after) = (begun.elapsed(), readers.iter().map(|reader| reader.place.offset).sum::<u64>());
    while connections(&server, "192.0.2.2") > 0 {
        assert!(begun.elapsed() < PATIENCE, "who has vanished is waited for");
        // Whoever is there goes on.
        let further = readers[0].place.offset + MIB;
        read(&mut readers, further).await;
    }
    reading.shutdown().await;
    // Of those who are gone nothing is left: no connection, no descriptor, no command that anybody attends to.
    server.lets_go(descriptors).await;
    while server.attended().await != staying.to_string() {
        assert!(begun.elapsed() < PATIENCE, "{} commands are attended, {staying} clients are there", server.attended().await);
    }
    for client in closed.iter().chain(&gone) {
        while server.get(&client.path(&ids)).await["ended_ms"].is_null() {
            assert!(begun.elapsed() < PATIENCE, "what was to end with its client runs on");
        }
    }
    // Who read nothing is there, and has held its own command back: what is on its way is bounded.
    for client in &slow {
        let info = server.get(&client.path(&ids)).await;
        assert!(info["attached"] == 1 && info["output_end"].as_u64() < Some(16 * MIB), "{info}");
    }
    let streams = (crowd.reading + crowd.slow + crowd.closed + crowd.gone) as u64;
    server.has_grown(peak, streams * EACH_STREAM + crowd.waiting as u64 * EACH_COMMAND);
    eprintln!(
        "{} clients read {:.0} MB/s together while others vanished; the server's peak: {} MiB, before the clients {}",
        crowd.reading,
        (after - before) as f64 / took.as_secs_f64() / 1e6,
        server.peak() >> 20,
        peak >> 20
    );

    server.kill();
    for waiter in closed_waiting.iter_mut().chain(&mut gone_waiting) {
        waiter.socket = None;
    }
    waiters.append(&mut closed_waiting);
    waiters.append(&mut gone_waiting);
    readers.append(&mut slow);
    let all = stream::iter(readers.iter_mut().chain(&mut waiters)).map(Attended::reads_the_rest);
    all.buffer_unordered(staying).collect::<Vec<()>>().await;
    server.again();
    let listed = server.listed(&format!("?limit={}", crowd.sandboxes)).await;
    let states: Vec<&Value> = listed["items"].as_array().unwrap().iter().map(|item| &item["state"]).collect();
    assert!(states.len() == crowd.sandboxes && states.iter().all(|state| *state == "running"), "{listed}");
    let (server, ids) = (&server, &ids);
    let again = |client: &Attended| format!("{}/attach?from={}", client.path(ids), client.place.offset);
    let streams = stream::iter(readers).map(async |client| {
        let mut socket = server.socket(&again(&client)).await;
        assert_eq!(socket.started().await, client.pid);
        server.ends_streaming(socket, client.place, &format!("/v1/sandboxes/{}/processes/{}", ids[client.sandbox], client.pid)).await;
    });
    streams.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    // Also those whose clients had vanished have lost nothing.
    let waits = stream::iter(waiters).map(async |client| {
        let mut socket = server.socket(&again(&client)).await;
        assert_eq!(socket.started().await, client.pid);
        ends_waiting(socket).await;
    });
    waits.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

/// Begins commands, in one sandbox after the other.
async fn begin(server: &Server, ids: &[String], count: usize, command: &Value) -> Vec<Attended> {
    let begun = stream::iter(0..count).map(async |number| {
        let sandbox = number % ids.len();
        Attended::new(sandbox, server.begin(&ids[sandbox], command.clone()).await)
    });
    begun.buffered(AT_ONCE).collect().await
}

/// All read at the same time, until each is there.
async fn read(readers: &mut [Attended], until: u64) {
    stream::iter(readers).for_each_concurrent(None, async |reader| reader.reads_until(until).await).await;
}
