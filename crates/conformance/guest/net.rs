use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
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
