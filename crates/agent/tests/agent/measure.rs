//! Numbers for people: `cargo test -p sandbar-agent --test agent -- --ignored --nocapture measure`, with the program as it is shipped in
//! `SANDBAR_AGENT_BINARY`.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::host::{Host, argv};

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort();
    samples[samples.len() / 2]
}

#[test]
#[ignore = "prints numbers, checks nothing"]
fn measure_exec_and_memory() {
    let host = Host::new();
    host.ping();
    println!("resident after start: {} kB", host.resident());
    let mut agent = Vec::new();
    let mut ping = Vec::new();
    let mut plain = Vec::new();
    for _ in 0..300 {
        let start = Instant::now();
        host.ping();
        ping.push(start.elapsed());
        let start = Instant::now();
        host.exec(argv(&["/bin/true"])).collect();
        agent.push(start.elapsed());
        let start = Instant::now();
        let command = Command::new("/bin/true").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        assert!(command.unwrap().status.success());
        plain.push(start.elapsed());
    }
    let (agent, plain, ping) = (median(agent), median(plain), median(ping));
    println!("ping {ping:?}, exec {agent:?}, spawn in this process {plain:?}: {:.2}", agent.as_secs_f64() / plain.as_secs_f64());
    println!("resident after 300 execs: {} kB", host.resident());
}
