use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    time::Instant,
};

use sandbar_core::{Connection, ExecRequest, Limits, PutOptions};
use sandbar_runtime::Sandbox;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{Setting, sandbox::Stage};
use crate::{Result, table};

/// Bytes of each transfer.
const TOTAL: u64 = 1 << 30;
/// Bytes of each read and write.
const CHUNK: usize = 256 << 10;

/// Files and ports, 1 GiB, beside a plain copy through one unix socket.
pub async fn run(setting: &Setting, stage: &Stage) -> Result {
    table::heading("1 GiB through a stream");
    let sandbox = stage.container(Limits::default()).await?;
    let rounds = (setting.samples / 20).clamp(1, 3);
    let plain_file = stage.home().join("plain");
    let mut best: [f64; 7] = [0.0; 7];
    for _ in 0..rounds {
        let rates = [
            plain_copy().await?,
            plain_put(&plain_file).await?,
            put(&sandbox).await?,
            plain_get(&plain_file).await?,
            get(&sandbox).await?,
            port(&sandbox, false).await?,
            port(&sandbox, true).await?,
        ];
        for (best, rate) in best.iter_mut().zip(rates) {
            *best = best.max(rate);
        }
    }
    sandbox.destroy().await?;
    let names = [
        "plain copy through one unix socket",
        "the same, written to a file",
        "file put (to the layer)",
        "the same, read from a file",
        "file get (from the layer)",
        "port, `connect_port`",
        "port, `expose_port`",
    ];
    let rows: Vec<_> = names
        .into_iter()
        .zip(best)
        .map(|(name, rate)| vec![name.to_owned(), format!("{rate:.2}"), format!("{:.2}", rate / best[0])])
        .collect();
    table::rows(&["", "GiB/s, best", "ratio"], &rows);
    Ok(())
}

async fn plain_copy() -> Result<f64> {
    let (mut writer, mut reader) = UnixStream::pair()?;
    let begin = Instant::now();
    let sender = tokio::spawn(async move {
        let chunk = vec![7u8; CHUNK];
        for _ in 0..TOTAL / CHUNK as u64 {
            writer.write_all(&chunk).await?;
        }
        Ok::<(), std::io::Error>(())
    });
    drain(&mut reader).await?;
    sender.await??;
    rate(begin)
}

/// What a file put costs without us: the bytes through one socket, and into a file.
async fn plain_put(file: &Path) -> Result<f64> {
    let (mut writer, reader) = std::os::unix::net::UnixStream::pair()?;
    let file = file.to_owned();
    let begin = Instant::now();
    let sender = std::thread::spawn(move || {
        let chunk = vec![7u8; CHUNK];
        (0..TOTAL / CHUNK as u64).try_for_each(|_| writer.write_all(&chunk))
    });
    tokio::task::spawn_blocking(move || copy(reader, File::create(file)?)).await??;
    sender.join().map_err(|_| "the sender panicked")??;
    rate(begin)
}

/// What a file get costs without us: the bytes out of a file, and through one socket.
async fn plain_get(file: &Path) -> Result<f64> {
    let (writer, reader) = UnixStream::pair()?;
    let writer = writer.into_std()?;
    writer.set_nonblocking(false)?;
    let (file, mut reader) = (File::open(file)?, reader);
    let begin = Instant::now();
    let sender = std::thread::spawn(move || copy(file, writer));
    drain(&mut reader).await?;
    sender.join().map_err(|_| "the sender panicked")??;
    rate(begin)
}

/// A loop of reads and writes. `io::copy` would move the bytes within the kernel where it can, which is another thing to compare with.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(()),
            count => to.write_all(&chunk[..count])?,
        }
    }
}

async fn put(sandbox: &Sandbox) -> Result<f64> {
    let begin = Instant::now();
    let mut content = tokio::io::repeat(7).take(TOTAL);
    sandbox.put_file("/tmp/big", PutOptions::default(), &mut content).await?;
    rate(begin)
}

async fn get(sandbox: &Sandbox) -> Result<f64> {
    let begin = Instant::now();
    let (_, mut content) = sandbox.get_file("/tmp/big", 0).await?;
    drain(&mut content).await?;
    rate(begin)
}

/// A program inside sends a gibibyte to whoever connects.
async fn port(sandbox: &Sandbox, exposed: bool) -> Result<f64> {
    let program = format!(
        "import socket\ns=socket.create_server(('127.0.0.1',0))\nprint(s.getsockname()[1],flush=True)\nc,_=s.accept()\nb=b'x'*{CHUNK}\nfor _ in range({}): c.sendall(b)\nc.close()",
        TOTAL / CHUNK as u64
    );
    let mut stream = sandbox.exec_stream(ExecRequest::argv(["python3", "-c", &program])).await?;
    let mut line = String::new();
    while !line.ends_with('\n') {
        match stream.output.next().await? {
            Some(sandbar_core::ExecEvent::Output { data, .. }) => line.push_str(&String::from_utf8_lossy(&data)),
            other => return Err(format!("the program inside said {other:?} after {line:?}").into()),
        }
    }
    let port: u16 = line.trim().parse()?;
    let mut connection: Connection = if exposed {
        let exposed = sandbox.expose_port(port, "127.0.0.1:0".parse()?).await?;
        Box::new(tokio::net::TcpStream::connect(exposed.listen).await?)
    } else {
        sandbox.connect_port(port).await?
    };
    let begin = Instant::now();
    drain(&mut connection).await?;
    let rate = rate(begin)?;
    if exposed {
        sandbox.unexpose_port(port).await?;
    }
    Ok(rate)
}

async fn drain(stream: &mut (impl AsyncRead + Unpin)) -> Result {
    let mut buffer = vec![0; CHUNK];
    let mut left = TOTAL;
    while left > 0 {
        match stream.read(&mut buffer).await? {
            0 => return Err(format!("the stream ended {left} bytes early").into()),
            count => left = left.saturating_sub(count as u64),
        }
    }
    Ok(())
}

fn rate(begin: Instant) -> Result<f64> {
    Ok(TOTAL as f64 / f64::from(1u32 << 30) / begin.elapsed().as_secs_f64())
}
