use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use sandbar_core::{ExecEvent, ExecRequest, SandboxSpec};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    Setting,
    sandbox::Stage,
    transfer::{self, CHUNK, TOTAL, Transfer},
};
use crate::{
    Result,
    peer::{Served, docker::Docker, usernet::Usernet},
    sample::Samples,
    table,
};

/// Where the program listens.
const PORT: u16 = 8000;
/// How long one row may take.
const ROW: Duration = Duration::from_secs(60);

/// A server inside is reached from this host: it sends 1 GiB, and how long it takes until a connection is made and has ended.
pub async fn run(setting: &Setting, stage: &Stage) -> Result {
    table::heading("What is exposed: 1 GiB, and connections");
    let mut rows = vec![];
    let own = free_port().await?;
    let served = Served::begin("python3", &["-c".to_owned(), server(own)]).await?;
    rows.push(("directly, over loopback".to_owned(), measure(own, setting.samples).await?));
    served.end().await?;
    for provider in ["container", "gvisor"] {
        match exposed(setting, stage, provider).await {
            Ok(measured) => rows.push((format!("`sandbar expose` of `{provider}`"), measured)),
            Err(error) => table::paragraph(&format!("`{provider}` cannot be measured: {error}")),
        }
    }
    for peer in Usernet::ALL {
        let port = free_port().await?;
        let measured = async {
            let served = peer.serve(&server(PORT), port, PORT).await?;
            let measured = measure(port, setting.samples).await;
            served.end().await?;
            measured
        };
        match measured.await {
            Ok(measured) => rows.push((format!("a port of `{}`, a rootless namespace", peer.name()), measured)),
            Err(error) => table::paragraph(&format!("{} cannot be measured: {error}", peer.name())),
        }
    }
    if let Some(docker) = Docker::find().await {
        let port = free_port().await?;
        let measured = async {
            let served = docker.serve(&server(PORT), port, PORT).await?;
            let measured = measure(port, setting.samples).await;
            served.end().await?;
            docker.stop_serving().await?;
            measured
        };
        match measured.await {
            Ok(measured) => rows.push(("a published port of `docker`".to_owned(), measured)),
            Err(error) => table::paragraph(&format!("Docker cannot be measured: {error}")),
        }
    } else {
        table::paragraph("There is no docker.");
    }
    transfer::rows(&rows);
    Ok(())
}

async fn exposed(setting: &Setting, stage: &Stage, provider: &str) -> Result<Transfer> {
    let sandbox = stage.sandbox(provider, None, SandboxSpec::default()).await?;
    let request = ExecRequest { stdin: true, ..ExecRequest::argv(["python3", "-c", &server(PORT)]) };
    let mut stream = sandbox.exec_stream(request).await?;
    let mut said = String::new();
    while !said.ends_with('\n') {
        match stream.output.next().await? {
            Some(ExecEvent::Output { data, .. }) => said.push_str(&String::from_utf8_lossy(&data)),
            other => return Err(format!("the program inside said {other:?} after {said:?}").into()),
        }
    }
    let exposed = sandbox.expose_port(PORT, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let measured = measure(exposed.listen.port(), setting.samples).await;
    sandbox.unexpose_port(PORT).await?;
    sandbox.destroy().await?;
    measured
}

async fn measure(port: u16, samples: usize) -> Result<Transfer> {
    tokio::time::timeout(ROW, async {
        let mut stream = connect(port, b"all").await?;
        let begun = Instant::now();
        let (mut buffer, mut left) = (vec![0; CHUNK], TOTAL);
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => return Err(format!("it ended {left} bytes early").into()),
                length => left -= length as u64,
            }
        }
        let rate = TOTAL as f64 / begun.elapsed().as_secs_f64();
        let mut times = Vec::new();
        for _ in 0..samples {
            let begun = Instant::now();
            let mut stream = connect(port, b"end").await?;
            if stream.read(&mut buffer).await? > 0 {
                return Err("it said something".into());
            }
            times.push(begun.elapsed());
        }
        Ok(Transfer { rate, connections: Samples::new(times) })
    })
    .await?
}

async fn connect(port: u16, word: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(word).await?;
    Ok(stream)
}

async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?.port())
}

/// Serves until its standard input ends.
fn server(port: u16) -> String {
    format!(
        "import socket, sys, threading\n\
         s = socket.create_server(('0.0.0.0', {port}), backlog=1024)\n\
         b = bytes({CHUNK})\n\
         def answer(c):\n    with c:\n        if c.recv(3) == b'all':\n            for _ in range({}): c.sendall(b)\n\
         def serve():\n    while True: threading.Thread(target=answer, args=[s.accept()[0]], daemon=True).start()\n\
         threading.Thread(target=serve, daemon=True).start()\n\
         print('ready', flush=True)\n\
         sys.stdin.read()\n",
        TOTAL / CHUNK as u64
    )
}
