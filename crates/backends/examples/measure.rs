#![allow(missing_docs, clippy::allow_attributes, clippy::print_stdout, clippy::unwrap_used)]
use std::{sync::Arc, time::{Duration, Instant}};
use sandbar_backends::dangerous_host::DangerousHost;
use sandbar_core::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
fn p50(mut v: Vec<Duration>) -> Duration { v.sort(); v[v.len()/2] }
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let home = std::path::PathBuf::from(format!("/tmp/measure-{}", std::process::id()));
    std::fs::create_dir_all(&home).unwrap();
    let provider = DangerousHost::provider(&home);
    let mut prov = vec![]; let mut dest = vec![];
    let req = |n: u8| { let folder = home.join(format!("s{n}")); std::fs::create_dir(&folder).unwrap(); ProvisionRequest { id: SandboxId::from_random([n.wrapping_mul(7)^(std::process::id() as u8);8]), spec: SandboxSpec::default(), root: RootSource::empty(), folder, ids: None, lifetime: Lifetime::Detached, journal: Arc::new(NoJournal) } };
    for n in 0..20 { let r = req(n); let t = Instant::now(); let h = provider.provision(r).await.unwrap(); prov.push(t.elapsed()); let t = Instant::now(); h.destroy().await.unwrap(); dest.push(t.elapsed()); }
    println!("provision p50 {:?} destroy p50 {:?}", p50(prov), p50(dest));
    let h = provider.provision(req(100)).await.unwrap();
    let mut a = vec![]; let mut b = vec![]; let mut c = vec![];
    for _ in 0..200 { let t = Instant::now(); h.exec(ExecRequest::argv(["true"])).await.unwrap(); a.push(t.elapsed());
      let t = Instant::now(); std::process::Command::new("true").output().unwrap(); b.push(t.elapsed());
      let t = Instant::now(); h.processes().await.unwrap(); c.push(t.elapsed()); }
    println!("exec true p50 {:?}; in-process spawn p50 {:?}; list p50 {:?}", p50(a), p50(b), p50(c));
    let size = 1u64 << 30;
    let t = Instant::now(); h.put_file("big", PutOptions::default(), &mut tokio::io::repeat(7).take(size)).await.unwrap(); println!("put {:.2} GiB/s", 1.0 / t.elapsed().as_secs_f64());
    let t = Instant::now(); let (_, mut r) = h.get_file("big", 0).await.unwrap(); let mut buf = vec![0; 256<<10]; let mut total = 0; loop { let n = r.read(&mut buf).await.unwrap(); if n == 0 { break } total += n as u64; } assert_eq!(total, size); println!("get {:.2} GiB/s", 1.0 / t.elapsed().as_secs_f64());
    let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap(); let port = l.local_addr().unwrap().port();
    let sink = std::thread::spawn(move || { let (mut s, _) = l.accept().unwrap(); let mut b = vec![0; 256<<10]; let mut t = 0u64; loop { let n = std::io::Read::read(&mut s, &mut b).unwrap(); if n == 0 { break } t += n as u64; } t });
    let mut s = h.connect_port(port).await.unwrap(); let chunk = vec![7u8; 256<<10];
    let t = Instant::now(); for _ in 0..(size as usize / chunk.len()) { s.write_all(&chunk).await.unwrap(); } s.shutdown().await.unwrap(); let got = sink.join().unwrap(); assert_eq!(got, size); println!("port {:.2} GiB/s", 1.0 / t.elapsed().as_secs_f64());
    // plain copy through one unix socket pair
    let (mut x, mut y) = std::os::unix::net::UnixStream::pair().unwrap();
    let rd = std::thread::spawn(move || { let mut b = vec![0; 256<<10]; let mut t = 0u64; loop { let n = std::io::Read::read(&mut y, &mut b).unwrap(); if n == 0 { break } t += n as u64; } t });
    let t = Instant::now(); for _ in 0..(size as usize / chunk.len()) { std::io::Write::write_all(&mut x, &chunk).unwrap(); } drop(x); rd.join().unwrap(); println!("plain socket {:.2} GiB/s", 1.0 / t.elapsed().as_secs_f64());
    let mut st = h.exec_stream(ExecRequest::shell("head -c 1073741824 /dev/zero")).await.unwrap(); let t = Instant::now(); let mut n = 0u64; while let Some(e) = st.output.next().await.unwrap() { if let ExecEvent::Output { data, .. } = e { n += data.len() as u64; } } assert_eq!(n, size); println!("exec output {:.2} GiB/s", 1.0 / t.elapsed().as_secs_f64());
    h.destroy().await.unwrap();
    std::fs::remove_dir_all(&home).unwrap();
}
