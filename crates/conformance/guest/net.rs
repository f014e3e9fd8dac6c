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
