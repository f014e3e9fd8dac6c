use std::{io, net::SocketAddr, ops::Deref};

use tokio::net::TcpListener;

/// A listener on the host that listens no longer when it is dropped, whoever else has a descriptor of it: a child that this process starts at the
/// same time has a copy until it executes, and would hold the queue open.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// Of the kernel: `AddrInUse`, `AddrNotAvailable` …
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }
}

impl Deref for Listener {
    type Target = TcpListener;

    fn deref(&self) -> &TcpListener {
        &self.0
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Read);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_copy_of_the_descriptor_holds_nothing_open() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let copy = listener.as_fd().try_clone_to_owned().unwrap();
        drop(listener);
        assert!(TcpStream::connect(address).await.is_err());
        Listener::bind(address).await.unwrap();
        drop(copy);
    }
}
