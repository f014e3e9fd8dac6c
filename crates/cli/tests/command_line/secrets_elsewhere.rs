//! Secrets of sandboxes on another host: whoever asks reads them here, and that host keeps them and puts them into requests, as it does its own.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    authority::Authority,
    secrets::{files_with, saw},
    secrets_asked::Server,
    sshd::Sshd,
    support::{Case, Client, Finished, Home, Stage},
};

pub const CASES: &[Case] = &[
    Case::new("secrets::another_host_has_them_from_a_request_over_http", over_http).on(&["container-root"]).staged(),
    Case::new("secrets::another_host_has_them_from_a_request_over_tls", over_tls).on(&["container-root"]).staged(),
    Case::new("secrets::another_host_has_them_from_a_login", by_a_login)
        .on(&["container-root"])
        .staged()
        .needs_beside(&["/usr/sbin/sshd", "/usr/bin/ssh"]),
];

fn over_http(outer: &Home) {
    let url = over_a_server(outer, &[], &[]);
    assert!(url.starts_with("http://"), "{url}");
}

fn over_tls(outer: &Home) {
    let authority = Authority::of(&["127.0.0.1"]);
    let [certificate, key, own] = ["certificate", "key", "authority"].map(|name| authority.file(name));
    let url = over_a_server(outer, &["--tls-cert", &certificate, "--tls-key", &key], &["--authority", &own]);
    assert!(url.starts_with("https://"), "{url}");
}

/// With options of the server and of the context; gives the server's address.
fn over_a_server(outer: &Home, serving: &[&str], believing: &[&str]) -> String {
    let stage = Stage::new();
    let there = stage.believing_home(&outer.wall);
    let server = Server::serving(&stage, &there, serving);
    let here = stage.home(&outer.wall);
    let key = there.state().join("server-token");
    let url = server.url.clone();
    let place = format!("{url}/container");
    here.ok(&[&["context", "add", "there", &place, "--key-file", key.to_str().unwrap()], believing].concat());
    let pair = Pair::new(&stage, &there, &here, "there");
    pair.put_in(&[there.path()]);
    let told = fs::read_to_string(there.path().join("server.log")).unwrap();
    assert!(told.contains("answered") && !told.contains(&pair.value));
    here.close();
    drop(server);
    there.close();
    url
}

fn by_a_login(outer: &Home) {
    let stage = Stage::new();
    let there = stage.believing_home(&outer.wall);
    // What the login starts is on the stage; who logs in is not.
    let there_alone = format!("ForceCommand exec {} /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"", stage.enter());
    let folder = tempfile::Builder::new().prefix("sandbar-sshd-").tempdir_in("/var/tmp").unwrap();
    let sshd = Sshd::start(folder.path(), &there.state(), &folder.path().join("cache"), &there_alone).unwrap();
    let here = Home::new(&outer.wall);
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", sshd.client.parent().unwrap().display());
    let pair = Pair { path: Some(path), ..Pair::new(&stage, &there, &here, &format!("{}/container", sshd.url)) };
    pair.put_in(&[there.path(), folder.path()]);
    pair.ok(&["context", "clean", &sshd.url]);
    here.close();
    drop(sshd);
    there.close();
}

/// Two hosts.
struct Pair<'a> {
    stage: &'a Stage,
    there: &'a Home,
    here: &'a Home,
    /// What the other one is called here.
    on: String,
    /// Where programs are found here, if they are found elsewhere than usual.
    path: Option<String>,
    /// What both secrets have in common, and nothing else on this machine: other tests have their own.
    value: String,
    /// In a variable of whoever asks.
    token: String,
    /// In a file here.
    key: String,
}

impl<'a> Pair<'a> {
    fn new(stage: &'a Stage, there: &'a Home, here: &'a Home, on: &str) -> Self {
        let value = format!("hunter2-{}", here.path().file_name().unwrap().to_str().unwrap());
        let [token, key] = ["variable", "file"].map(|of| format!("{value}-of-a-{of}"));
        Self { stage, there, here, on: on.to_owned(), path: None, value, token, key }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.here.command(args);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Finished {
        let mut command = self.command(args);
        command.env("MY_TOKEN", &self.token).env("SANDBAR_LOG", "trace");
        let finished = Client::start(command, args).finish();
        assert!(!finished.stderr.contains(&self.value), "{finished}");
        finished
    }

    /// Runs a command line here that must succeed; its output, trimmed.
    fn ok(&self, args: &[&str]) -> String {
        let finished = self.run(args);
        assert_eq!(finished.code, 0, "{finished}");
        finished.text().trim().to_owned()
    }

    fn shell(&self, id: &str, line: &str) -> String {
        self.ok(&["exec", id, "--", "sh", "-c", line])
    }

    fn saw(&self, text: &str) {
        saw(self.stage, text);
    }

    /// `folders` are those of the other host.
    fn put_in(&self, folders: &[&Path]) {
        let watch = Watch::begin(&self.here.state(), &self.value);
        let Self { value, token, key, .. } = self;
        let file = self.here.work().join("key");
        fs::write(&file, format!("{key}\n")).unwrap();
        let of_file = format!("KEY=file:{}@allowed.test", file.display());
        let options = ["--on", &self.on, "--net", "allow=allowed.test,other.test", "--secret", "TOKEN=env:MY_TOKEN@allowed.test"];
        let options = [options.as_slice(), &["--secret", &of_file]].concat();
        let line = "curl -sS -m 20 -H \"X-Token: $TOKEN $KEY\"";

        // By the command itself, whose sandbox ends with it.
        let by_itself = format!("{line} https://allowed.test:8443/run");
        let said = self.ok(&[&["run"], options.as_slice(), &["--", "sh", "-c", &by_itself]].concat());
        assert_eq!(said, "welcome over HTTP/2.0");
        self.saw(&format!("/run x-token={token} {key}"));

        let id = self.ok(&[&["create"], options.as_slice()].concat());
        assert_eq!(self.there.ids(), [id.as_str()]);
        assert_eq!(self.shell(&id, &format!("{line} --http1.1 https://allowed.test:8443/one")), "welcome over HTTP/1.1");
        self.saw(&format!("http allowed.test:8443 HTTP/1.1 /one x-token={token} {key}"));
        self.shell(&id, &format!("{line} http://other.test:8080/other"));
        self.saw("/other x-token=sandbar-secret-");
        let inside = self.shell(&id, "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; env");
        assert!(inside.contains("TOKEN=sandbar-secret-") && !inside.contains(value), "{inside}");

        // What is told of it here and there.
        let here = [self.ok(&["inspect", "--json", &id]), self.ok(&["net", "log", "--json", &id]), self.ok(&["audit", "--json"])].concat();
        assert!(here.contains("env:MY_TOKEN") && here.contains("the secret TOKEN is put in") && here.contains("\"leak\""), "{here}");
        let there = [&["inspect", "--json", &id][..], &["net", "log", "--json", &id], &["audit", "--json"], &["ls", "--json"]];
        let there = there.map(|args| self.there.ok(args)).concat();
        assert!(there.contains("\"given\"") && !there.contains("MY_TOKEN"), "{there}");
        assert!(!here.contains(value) && !there.contains(value), "{here}{there}");

        // Of the other host one file has them, and of this one nothing but where they came from.
        let vaults = |text: &str| folders.iter().flat_map(|folder| files_with(folder, text)).collect::<Vec<PathBuf>>();
        let vault = fs::read_dir(self.there.state().join("secrets")).unwrap().next().unwrap().unwrap().path();
        for text in [token, key] {
            assert_eq!(vaults(text), [vault.as_path()], "{text}");
        }
        assert_eq!(files_with(self.here.path(), value), [file.as_path()]);

        // It is read once: the other host does not ask again.
        fs::remove_file(&file).unwrap();
        let checkpoint = self.ok(&["checkpoint", &id]);
        for verb in [&["stop", &id][..], &["start", &id], &["restore", &id, &checkpoint]] {
            self.ok(verb);
        }
        self.shell(&id, &format!("{line} https://allowed.test:8443/again"));
        self.saw(&format!("/again x-token={token} {key}"));
        self.ok(&["rm", "-f", &id]);
        let fork = self.ok(&["fork", &checkpoint]);
        self.shell(&fork, &format!("{line} https://allowed.test:8443/forked"));
        self.saw(&format!("/forked x-token={token} {key}"));
        self.ok(&["net", "set", &fork, "allow=other.test"]);
        let refused = self.run(&["exec", &fork, "--", "sh", "-c", &format!("{line} https://allowed.test:8443/refused")]);
        assert_ne!(refused.code, 0, "{refused}");
        self.stage.assert_not_seen("/refused");
        assert!(self.ok(&["inspect", "--json", &fork]).contains("allow=other.test"));

        // When all are gone, so are they.
        self.ok(&["rm", "-f", &fork]);
        self.ok(&["checkpoint", "rm", &checkpoint]);
        assert_eq!(vaults(value), Vec::<PathBuf>::new());
        assert_eq!(files_with(self.here.path(), value), Vec::<PathBuf>::new());
        watch.end();

        // What could not be read, or used, leaves nothing anywhere.
        let gone = self.run(&[&["create"], options.as_slice()].concat());
        assert!(gone.code == 125 && gone.stderr.contains("its file cannot be read"), "{gone}");
        let other = ["create", "--on", &self.on, "--net", "allow=other.test", "--secret", "TOKEN=env:MY_TOKEN@allowed.test"];
        let other = self.run(&other);
        assert!(other.code == 125 && other.stderr.contains("allow=allowed.test") && !other.stderr.contains(value), "{other}");
        assert_eq!((self.here.ids().len(), self.there.ids().len()), (0, 0));
    }
}

/// Looks at what every process of the machine was started with, all the time.
struct Watch {
    done: Arc<AtomicBool>,
    looking: JoinHandle<Seen>,
}

/// Processes with the value, by their words.
#[derive(Default)]
struct Seen {
    /// In the environment of those who ask for the sandbox, where it comes from.
    clients: BTreeSet<String>,
    others: BTreeSet<String>,
}

impl Watch {
    /// Those who ask for the sandbox do so on this state folder.
    fn begin(here: &Path, value: &str) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (told, home, value) = (Arc::clone(&done), format!("SANDBAR_HOME={}", here.display()), value.to_owned());
        let looking = thread::spawn(move || {
            let mut seen = Seen::default();
            while !told.load(Ordering::Relaxed) {
                seen.look(&home, &value);
                // The others have processors to need as well.
                thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        Self { done, looking }
    }

    /// Fails with those who had it otherwise.
    fn end(self) {
        self.done.store(true, Ordering::Relaxed);
        let Seen { clients, others } = self.looking.join().unwrap();
        assert!(!clients.is_empty() && others.is_empty(), "{clients:#?}, and others: {others:#?}");
    }
}

impl Seen {
    fn look(&mut self, home: &str, value: &str) {
        let read = |pid: &str, name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let entries = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        for pid in entries.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            let [line, environment] = ["cmdline", "environ"].map(|name| String::from_utf8_lossy(&read(&pid, name)).into_owned());
            let is_of_a_client = environment.split('\0').any(|variable| variable == home);
            if line.contains(value) || environment.contains(value) {
                let seen = if is_of_a_client && !line.contains(value) { &mut self.clients } else { &mut self.others };
                seen.insert(line.replace('\0', " "));
            }
        }
    }
}
