//! Secrets that come with a request over HTTP: their values are of whoever asks, and are kept where those of the command line are.

use std::{
    fs,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    secrets::{files_with, saw},
    support::{Case, Home, Stage, eventually},
};

pub const CASES: &[Case] = &[Case::new("secrets::values_of_a_request_are_put_in_and_are_nowhere_else", put_in)
    .on(&["container-root", "container-rootless"])
    .staged()];

/// The values; nothing else has this text.
const TOKEN: &str = "hunter2-of-a-request";
const OTHER: &str = "hunter2-of-another";
/// What both have in common.
const VALUE: &str = "hunter2";

/// A process that ends with the test.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server on the stage's host.
pub struct Server<'a> {
    stage: &'a Stage,
    process: Ending,
    pub url: String,
    token: String,
}

impl<'a> Server<'a> {
    /// One whose log is in the folder around its state folder.
    pub fn new(stage: &'a Stage, home: &Home) -> Self {
        Self::serving(stage, home, &[])
    }

    /// One with these options too.
    pub fn serving(stage: &'a Stage, home: &Home, options: &[&str]) -> Self {
        let words = [&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"], options].concat();
        let mut command = home.command(&words);
        command.env("SANDBAR_LOG", "trace").stderr(File::create(home.path().join("server.log")).unwrap());
        let mut process = Ending(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let token = fs::read_to_string(home.state().join("server-token")).unwrap().trim().to_owned();
        Self { stage, process, url: line.trim().to_owned(), token }
    }

    /// An answer's status and text. Nothing of the request is an argument of a process.
    fn ask(&self, key: &str, method: &str, path: &str, headers: &[&str], body: Option<&Value>) -> (u16, String) {
        let mut config = format!("url = \"{}{path}\"\nrequest = {method}\nheader = \"Authorization: Bearer {key}\"\n", self.url);
        for header in headers {
            config += &format!("header = \"{header}\"\n");
        }
        if let Some(body) = body {
            config += &format!("header = \"Content-Type: application/json\"\ndata = {:?}\n", body.to_string());
        }
        let mut curl = self.stage.command("curl");
        curl.args(["-sS", "-m", "60", "-w", "\n%{http_code}", "-K", "-"]);
        let mut curl = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        curl.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
        let said = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
        let (text, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), text.to_owned())
    }

    fn create(&self, key: &str, body: &Value) -> (u16, String) {
        self.ask(key, "POST", "/v1/sandboxes", &[], Some(body))
    }

    fn get(&self, path: &str) -> String {
        let (status, text) = self.ask(&self.token, "GET", path, &[], None);
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    /// Has whatever happens written into a file.
    fn follow_events(&self, file: &PathBuf) -> Ending {
        let mut curl = self.stage.command("curl");
        curl.args(["-sSN", "-H", &format!("Authorization: Bearer {}", self.token), &format!("{}/v1/events", self.url)]);
        let curl = Ending(curl.stdout(File::create(file).unwrap()).spawn().unwrap());
        eventually("events are told", || fs::read_to_string(file).unwrap().contains("event: open"));
        curl
    }
}

fn asked(value: &str) -> Value {
    json!({
        "provider": "container",
        "network": "allow=allowed.test,other.test",
        "secrets": [{ "name": "TOKEN", "hosts": ["allowed.test"], "value": value }],
    })
}

fn put_in(outer: &Home) {
    let stage = Stage::new();
    let home = stage.believing_home(&outer.wall);
    let manager = home.ok(&["key", "create", "manager", "--scope", "manage"]);
    let admin = home.ok(&["key", "create", "admin", "--scope", "admin"]);
    let mut server = Server::new(&stage, &home);
    let events = home.path().join("events");
    let follower = server.follow_events(&events);

    // Whoever may not, and what could not be.
    let (status, said) = server.create(&manager, &asked(TOKEN));
    assert!(status == 403 && said.contains("secrets"), "{status}: {said}");
    let but = |key: &str, value: Value| {
        let mut body = asked(TOKEN);
        body[key] = value;
        body
    };
    let twice = but("secrets", json!([asked(TOKEN)["secrets"][0], asked(OTHER)["secrets"][0]]));
    for body in [
        asked(""),
        asked("hunter2\r\nX-Token: more"),
        twice,
        but("network", json!("allow=other.test")),
        but("network", json!("none")),
        but("env", json!({ "TOKEN": "x" })),
        but("secrets", json!([{ "name": "TOKEN", "hosts": ["allowed.test"], "source": "env:HOME" }])),
        but("secrets", json!([{ "name": "TOKEN", "hosts": [], "value": TOKEN }])),
    ] {
        let (status, said) = server.create(&server.token, &body);
        assert!((400..500).contains(&status) && !said.contains(VALUE), "{body}: {status}: {said}");
    }
    let (status, said) = server.ask(&server.token, "POST", "/v1/templates", &[], Some(&asked(TOKEN)));
    assert!(status == 400 && said.contains("a template has no secrets"), "{status}: {said}");
    assert_eq!(home.ids(), Vec::<String>::new());
    assert_eq!(files_with(home.path(), VALUE), Vec::<PathBuf>::new());

    // The same key is the same sandbox, whatever value comes with it: nothing of a value is remembered, so none can be compared.
    let once = |value: &str, key: &str| server.ask(key, "POST", "/v1/sandboxes", &["Idempotency-Key: one"], Some(&asked(value)));
    let (status, made) = once(TOKEN, &admin);
    assert_eq!(status, 201, "{made}");
    let id = serde_json::from_str::<Value>(&made).unwrap()["id"].as_str().unwrap().to_owned();
    let (status, again) = once(OTHER, &admin);
    assert!(status == 201 && again.contains(&id), "{status}: {again}");
    assert_eq!(home.ids(), [id.as_str()]);

    let line = "curl -sS -m 20 -H \"X-Token: $TOKEN\"";
    assert_eq!(home.shell(&id, &format!("{line} https://allowed.test:8443/asked")), "welcome over HTTP/2.0");
    saw(&stage, &format!("http allowed.test:8443 HTTP/2.0 /asked x-token={TOKEN}"));
    assert_eq!(home.shell(&id, &format!("{line} http://other.test:8080/other")), "welcome over HTTP/1.1");
    saw(&stage, "/other x-token=sandbar-secret-");
    assert!(home.shell(&id, "echo $TOKEN").starts_with("sandbar-secret-"));

    // Outside one file has it: not the ledger, the server's log, the audit's or the network's, nor what is told of any.
    eventually("its creation is told", || fs::read_to_string(&events).unwrap().contains("event: created"));
    eventually("its use is told", || fs::read_to_string(&events).unwrap().contains("the secret TOKEN is put in"));
    let told = ["/v1/sandboxes".to_owned(), "/v1/audit".to_owned(), "/metrics".to_owned(), "/v1/templates".to_owned()].into_iter();
    let told = told.chain(["", "/stats", "/network/log"].map(|rest| format!("/v1/sandboxes/{id}{rest}")));
    let told: String = told.map(|path| server.get(&path)).chain([made, again, home.ok(&["inspect", &id])]).collect();
    assert!(told.contains("\"source\":\"given\"") && !told.contains(VALUE), "{told}");
    assert!(fs::read_to_string(home.path().join("server.log")).unwrap().contains("answered"));
    let vault = fs::read_dir(home.state().join("secrets")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(files_with(home.path(), VALUE), [vault]);

    // A fork has it too; when all are gone, so is the value.
    let checkpoint = home.ok(&["checkpoint", &id]);
    home.ok(&["rm", "-f", &id]);
    let fork = home.ok(&["fork", &checkpoint]);
    home.shell(&fork, &format!("{line} https://allowed.test:8443/forked"));
    saw(&stage, &format!("/forked x-token={TOKEN}"));
    let (status, said) = server.ask(&server.token, "DELETE", &format!("/v1/sandboxes/{fork}?force=true"), &[], None);
    assert_eq!(status, 204, "{said}");
    home.ok(&["checkpoint", "rm", &checkpoint]);
    assert_eq!(files_with(home.path(), VALUE), Vec::<PathBuf>::new());
    drop(follower);
    kill_process(Pid::from_child(&server.process.0), Signal::TERM).unwrap();
    assert!(server.process.0.wait().unwrap().success());
    home.close();
}
