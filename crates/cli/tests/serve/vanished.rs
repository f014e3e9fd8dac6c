//! Clients whose host is gone, or the way to it: no word comes from them, and nobody says so.

use std::{
    fs::File,
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::Method;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use serde_json::json;

use crate::server::{PATIENCE, Server, Socket};

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {words}: {done:?}");
}

/// A network of the test's own, and another one at the other end of a cable.
pub struct Cable {
    near: File,
    far: File,
    holder: Child,
}

impl Cable {
    /// Of this thread, and of what it starts from then on; or why there is none, where none need be.
    pub fn new() -> Result<Self, &'static str> {
        if !rustix::process::geteuid().is_root() {
            let required = std::env::var("SANDBAR_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name == "container-root"));
            assert!(!required, "SANDBAR_REQUIRE asks for what root may");
            return Err("a network of its own needs root");
        }
        // SAFETY: descriptors are not unshared, which is what could surprise anybody.
        #[expect(unsafe_code, reason = "a network is this thread's alone")]
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let near = File::open("/proc/thread-self/ns/net").unwrap();
        let mut holder = Command::new("unshare");
        let holder = holder.args(["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 1000"]);
        let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
        let mut word = [0; 3];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut word).unwrap();
        let far = File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
        ip("link set lo up");
        ip(&format!("link add near type veth peer name far netns {}", holder.id()));
        ip("addr add 192.0.2.1/24 dev near");
        ip("link set near up");
        let cable = Self { near, far, holder };
        cable.there(|| {
            ip("addr add 192.0.2.2/24 dev far");
            ip("link set far up");
        });
        Ok(cable)
    }

    /// Does something at the far end.
    fn there<T>(&self, work: impl FnOnce() -> T) -> T {
        move_into_link_name_space(self.far.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let done = work();
        move_into_link_name_space(self.near.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        done
    }

    pub fn pull(&self) {
        self.there(|| ip("link set far down"));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The server's connections to clients at an address.
pub fn connections(server: &Server, address: &str) -> usize {
    let port = server.address.rsplit_once(':').unwrap().1;
    let told = Command::new("ss").args(["-Htna", "state", "connected", "sport", "=", &format!(":{port}"), "and", "dst", address]).output();
    String::from_utf8(told.unwrap().stdout).unwrap().lines().count()
}

impl Server {
    /// A client at the far end, which has come by the cable. Nobody else may have a turn on this thread meanwhile.
    pub async fn socket_from(&self, cable: &Cable, path: &str) -> Socket {
        move_into_link_name_space(cable.far.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        // On this thread, which has one network at a time.
        let socket = self.socket_at(&format!("192.0.2.1:{}", self.address.rsplit_once(':').unwrap().1), path).await;
        move_into_link_name_space(cable.near.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        socket
    }
}

#[tokio::test]
async fn clients_that_vanish_are_given_up_and_those_that_only_do_not_read_are_not() {
    let cable = match Cable::new() {
        Ok(cable) => cable,
        Err(why) => return eprintln!("ignored: {why}"),
    };
    let server = Server::listening("0.0.0.0:0", &["--client-timeout", "3"]);
    let id = server.create_unwalled().await;
    let path = format!("/v1/sandboxes/{id}/exec");
    let words = ["sleep 1000", "while :; do echo more; sleep 0.05; done", "exec yes"];
    let begin = async |mut socket: Socket, line: &str| {
        socket.say(&json!({ "shell": line })).await;
        let pid = socket.started().await;
        (socket, pid)
    };
    // To one there is nothing to say; one reads; one has ceased to.
    let mut vanishing = Vec::new();
    for line in words {
        vanishing.push(begin(server.socket_from(&cable, &path).await, line).await);
    }
    // And one that is told what happens.
    let mut told = server.socket_from(&cable, &format!("/v1/sandboxes/{id}/ports/watch")).await;
    told.words().await;
    vanishing[1].0.wait_for("more").await;
    // That one does not read either, and is there.
    let (mut slow, slow_pid) = begin(server.socket(&path).await, "exec yes").await;
    let output = async |pid: u64| server.get(&format!("/v1/sandboxes/{id}/processes/{pid}")).await;
    let is_held_back = async |pid: u64| {
        let first = output(pid).await["output_end"].clone();
        tokio::time::sleep(Duration::from_millis(300)).await;
        first.as_u64() > Some(0) && output(pid).await["output_end"] == first
    };
    let until = Instant::now() + PATIENCE;
    while !(is_held_back(slow_pid).await && is_held_back(vanishing[2].1).await) {
        assert!(Instant::now() < until, "output without an end finds room");
    }
    assert_eq!(connections(&server, "192.0.2.2"), 4);
    cable.pull();
    let begun = Instant::now();
    while connections(&server, "192.0.2.2") > 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{} clients have vanished, and are waited for",
            connections(&server, "192.0.2.2")
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Their commands live on, without them.
    for (_, pid) in &vanishing {
        let info = output(*pid).await;
        assert_eq!((&info["attached"], &info["ended_ms"]), (&json!(0), &json!(null)), "{info}");
    }
    // Three times as long as somebody who says nothing at all is waited for.
    tokio::time::sleep(Duration::from_secs(9).saturating_sub(begun.elapsed())).await;
    let info = output(slow_pid).await;
    assert_eq!(info["attached"], 1, "{info}");
    // All that was held back comes, and nothing is missing.
    let end = info["output_end"].as_u64().unwrap();
    let mut place = 0;
    while place < end {
        let Some(tokio_tungstenite::tungstenite::Message::Binary(bytes)) = slow.next().await else {
            panic!("it was cut off at {place} of {end}")
        };
        let (head, data) = bytes.split_at(9);
        assert_eq!(u64::from_be_bytes(head[1..].try_into().unwrap()), place);
        place += data.len() as u64;
    }
    let killed =
        server.request(Method::POST, &format!("/v1/sandboxes/{id}/processes/{slow_pid}/signal")).json(&json!({ "signal": "KILL" }));
    assert!(killed.send().await.unwrap().status().is_success());
}
