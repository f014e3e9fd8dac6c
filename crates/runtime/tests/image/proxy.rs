//! A relay between a pull and a registry, which can break the connection in all the ways that networks do.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A relay; it listens until it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    /// Every connection is cut after this many bytes of answers; 0 is never.
    cut_after: AtomicU64,
    /// Answers stop coming after this many bytes, but the connection stays; 0 is never.
    stall_after: AtomicU64,
    /// `Range` is taken out of requests, as by a registry that does not know it.
    no_range: AtomicBool,
    over: AtomicBool,
    /// Bytes of answers.
    relayed: AtomicU64,
    /// Connections that are relayed.
    open: AtomicU64,
    requests: Mutex<Vec<String>>,
}

impl Proxy {
    pub(crate) fn to(registry: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::new(Faults::default());
        let shared = faults.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), faults) = (client, shared.clone()) else { return };
                thread::spawn(move || {
                    faults.open.fetch_add(1, Ordering::SeqCst);
                    relay(client, registry, &faults);
                    faults.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, faults }
    }

    pub(crate) fn cut_after(&self, bytes: u64) {
        self.faults.cut_after.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn stall_after(&self, bytes: u64) {
        self.faults.stall_after.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn without_range(&self) {
        self.faults.no_range.store(true, Ordering::SeqCst);
    }

    /// Bytes of answers so far.
    pub(crate) fn relayed(&self) -> u64 {
        self.faults.relayed.load(Ordering::SeqCst)
    }

    /// Waits until those who were connected are known to be gone: what was on its way to them counts as relayed.
    pub(crate) fn wait_for_the_last(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.faults.open.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline, "somebody is still connected");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The requests since the last time this was asked.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.faults.requests.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.faults.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn relay(client: TcpStream, registry: SocketAddr, faults: &Arc<Faults>) {
    let Ok(server) = TcpStream::connect(registry) else { return };
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let shared = faults.clone();
    let asking = thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut buffer) {
            let mut text = buffer[..count].to_vec();
            if let Some(line) = text.split(|byte| *byte == b'\r').next().filter(|line| line.starts_with(b"GET ")) {
                shared.requests.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
            }
            if shared.no_range.load(Ordering::SeqCst)
                && let Some(at) = text.windows(6).position(|window| window.eq_ignore_ascii_case(b"range:"))
            {
                text[at] = b'x';
            }
            if to_server.write_all(&text).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let (mut from_server, mut to_client) = (server, client);
    let mut buffer = [0; 16 * 1024];
    let mut passed = 0;
    while let Ok(count @ 1..) = from_server.read(&mut buffer) {
        passed += count as u64;
        let stall = faults.stall_after.load(Ordering::SeqCst);
        if stall > 0 && passed > stall {
            // Until the client gives up, whose end closes the server's.
            let _ = asking.join();
            return;
        }
        faults.relayed.fetch_add(count as u64, Ordering::SeqCst);
        if to_client.write_all(&buffer[..count]).is_err() {
            break;
        }
        let cut = faults.cut_after.load(Ordering::SeqCst);
        if cut > 0 && passed >= cut {
            break;
        }
    }
    let _ = to_client.shutdown(Shutdown::Both);
    let _ = from_server.shutdown(Shutdown::Both);
    let _ = asking.join();
}
