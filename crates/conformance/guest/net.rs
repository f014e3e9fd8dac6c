use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::{ready, say};

/// Sends back what comes, on every connection.
pub(crate) fn echo(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    ready();
    for connection in listener.incoming() {
        let mut connection = connection?;
        thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok(length @ 1..) = connection.read(&mut buffer) {
                if connection.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
            let _ = connection.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}

/// Says hello and closes, on every connection.
pub(crate) fn hello(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    ready();
    for connection in listener.incoming() {
        connection?.write_all(b"hello\n")?;
    }
    Ok(())
}

/// Writes without end to the first connection and says how much was taken, so that back-pressure can be seen.
pub(crate) fn flood(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    ready();
    let (mut connection, _) = listener.accept()?;
    let chunk = vec![b'x'; 65536];
    let mut written = 0u64;
    loop {
        connection.write_all(&chunk)?;
        written += chunk.len() as u64;
        say(&written.to_string());
    }
}

/// Tries to connect.
pub(crate) fn connect(address: &str) -> io::Result<()> {
    let address = address.parse().map_err(io::Error::other)?;
    TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    say("connected");
    Ok(())
}

/// Connects, says something, and prints what comes back until the end; of a failure, also how long it took to come.
pub(crate) fn talk(address: &str, text: &str) -> io::Result<()> {
    let begun = Instant::now();
    exchange(address, text).map_err(|error| io::Error::other(format!("{error} after {} ms", begun.elapsed().as_millis())))
}

fn exchange(address: &str, text: &str) -> io::Result<()> {
    let address = address.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(20))?;
    stream.write_all(text.as_bytes())?;
    // One that was reset just now has no half to end, and says why when it is read.
    match stream.shutdown(Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
        ended => ended?,
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    say(&answer);
    Ok(())
}

fn associated(address: &str) -> io::Result<UdpSocket> {
    let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.connect(address)?;
    Ok(socket)
}

/// Sends a datagram and prints the one that comes back; of a failure, also how long it took to come.
pub(crate) fn whisper(address: &str, text: &str) -> io::Result<()> {
    let begun = Instant::now();
    let exchange = || -> io::Result<String> {
        let socket = associated(address)?;
        socket.send(text.as_bytes())?;
        let mut buffer = vec![0; 65536];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    say(&exchange().map_err(|error| io::Error::other(format!("{error} after {} ms", begun.elapsed().as_millis())))?);
    Ok(())
}

/// Sends datagrams of these sizes by one socket, each after the answer to the one before, and prints the sizes of the answers, and whether their bytes are all
/// the same.
pub(crate) fn datagrams(address: &str, sizes: &[&str]) -> io::Result<()> {
    let socket = associated(address)?;
    let mut buffer = vec![0; 65536];
    for (number, size) in sizes.iter().enumerate() {
        let size: usize = size.parse().map_err(io::Error::other)?;
        socket.send(&vec![number as u8; size])?;
        let length = socket.recv(&mut buffer)?;
        let same = buffer[..length].iter().all(|byte| *byte == number as u8);
        say(&format!("{length} {same}"));
    }
    Ok(())
}

/// Sends datagrams by each of so many sockets, until so many of them were refused.
pub(crate) fn sockets(address: &str, count: u64, refused: u64) -> io::Result<()> {
    let sockets = (0..count).map(|_| associated(address)).collect::<io::Result<Vec<_>>>()?;
    let mut known = vec![false; sockets.len()];
    while known.iter().filter(|known| **known).count() < refused as usize {
        for (socket, known) in sockets.iter().zip(&mut known) {
            let sent = socket.send(b"x");
            // One at a time: what finds no room is lost.
            socket.set_read_timeout(Some(Duration::from_millis(1)))?;
            let answer = sent.and_then(|_| socket.recv(&mut [0; 16]));
            *known |= answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        }
    }
    say("bounded");
    Ok(())
}

/// Asks a name server for the IPv4 address of a name, by a datagram or a connection, and prints the address or the number of the failure.
pub(crate) fn resolve(how: &str, server: &str, name: &str) -> io::Result<()> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let mut answer = vec![0; 1024];
    let length = if how == "tcp" {
        let mut stream = TcpStream::connect(server)?;
        stream.write_all(&(question.len() as u16).to_be_bytes())?;
        stream.write_all(&question)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let length = usize::from(u16::from_be_bytes(length));
        stream.read_exact(&mut answer[..length])?;
        length
    } else {
        let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        socket.connect(server)?;
        socket.send(&question)?;
        socket.recv(&mut answer)?
    };
    let (code, count) = (answer[3] & 15, answer[7]);
    match (code, count, &answer[..length]) {
        (0, 1, [.., a, b, c, d]) => say(&format!("{a}.{b}.{c}.{d}")),
        (code, count, _) => say(&format!("code {code}, {count} answers")),
    }
    Ok(())
}
