//! What is the same over a server and over a login.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::world::{Home, Login, PATIENCE, There};

/// Another host, and a way to it.
pub struct Way<'a> {
    here: &'a Home,
    there: &'a Home,
    /// Its address, without a provider.
    on: &'a str,
    login: Option<&'a Login>,
}

/// A fact, and what shows it either way.
type Case = (&'static str, fn(&Way<'_>));

pub const CASES: &[Case] = &[
    ("what_was_done_there_is_told_and_followed_from_here", what_was_done_there_is_told_and_followed_from_here),
    ("what_that_host_can_do_is_told_from_here", what_that_host_can_do_is_told_from_here),
    ("what_crashed_there_is_cleared_up_from_here", what_crashed_there_is_cleared_up_from_here),
    ("a_checkpoint_there_leaves_as_a_file_here", a_checkpoint_there_leaves_as_a_file_here),
    ("a_port_there_stays_exposed_here_when_the_command_has_returned", a_port_there_stays_exposed_here_when_the_command_has_returned),
    ("a_host_that_chooses_meets_the_floor_and_the_needs", a_host_that_chooses_meets_the_floor_and_the_needs),
    ("a_fork_stays_with_its_checkpoints_wall_of_that_host", a_fork_stays_with_its_checkpoints_wall_of_that_host),
];

pub fn over_http(body: fn(&Way<'_>)) {
    let there = There::new();
    let here = there.here();
    body(&Way { here: &here, there: &there.home, on: &there.url, login: None });
}

pub fn over_ssh(login: &Login, body: fn(&Way<'_>)) {
    body(&Way { here: &Home::new(), there: &login.there, on: &login.url, login: Some(login) });
}

impl Way<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        match self.login {
            Some(login) => login.command(self.here, arguments),
            None => self.here.command(arguments),
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn complains(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The container of that host.
    fn container(&self) -> String {
        format!("{}/container", self.on)
    }
}

fn what_was_done_there_is_told_and_followed_from_here(way: &Way<'_>) {
    let id = way.says(&["create", "--on", &way.container(), "--name", "web"]);
    way.says(&["exec", "web", "--", "true"]);
    let exported = way.says(&["audit", "--on", way.on, "--json"]);
    let verbs: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(verbs.iter().any(|line| line["verb"] == "create" && line["sandbox"] == id.as_str()), "{exported}");
    assert!(verbs.iter().any(|line| line["verb"] == "exec" && line["target"] == "true"), "{exported}");
    // It only grows.
    assert!(way.there.says(&["audit", "--json"]).starts_with(&exported));
    // That host does not know what it is called here.
    let of_it = way.says(&["audit", "--on", way.on, "web"]);
    assert!(of_it.lines().count() > 1 && of_it.lines().all(|line| line.contains(&id)), "{of_it}");
    assert_eq!(way.says(&["audit", "--on", way.on, "nobodys"]), "");
    // One of the same name that is not there is not meant.
    let ours = way.says(&["create", "--on", "dangerous-host", "--name", "twin"]);
    let theirs = way.there.says(&["create", "--on", "dangerous-host", "--name", "twin"]);
    let of_theirs = way.says(&["audit", "--on", way.on, "twin"]);
    assert!(of_theirs.contains(&theirs) && !of_theirs.contains(&ours), "{of_theirs}");
    way.says(&["rm", "-f", &ours]);
    way.there.says(&["rm", "-f", &theirs]);

    let mut following = way.command(&["audit", "--on", way.on, "--follow", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("  create  "));
    let failed = way.run(&["exec", "web", "--", "sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7), "{failed:?}");
    let told = lines.by_ref().find(|line| line.contains(" with 7")).unwrap();
    assert!(told.contains("  exit  "), "{told}");
    way.says(&["rm", "-f", "web"]);
    assert!(lines.by_ref().any(|line| line.contains("  destroy  ")));
    following.kill().unwrap();
    following.wait().unwrap();
    assert!(way.complains(&["audit", "--on", "container"]).contains("leave --on out"));
}

fn what_that_host_can_do_is_told_from_here(way: &Way<'_>) {
    let parse = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let (ours, theirs) = (way.run(&["doctor", "--on", way.on, "--json"]), way.there.run(&["doctor", "--json"]));
    let names = |found: &Value, list: &str| -> Vec<Value> {
        let list = found[list].as_array().unwrap();
        list.iter().map(|entry| entry["name"].clone()).collect()
    };
    let (found, told) = (parse(&ours), parse(&theirs));
    for list in ["providers", "host"] {
        assert!(!names(&found, list).is_empty());
        assert_eq!(names(&found, list), names(&told, list));
    }
    // Each has tried for itself: what an engine or a busy machine lets one of them find, the other may find otherwise.
    let container = |found: &Value| found["providers"].as_array().unwrap().iter().find(|one| one["name"] == "container").unwrap().clone();
    for (found, output) in [(&found, &ours), (&told, &theirs)] {
        assert_eq!((&container(found)["usable"], output.status.code()), (&true.into(), Some(0)), "{found}");
    }
    let tested = parse(&way.run(&["doctor", "--on", way.on, "--self-test", "--json"]));
    assert_eq!(container(&tested)["said_hello"], true, "{tested}");
    let shown = String::from_utf8(way.run(&["doctor", "--on", way.on]).stdout).unwrap();
    assert!(shown.contains("PROVIDER") && shown.contains("cgroups"), "{shown}");
    assert!(way.complains(&["doctor", "--on", "container"]).contains("leave --on out"));
}

fn what_crashed_there_is_cleared_up_from_here(way: &Way<'_>) {
    // Who serves there is there already: one that begins clears up as well.
    way.says(&["image", "ls", "--on", way.on]);
    let died = way.there.command(&["create", "--on", "container"]).env("SANDBAR_FAULT", "create.folder").output().unwrap();
    assert!(!died.status.success(), "{died:?}");
    let cleared = way.says(&["gc", "--on", way.on]);
    assert!(cleared.contains("sandbox sb-"), "{cleared}");
    assert!(way.there.ids().is_empty());
    let nothing: Value = serde_json::from_str(&way.says(&["gc", "--on", way.on, "--json"])).unwrap();
    assert_eq!(nothing, serde_json::json!({ "recovered": [], "removed": [], "failed": [] }));
}

fn a_checkpoint_there_leaves_as_a_file_here(way: &Way<'_>) {
    let place = |name: &str| way.here.path().join(name).display().to_string();
    fs::create_dir(place("root")).unwrap();
    fs::write(place("root/motd"), "from afar").unwrap();
    let archive = place("root.tar");
    assert!(Command::new("tar").args(["-cf", &archive, "-C", &place("root"), "."]).status().unwrap().success());
    way.says(&["image", "import", "--on", way.on, &archive, "afar"]);
    let id = way.says(&["create", "--on", &way.container(), "--image", "afar"]);
    fs::write(place("note"), vec![7; 3 << 20]).unwrap();
    way.says(&["cp", &place("note"), &format!("{id}:/note")]);
    way.says(&["checkpoint", &id, "--name", "saved"]);

    let file = place("saved.tar");
    let digest = way.says(&["checkpoint", "export", "saved", &file]);
    assert!(digest.starts_with("sha256:"), "{digest}");
    let told: Value = serde_json::from_str(&way.says(&["checkpoint", "export", "--json", "saved", &place("again.tar")])).unwrap();
    assert_eq!((&told["digest"], &told["bytes"]), (&digest.as_str().into(), &fs::metadata(&file).unwrap().len().into()), "{told}");
    fs::write(place("piped.tar"), way.run(&["checkpoint", "export", "saved", "-"]).stdout).unwrap();
    let thin: Value = serde_json::from_str(&way.says(&["checkpoint", "export", "--thin", "--json", "saved", &place("thin.tar")])).unwrap();
    assert_eq!(thin["layers"].as_u64().map(|layers| layers + 1), told["layers"].as_u64(), "{thin} {told}");
    // Whoever gets the file goes on from there.
    let another = Home::new();
    another.says(&["checkpoint", "import", &file, "--name", "taken"]);
    let fork = another.says(&["fork", "taken"]);
    another.says(&["cp", &format!("{fork}:/note"), &place("back")]);
    another.says(&["cp", &format!("{fork}:/motd"), &place("motd")]);
    assert!(fs::read(place("back")).unwrap() == fs::read(place("note")).unwrap());
    assert_eq!(fs::read_to_string(place("motd")).unwrap(), "from afar");
    another.says(&["rm", "-f", &fork]);
    another.says(&["checkpoint", "import", &place("piped.tar"), "--name", "piped"]);

    // What that host refuses, it refuses with the reason, and there is no file.
    let on_host = way.says(&["create", "--on", &way.container()]);
    way.says(&["checkpoint", &on_host, "--name", "programs"]);
    let complaint = way.complains(&["checkpoint", "export", "programs", &place("none.tar")]);
    assert!(complaint.contains("--flatten") && !fs::exists(place("none.tar")).unwrap(), "{complaint}");
    way.says(&["rm", "-f", &id, &on_host]);
    way.says(&["checkpoint", "rm", "saved", "programs"]);
}

fn a_port_there_stays_exposed_here_when_the_command_has_returned(way: &Way<'_>) {
    let calls = way.login.map(|login| login.calls(""));
    let id = way.says(&["create", "--on", &way.container()]);
    let address = way.says(&["expose", &id, "8080"]);
    way.says(&["exec", &id, "--", "sh", "-c", "echo from afar > /tmp/file"]);
    way.says(&["exec", "-d", &id, "--", "python3", "-m", "http.server", "-d", "/tmp", "8080"]);
    let fetch = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(&address)?;
        stream.write_all(b"GET /file HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer.starts_with(b"HTTP/1.0 200") && answer.ends_with(b"from afar\n"))
    };
    let is_fetched = || {
        let until = Instant::now() + PATIENCE;
        while !fetch().unwrap_or_default() {
            assert!(Instant::now() < until, "nothing comes from {address}");
            sleep(Duration::from_millis(20));
        }
    };
    is_fetched();
    if let (Some(login), Some(calls)) = (way.login, calls) {
        // No command runs: who keeps the port logs in again for itself.
        let before = calls().len();
        login.cut();
        is_fetched();
        assert!(calls().len() > before, "{:?}", calls());
    }
    way.says(&["rm", "-f", &id]);
}

/// The provider of what `inspect` says.
fn provider(says: &str) -> String {
    serde_json::from_str::<Value>(says).unwrap()["provider"].as_str().unwrap().to_owned()
}

fn a_host_that_chooses_meets_the_floor_and_the_needs(way: &Way<'_>) {
    // As it would for somebody who is there.
    for floor in ["namespaces", "user-kernel", "vm"] {
        let theirs = way.there.run(&["create", "--isolation", floor]);
        let word = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap().trim_end().to_owned();
        let expected = theirs.status.success().then(|| {
            let provider = provider(&way.there.says(&["inspect", &word(&theirs)]));
            way.there.says(&["rm", "-f", &word(&theirs)]);
            provider
        });
        let ours = way.run(&["create", "--on", way.on, "--isolation", floor]);
        match expected {
            Some(expected) => {
                assert!(ours.status.success(), "{floor}: {ours:?}");
                assert_eq!(provider(&way.says(&["inspect", &word(&ours)])), format!("{}/{expected}", way.on));
                way.says(&["rm", "-f", &word(&ours)]);
            }
            None => {
                let said = String::from_utf8(ours.stderr.clone()).unwrap();
                assert_eq!(ours.status.code(), Some(125), "{ours:?}");
                assert!(said.contains(&format!("with isolation {floor} or stronger")) && said.contains("hint: "), "{said}");
            }
        }
    }
    let refused = way.complains(&["create", "--on", way.on, "--disk-rate", "1M"]);
    assert!(refused.contains("container does not have"), "{refused}");
    let plain = way.says(&["create", "--on", way.on]);
    assert_eq!(provider(&way.says(&["inspect", &plain])), way.container());
    assert_eq!(way.says(&["exec", &plain, "--", "echo", "hello"]), "hello");
    way.says(&["rm", "-f", &plain]);
    assert_eq!((way.here.ids().len(), way.there.ids().len()), (0, 0));
}

fn a_fork_stays_with_its_checkpoints_wall_of_that_host(way: &Way<'_>) {
    let stays = |wall: &str, file: &str, options: &[&str]| {
        let origin = way.says(&["create", "--on", &format!("{}/{wall}", way.on)]);
        way.says(&["exec", &origin, "--", "sh", "-c", &format!("echo kept > {file}")]);
        way.says(&[&["checkpoint", &origin, "--name", "saved"], options].concat());
        // The host alone is no other wall of it.
        for asked in [&[][..], &["--on", way.on], &["--on", &format!("{}/auto", way.on)]] {
            let fork = way.says(&[&["fork", "saved"], asked].concat());
            assert_eq!(provider(&way.says(&["inspect", &fork])), format!("{}/{wall}", way.on), "{asked:?}");
            assert_eq!(provider(&way.there.says(&["inspect", &fork])), wall, "{asked:?}");
            assert_eq!(way.says(&["exec", &fork, "--", "cat", file]), "kept");
            way.says(&["rm", "-f", &fork]);
        }
        way.says(&["rm", "-f", &origin]);
        way.says(&["checkpoint", "rm", "saved"]);
    };
    // Never chosen, only named.
    stays("dangerous-host", "kept", &[]);
    // Memory is bound to its wall.
    let theirs = way.there.run(&["create", "--on", "gvisor"]);
    if theirs.status.success() {
        way.there.says(&["rm", "-f", String::from_utf8(theirs.stdout).unwrap().trim_end()]);
        stays("gvisor", "/tmp/kept", &["--with-memory"]);
    }
    assert_eq!((way.here.ids().len(), way.there.ids().len()), (0, 0));
}
