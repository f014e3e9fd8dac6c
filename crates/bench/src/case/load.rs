use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use sandbar_core::Limits;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet, time::sleep};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{Setting, sandbox::Stage};
use crate::{
    Result,
    sample::Samples,
    service::{Client, Server},
    table,
};

/// The sandboxes, the commands in them that somebody listens to, and those of them that have much to say.
const SANDBOXES: usize = 200;
const COMMANDS: usize = 2000;
const STREAMS: usize = 50;
/// Bytes a second that each of these has to say, and how often it does.
const PACE: u64 = 24_000_000;
const A_SECOND: u64 = 5;
/// How long is measured.
const SPAN: Duration = Duration::from_secs(10);
/// Sandboxes, or commands, that are begun at once.
const AT_ONCE: usize = 16;
/// Bytes that a client takes at once.
const READ: usize = 256 << 10;

/// Very many sandboxes and commands, and much output of some, over one server.
pub async fn run(setting: &Setting, stage: &Stage) -> Result {
    table::heading(&format!(
        "{SANDBOXES} sandboxes, {COMMANDS} commands over WebSockets, {STREAMS} of which have {} MB a second to say",
        PACE / 1_000_000
    ));
    let server = Server::start(&setting.sandbar, stage.home()).await?;
    let begun = Instant::now();
    let ids: Vec<String> = stream::iter(0..SANDBOXES).map(|_| made(stage)).buffered(AT_ONCE).try_collect().await?;
    let mut rows = vec![vec!["all sandboxes made".to_owned(), seconds(begun.elapsed())]];

    let begun = Instant::now();
    let commands = stream::iter(0..COMMANDS).map(|number| begin(&server, &ids[number % ids.len()], said_by(number)));
    let mut sockets: Vec<_> = commands.buffered(AT_ONCE).try_collect().await?;
    rows.push(vec!["all commands begun".to_owned(), seconds(begun.elapsed())]);
    let waiting = sockets.split_off(STREAMS);
    rows.push(vec!["memory of the server then".to_owned(), format!("{} MiB", server.memory()? >> 20)]);

    let counts: Vec<_> = sockets.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
    let mut readers = JoinSet::new();
    for (socket, count) in sockets.into_iter().zip(&counts) {
        readers.spawn(read(socket, Arc::clone(count)));
    }
    // The streams are on their way when others ask.
    sleep(Duration::from_secs(1)).await;
    let asking = Asking::begin(server.client(), format!("/v1/sandboxes/{}/exec", ids[SANDBOXES - 1]));
    let (begun, before, busy) = (Instant::now(), totals(&counts), Busy::now(&server)?);
    sleep(SPAN).await;
    let (took, after, busy) = (begun.elapsed().as_secs_f64(), totals(&counts), Busy::now(&server)?.since(&busy));
    let asked = asking.end().await?;
    let mut rates: Vec<f64> = after.iter().zip(&before).map(|(after, before)| (after - before) as f64 / took / 1e6).collect();
    rates.sort_by(f64::total_cmp);
    let all: f64 = rates.iter().sum();
    rows.push(vec!["output, all streams".to_owned(), format!("{all:.0} MB/s")]);
    rows.push(vec![
        "output, the slowest, the median, the fastest stream".to_owned(),
        format!("{:.1}, {:.1}, {:.1} MB/s", rates[0], rates[STREAMS / 2], rates[STREAMS - 1]),
    ]);
    rows.push(vec![
        "another client's exec `true` meanwhile, p50, p99".to_owned(),
        format!("{}, {} ms", table::milliseconds(asked.p50()), table::milliseconds(asked.p99())),
    ]);
    rows.push(vec!["memory of the server".to_owned(), format!("{} MiB", server.memory()? >> 20)]);
    for (name, used) in busy.shares(took) {
        rows.push(vec![format!("processors, {name}"), format!("{used:.2}")]);
    }
    table::rows(&["", ""], &rows);
    readers.shutdown().await;
    drop(waiting);
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The first have much to say, the others wait to be told something.
fn said_by(number: usize) -> Value {
    if number >= STREAMS {
        return json!({ "argv": ["cat"], "stdin": true, "kill_on_disconnect": true });
    }
    let (block, pause) = (PACE / A_SECOND, 1.0 / A_SECOND as f64);
    let line = format!("head -c {block} /dev/zero | tr '\\0' x > /tmp/block; while :; do cat /tmp/block & sleep {pause}; wait; done");
    json!({ "shell": line, "kill_on_disconnect": true })
}

async fn begin(server: &Server, id: &str, command: Value) -> Result<WebSocketStream<TcpStream>> {
    let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await?;
    socket.send(Message::text(command.to_string())).await?;
    match socket.next().await {
        Some(Ok(Message::Text(text))) if text.contains("started") => Ok(socket),
        other => Err(format!("instead of a start: {other:?}").into()),
    }
}

/// Counts what comes. What it is made of is not looked at, so that the client costs little.
async fn read(mut socket: WebSocketStream<TcpStream>, count: Arc<AtomicU64>) {
    let mut buffer = vec![0; READ];
    while let Ok(length @ 1..) = socket.get_mut().read(&mut buffer).await {
        count.fetch_add(length as u64, Ordering::Relaxed);
    }
}

fn totals(counts: &[Arc<AtomicU64>]) -> Vec<u64> {
    counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
}

/// A client that runs one command after another.
struct Asking(tokio::task::JoinHandle<Result<Vec<Duration>>>, Arc<AtomicU64>);

impl Asking {
    fn begin(client: Client, path: String) -> Self {
        let end = Arc::new(AtomicU64::new(0));
        let ended = Arc::clone(&end);
        let task = tokio::spawn(async move {
            let mut times = Vec::new();
            while ended.load(Ordering::Relaxed) == 0 {
                let asked = Instant::now();
                client.post(&path, &json!({ "argv": ["/bin/true"] })).await?;
                times.push(asked.elapsed());
            }
            Ok(times)
        });
        Self(task, end)
    }

    async fn end(self) -> Result<Samples> {
        self.1.store(1, Ordering::Relaxed);
        Ok(Samples::new(self.0.await??))
    }
}

/// Ticks of processors that were used.
#[derive(Debug, Clone, Copy)]
struct Busy {
    server: u64,
    agents: u64,
    clients: u64,
    all: u64,
}

impl Busy {
    fn now(server: &Server) -> Result<Self> {
        let mut agents = 0;
        for entry in fs::read_dir("/proc")?.flatten() {
            let folder = entry.path();
            if fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.trim() == "sandbar-agent") {
                agents += ticks(&folder.join("stat").display().to_string()).unwrap_or(0);
            }
        }
        let machine = fs::read_to_string("/proc/stat")?;
        let first = machine.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let columns: Vec<u64> = first.filter_map(|column| column.parse().ok()).collect();
        // All but what was idle, or waited for a disk.
        let all = columns.iter().take(8).sum::<u64>() - columns.get(3..5).map_or(0, |idle| idle.iter().sum());
        Ok(Self { server: ticks(&format!("/proc/{}/stat", server.pid()?))?, agents, clients: ticks("/proc/self/stat")?, all })
    }

    fn since(self, before: &Self) -> Self {
        Self {
            server: self.server - before.server,
            agents: self.agents - before.agents,
            clients: self.clients - before.clients,
            all: self.all - before.all,
        }
    }

    /// How many processors each kept busy.
    fn shares(self, seconds: f64) -> [(&'static str, f64); 4] {
        let share = |ticks: u64| ticks as f64 / rustix::param::clock_ticks_per_second() as f64 / seconds;
        let rest = self.all.saturating_sub(self.server + self.agents + self.clients);
        [
            ("the server", share(self.server)),
            ("the agents", share(self.agents)),
            ("the clients", share(self.clients)),
            ("the commands, and whatever else runs here", share(rest)),
        ]
    }
}

/// What a process has used, without its children.
fn ticks(path: &str) -> Result<u64> {
    let text = fs::read_to_string(path)?;
    let rest = text.rsplit_once(") ").ok_or("no such form")?.1;
    Ok(rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum())
}

async fn made(stage: &Stage) -> Result<String> {
    Ok(stage.container(Limits::default()).await?.id().to_string())
}
