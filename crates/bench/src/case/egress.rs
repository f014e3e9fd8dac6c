use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use sandbar_core::{ExecRequest, SandboxSpec};
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
    peer::{self, docker::Docker, usernet::Usernet},
    sample::Samples,
    table,
};

/// What the same program gets by a connection of its own, and through the host's decisions: 1 GiB, and how long it takes until a connection answers. The
/// server is at an address of this host's own, so that nothing leaves it.
pub async fn run(setting: &Setting, stage: &Stage) -> Result {
    table::heading("What leaves: 1 GiB, and connections");
    let Some(own) = own_address() else {
        table::paragraph("This host has no address of its own but loopback's.");
        return Ok(());
    };
    let listener = TcpListener::bind((own, 0)).await?;
    let port = listener.local_addr()?.port();
    let server = tokio::spawn(serve(listener));
    let program = program(own, port, setting.samples);
    let arguments = ["-c".to_owned(), program.clone()];
    let mut rows = vec![("directly".to_owned(), Transfer::read(&peer::output("python3", &arguments).await?)?)];
    for provider in ["container", "gvisor"] {
        let spec = SandboxSpec { network: format!("allow={own}:{port}").parse()?, ..SandboxSpec::default() };
        let sandbox = match stage.sandbox(provider, None, spec).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                table::paragraph(&format!("`{provider}` cannot be measured: {error}"));
                continue;
            }
        };
        let said = sandbox.exec(ExecRequest::argv(["python3", "-c", &program])).await;
        sandbox.destroy().await?;
        let said = said?;
        if !said.status.success() {
            return Err(format!("{provider}: {}: {}", said.status, said.stderr_text()).into());
        }
        rows.push((format!("out of `{provider}`"), Transfer::read(&said.stdout_text())?));
    }
    for peer in Usernet::ALL {
        if !peer.is_here().await {
            table::paragraph(&format!("{} is not installed.", peer.name()));
            continue;
        }
        match peer.python(&program).await {
            Ok(said) => rows.push((format!("`{}`, a rootless namespace", peer.name()), Transfer::read(&said)?)),
            Err(error) => table::paragraph(&format!("{} cannot be measured: {error}", peer.name())),
        }
    }
    match Docker::find().await {
        Some(docker) => match docker.python_on_a_bridge(&program).await {
            Ok(said) => rows.push(("a bridge of `docker`".to_owned(), Transfer::read(&said)?)),
            Err(error) => table::paragraph(&format!("Docker's bridge cannot be measured: {error}")),
        },
        None => table::paragraph("There is no docker."),
    }
    server.abort();
    transfer::rows(&rows);
    Ok(())
}

impl Transfer {
    /// What the program has printed.
    fn read(text: &str) -> Result<Self> {
        let mut numbers = text.lines().map(|line| line.trim().parse::<f64>());
        let rate = numbers.next().ok_or("the program said nothing")??;
        let times = numbers.map(|seconds| Ok(Duration::try_from_secs_f64(seconds?)?)).collect::<Result<Vec<_>>>()?;
        Ok(Self { rate, connections: Samples::new(times) })
    }
}

/// Fetches it all once, then connects again and again.
fn program(address: IpAddr, port: u16, samples: usize) -> String {
    format!(
        "import socket, time\n\
         def connect(word):\n    s = socket.create_connection(('{address}', {port}))\n    s.sendall(word)\n    return s\n\
         b = bytearray({CHUNK})\n\
         s = connect(b'all')\n\
         t = time.perf_counter()\n\
         n = 0\n\
         while k := s.recv_into(b): n += k\n\
         print(n / (time.perf_counter() - t))\n\
         assert n == {TOTAL}, n\n\
         for _ in range({samples}):\n    t = time.perf_counter()\n    s = connect(b'end')\n    assert not s.recv(1)\n    print(time.perf_counter() - t)\n    s.close()\n"
    )
}

async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream));
    }
}

/// What breaks off shows at the other end.
async fn answer(mut stream: TcpStream) {
    let mut word = [0; 3];
    if stream.read_exact(&mut word).await.is_err() || &word != b"all" {
        return;
    }
    let chunk = vec![7u8; CHUNK];
    for _ in 0..TOTAL / CHUNK as u64 {
        if stream.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

/// An address of this host other than loopback, if it has one. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}
