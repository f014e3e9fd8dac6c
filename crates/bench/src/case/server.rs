use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::Limits;
use sandbar_runtime::{CreateRequest, Sandbox};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{
    Setting,
    sandbox::{Stage, truth},
};
use crate::{
    Result, peer,
    peer::sshd::Sshd,
    sample::{Once, Samples, in_turns},
    service::{Client, Server},
    table,
};

/// Clients that ask at once, each on connections of its own, and how long they do.
const CLIENTS: usize = 8;
const SPAN: Duration = Duration::from_secs(4);

/// A command over a server on loopback and over a login on loopback, beside the library; what a server answers in a second; and its memory.
pub async fn run(setting: &Setting, stage: &Stage) -> Result {
    let server = Server::start(&setting.sandbar, stage.home()).await?;
    let at_rest = server.memory()?;
    exec(setting, stage, &server).await?;
    rates(stage, &server).await?;
    let busy = server.memory()?;

    for _ in 0..setting.known {
        stage.container(Limits::default()).await?;
    }
    let mut rows = vec![
        vec!["at rest".to_owned(), kibibytes(at_rest)],
        vec!["after the requests above".to_owned(), kibibytes(busy)],
        vec![format!("{} sandboxes are there", setting.known), kibibytes(server.memory()?)],
    ];
    let begun = Instant::now();
    let list = server.get("/v1/sandboxes?limit=1000").await?;
    let (known, took) = (list["items"].as_array().map_or(0, Vec::len), begun.elapsed());
    rows.push(vec![format!("after a list of {known} sandboxes, which took {} ms", table::milliseconds(took)), kibibytes(server.memory()?)]);
    rates(stage, &server).await?;
    rows.push(vec!["after the same requests again".to_owned(), kibibytes(server.memory()?)]);
    table::heading("Memory of the server (proportional set size)");
    table::rows(&["", "KiB"], &rows);
    Ok(())
}

fn kibibytes(bytes: u64) -> String {
    (bytes >> 10).to_string()
}

async fn exec(setting: &Setting, stage: &Stage, server: &Server) -> Result {
    table::heading("exec `true` in a running container, from the library, here and elsewhere");
    let here = stage.container(Limits::default()).await?;
    let there = Elsewhere::over_http(setting, stage, server).await?;
    let login = Elsewhere::over_ssh(setting).await;
    let mut rows: Vec<(String, Once<'_>)> = vec![
        ("this host".into(), Box::new(async || truth(&here).await)),
        ("`http://` on loopback".into(), Box::new(async || truth(&there.sandbox).await)),
    ];
    match &login {
        Ok(login) => rows.push(("`ssh://` on loopback".into(), Box::new(async || truth(&login.sandbox).await))),
        Err(why) => table::paragraph(&format!("`ssh://` cannot be measured: {why}")),
    }
    let measured = in_turns(setting.samples, &mut rows).await;
    drop(rows);
    there.sandbox.destroy().await?;
    if let Ok(login) = &login {
        login.sandbox.destroy().await?;
    }
    here.destroy().await?;
    table::ratios(&measured?);
    Ok(())
}

/// A container on another host, as it is used from a state folder on this one.
struct Elsewhere {
    sandbox: Sandbox,
    /// What it needs as long as it is used.
    _kept: (TempDir, Option<(Sshd, TempDir)>),
}

impl Elsewhere {
    async fn over_http(setting: &Setting, stage: &Stage, server: &Server) -> Result<Self> {
        let home = TempDir::new()?;
        let (folder, key) = (home.path().display().to_string(), stage.home().join("server-token").display().to_string());
        let program = setting.sandbar.display().to_string();
        let url = format!("{}/container", server.url);
        let arguments = ["--home", &folder, "context", "add", "there", &url, "--key-file", &key].map(str::to_owned);
        peer::run(&program, &arguments).await?;
        Ok(Self { sandbox: container_at(home.path(), "there").await?, _kept: (home, None) })
    }

    async fn over_ssh(setting: &Setting) -> Result<Self> {
        let (home, there) = (TempDir::new()?, TempDir::new()?);
        let sshd = Sshd::start(there.path(), &there.path().join("home"), &there.path().join("cache"), "")?;
        let mut config = String::new();
        writeln!(config, "[ssh]\nssh = {:?}\nupload = {:?}", sshd.client, setting.sandbar)?;
        fs::write(home.path().join("sandbar.toml"), config)?;
        let provider = format!("{}/container", sshd.url);
        Ok(Self { sandbox: container_at(home.path(), &provider).await?, _kept: (home, Some((sshd, there))) })
    }
}

async fn container_at(home: &Path, provider: &str) -> Result<Sandbox> {
    let request = CreateRequest { provider: Some(provider.to_owned()), ..CreateRequest::default() };
    Ok(Stage::runtime_at(home).await?.create(request).await?)
}

async fn rates(stage: &Stage, server: &Server) -> Result {
    let there = server.get("/v1/sandboxes?limit=1000").await?["items"].as_array().map_or(0, Vec::len);
    table::heading(&format!("Requests of {CLIENTS} clients at once, over HTTP on loopback, {there} sandboxes beside theirs"));
    let sandbox = stage.container(Limits::default()).await?;
    let exec = format!("/v1/sandboxes/{}/exec", sandbox.id());
    let mut rows = Vec::new();
    for (name, what) in
        [("list of ten", Asked::List), ("exec `true`", Asked::Exec(exec)), ("create (and destroy, which is not timed)", Asked::Create)]
    {
        let what = Arc::new(what);
        let begun = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (server, what) = (server.client(), Arc::clone(&what));
            clients.spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < SPAN {
                    times.push(what.ask(&server).await?);
                }
                Ok(times)
            });
        }
        let times: Vec<Duration> = clients.join_all().await.into_iter().collect::<Result<Vec<Vec<Duration>>>>()?.concat();
        let (rate, samples) = (times.len() as f64 / begun.elapsed().as_secs_f64(), Samples::new(times));
        let cells = [format!("{rate:.0}"), table::milliseconds(samples.p50()), table::milliseconds(samples.p99())];
        rows.push([name.to_owned()].into_iter().chain(cells).collect());
    }
    sandbox.destroy().await?;
    table::rows(&["", "a second", "p50 ms", "p99 ms"], &rows);
    Ok(())
}

enum Asked {
    List,
    Exec(String),
    Create,
}

impl Asked {
    /// How long the answer took.
    async fn ask(&self, client: &Client) -> Result<Duration> {
        let asked = Instant::now();
        match self {
            Self::List => drop(client.get("/v1/sandboxes?limit=10").await?),
            Self::Exec(path) => {
                let said = client.post(path, &json!({ "argv": ["/bin/true"] })).await?;
                if said["exit_code"] != 0 {
                    return Err(format!("true: {said}").into());
                }
            }
            Self::Create => {
                let made = client.post("/v1/sandboxes", &json!({ "provider": "container" })).await?;
                let took = asked.elapsed();
                let id = made["id"].as_str().ok_or("a sandbox without an id")?;
                client.delete(&format!("/v1/sandboxes/{id}?force=true")).await?;
                return Ok(took);
            }
        }
        Ok(asked.elapsed())
    }
}
