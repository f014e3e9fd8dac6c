#[path = "../tests/support/mod.rs"]
mod support;
use std::time::Instant;
use sandbar_runtime::RuntimeConfig;
use support::*;

fn report(name: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    println!("{name}: p50 {:.3} ms p90 {:.3} max {:.3}", times[times.len() / 2], times[times.len() * 9 / 10], times[times.len() - 1]);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let home = tempfile::tempdir_in(std::env::var("MEASURE_DIR").unwrap_or("/tmp".into())).unwrap();
    let fake = Fake::default();
    let first = open_as(RuntimeConfig::new(home.path()), &fake).await;
    for _ in 0..200 { first.create(fake_sandbox()).await.unwrap(); }
    let sandbox = first.create(fake_sandbox()).await.unwrap();
    let id = sandbox.id().to_string();
    let mut t = vec![];
    for _ in 0..300 { let b = Instant::now(); let s = first.create(fake_sandbox()).await.unwrap(); t.push(b.elapsed().as_secs_f64() * 1e3); s.destroy().await.unwrap(); }
    report("create (fake)", t);
    let mut t = vec![];
    for _ in 0..300 { let s = first.create(fake_sandbox()).await.unwrap(); let b = Instant::now(); s.destroy().await.unwrap(); t.push(b.elapsed().as_secs_f64() * 1e3); }
    report("destroy (fake)", t);
    let mut t = vec![];
    for _ in 0..1000 { let b = Instant::now(); sandbox.exec(command(&["x"])).await.unwrap(); t.push(b.elapsed().as_secs_f64() * 1e3); }
    report("exec on a kept Sandbox", t);
    drop(sandbox); drop(first);
    let mut t = vec![];
    let mut o = vec![];
    for _ in 0..300 {
        let b = Instant::now();
        let r = open_as(RuntimeConfig::new(home.path()), &fake).await;
        o.push(b.elapsed().as_secs_f64() * 1e3);
        let s = r.sandbox(&id).await.unwrap();
        s.exec(command(&["x"])).await.unwrap();
        t.push(b.elapsed().as_secs_f64() * 1e3);
    }
    report("open alone", o);
    report("open + find + exec, nobody else", t);
    let keep = open_as(RuntimeConfig::new(home.path()), &fake).await;
    let mut t = vec![];
    for _ in 0..100 { let b = Instant::now(); keep.list().await.unwrap(); t.push(b.elapsed().as_secs_f64() * 1e3); }
    report("list 200", t);
}
