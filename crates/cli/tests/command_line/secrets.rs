//! Secrets that a sandbox uses and never sees, on the stage of what leaves.

use std::{
    fs,
    io::{self, BufRead},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::SeekFrom,
    process::{Pid, Signal, kill_process},
};

use crate::{
    packages::{REPOSITORY, WORD, publish},
    support::{Case, Client, Finished, Home, Stage, eventually, processes_with},
};

const WALLS: &[&str] = &["container-root", "container-rootless", "gvisor-root", "gvisor-rootless"];
/// Those as well that need an engine, or a kernel.
const ALL_WALLS: &[&str] =
    &["container-root", "container-rootless", "gvisor-root", "gvisor-rootless", "docker-runc", "docker-runsc", "qemu-tcg"];
const WITH_ENGINES: &[&str] = &["container-root", "container-rootless", "gvisor-root", "gvisor-rootless", "docker-runc"];

pub const CASES: &[Case] = &[
    Case::new("secrets::they_are_put_into_requests_and_are_nowhere_else", put_in).on(ALL_WALLS).staged().brief(),
    Case::new("secrets::they_are_put_into_requests_of_a_microvm", put_in_there).on(&["firecracker-jailed"]).staged().brief(),
    Case::new("secrets::programs_believe_it_each_in_its_own_way", believed).on(WALLS).staged(),
    Case::new("secrets::node_believes_it", node).on(WALLS).staged().needs_beside(&["/usr/bin/node"]),
    Case::new("secrets::git_believes_it", git).on(WALLS).staged().needs_beside(&["/usr/bin/git"]),
    Case::new("secrets::other_hosts_get_a_placeholder_and_that_is_told", elsewhere).on(ALL_WALLS).staged(),
    Case::new("secrets::they_last_through_stops_restores_and_forks", lasting).on(WITH_ENGINES).staged(),
    Case::new("secrets::they_last_in_saved_memory_and_are_not_in_it", in_memory).on(&["qemu-tcg"]).staged().brief(),
    Case::new("secrets::memory_that_cannot_be_saved_with_them_is_refused", unsaved)
        .on(&["gvisor-root", "gvisor-rootless", "docker-runsc"])
        .staged()
        .brief(),
    Case::new("secrets::without_its_source_nothing_is_connected_to", gone).on(&["container-root", "container-rootless"]).staged(),
    Case::new("secrets::a_limit_of_bytes_counts_what_passes_to_their_hosts", limited).on(&["container-root"]).staged(),
    Case::new("secrets::a_maker_that_was_killed_leaves_none_or_a_whole_sandbox", killed).on(&["container-root", "container-rootless"]),
    Case::new("secrets::what_could_not_be_kept_is_refused", refused).on(&["container-root", "dangerous-host"]),
];

/// The values; nothing else has this text.
const TOKEN: &str = "hunter2-of-a-variable";
const KEY: &str = "hunter2-of-a-file";
/// What both have in common.
const VALUE: &str = "hunter2";

/// Runs a command line with the variable that has the secret.
fn with_token(home: &Home, args: &[&str]) -> Finished {
    let mut command = home.command(args);
    command.env("MY_TOKEN", TOKEN);
    Client::start(command, args).finish()
}

/// A file with a secret, of the wall's user.
fn key_file(home: &Home) -> PathBuf {
    let path = home.work().join("key");
    fs::write(&path, format!("{KEY}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    home.wall.hand_over(&path);
    path
}

/// Makes a sandbox with a secret TOKEN and a secret KEY for allowed.test, and whatever else.
fn create(home: &Home, more: &[&str]) -> String {
    let key = format!("KEY=file:{}@allowed.test", key_file(home).display());
    let args = ["--secret", "TOKEN=env:MY_TOKEN@allowed.test", "--secret", &key];
    let made = with_token(home, &[&["create"], home.wall.options().as_slice(), &args, more].concat());
    assert_eq!(made.code, 0, "{made}");
    made.text().trim().to_owned()
}

const NET: [&str; 2] = ["--net", "allow=allowed.test,other.test"];

/// Asks in a shell line; what is said.
fn ask(home: &Home, id: &str, line: &str) -> String {
    let finished = home.sandbar(&["exec", id, "--", "sh", "-c", &format!("curl -sS -m 20 {line}")]);
    assert_eq!(finished.code, 0, "{line}: {finished}\n{}", home.ok(&["net", "log", id]));
    finished.text()
}

/// Waits until the internet has seen this.
pub fn saw(stage: &Stage, text: &str) {
    eventually(&format!("{text} is seen: {:?}", stage.seen()), || stage.seen().iter().any(|line| line.contains(text)));
}

/// The files below a folder that have a text in them.
pub fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(files_with(&path, text));
        } else if kind.is_file() && has(&path, text.as_bytes()).unwrap_or(false) {
            found.push(path);
        }
    }
    found
}

/// Whether a file has a text in it. Of the disks of machines, which are large, nearly all are holes.
fn has(path: &Path, text: &[u8]) -> io::Result<bool> {
    let file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while let Ok(begin) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, SeekFrom::Hole(begin))?;
        at = begin;
        while at < end {
            let length = file.read_at(&mut buffer, at)?;
            let mut rest = &buffer[..length];
            while rest.skip_until(text[0])? > 0 {
                if rest.starts_with(&text[1..]) {
                    return Ok(true);
                }
            }
            // It may begin in one piece and end in the next.
            at = if length < buffer.len() { end } else { at + (length - text.len()) as u64 };
        }
    }
    Ok(false)
}

fn put_in(outer: &Home) {
    let stage = Stage::new();
    let home = stage.believing_home(&outer.wall);
    let id = create(&home, &NET);
    let said = ask(&home, &id, "-H \"Authorization: Bearer $TOKEN\" -H \"X-Token: $KEY\" --http1.1 https://allowed.test:8443/one");
    assert_eq!(said, "welcome over HTTP/1.1\n");
    saw(&stage, &format!("http allowed.test:8443 HTTP/1.1 /one authorization=Bearer {TOKEN} x-token={KEY}"));
    let said = ask(&home, &id, "-H \"X-Token: <$TOKEN>\" --http2 https://allowed.test:8443/two");
    assert_eq!(said, "welcome over HTTP/2.0\n");
    saw(&stage, &format!("http allowed.test:8443 HTTP/2.0 /two x-token=<{TOKEN}>"));
    // Within what is encoded, as git and pip say it.
    ask(&home, &id, "-u \"me:$KEY\" http://allowed.test:8080/three");
    saw(&stage, "/three authorization=Basic bWU6aHVudGVyMi1vZi1hLWZpbGU=");
    stage.assert_not_seen("sandbar-secret-");
    // By the command itself, whose sandbox ends with it.
    let options = ["--net", "allow=allowed.test", "--secret", "T=env:MY_TOKEN@allowed.test"];
    let command = ["sh", "-c", "curl -sS -m 20 -H \"X-Token: run $T\" https://allowed.test:8443/"];
    let run = with_token(&home, &home.run_args(&options, &command));
    assert_eq!(run.code, 0, "{run}");
    saw(&stage, &format!("x-token=run {TOKEN}"));

    // Inside there is a placeholder, and nothing of the secrets or of the authority's key.
    let inside = "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/self/mountinfo; tar c /etc /tmp /root /home /run 2>/dev/null";
    let inside = home.sandbar(&["exec", &id, "--", "sh", "-c", inside]);
    let inside = String::from_utf8_lossy(&inside.stdout).into_owned();
    assert!(inside.contains("TOKEN=sandbar-secret-") && inside.contains("BEGIN CERTIFICATE"), "{inside}");
    for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"] {
        assert!(inside.contains(&format!("{name}=/etc/sandbar/authorities.pem")), "{name}: {inside}");
    }
    assert!(inside.contains("NODE_EXTRA_CA_CERTS=/etc/sandbar/authority.pem"), "{inside}");
    assert!(!inside.contains(VALUE) && !inside.contains("PRIVATE KEY"));
    // Outside one file has what was in the variable, and nothing but its source what is in the file.
    let checkpoint = home.ok(&["checkpoint", &id]);
    let told = [home.ok(&["inspect", &id]), home.ok(&["inspect", "--json", &id]), home.ok(&["net", "log", "--json", &id])].concat();
    assert!(told.contains("env:MY_TOKEN") && told.contains("the secret TOKEN is put in") && !told.contains(VALUE), "{told}");
    let vault = fs::read_dir(home.state().join("secrets")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::metadata(&vault).unwrap().permissions().mode() & 0o7777, 0o600);
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(&vault).unwrap()).unwrap();
    let key = kept["key"].as_str().unwrap().lines().nth(1).unwrap();
    for text in [TOKEN, key] {
        assert_eq!(files_with(home.path(), text), [vault.as_path()], "{text}");
    }
    assert_eq!(files_with(home.path(), KEY), [home.work().join("key")]);
    home.ok(&["rm", "-f", &id]);
    home.ok(&["checkpoint", "rm", &checkpoint]);
    assert_eq!(files_with(home.path(), TOKEN), Vec::<PathBuf>::new());
    home.close();
}

/// What a wall could change of that, where each step takes seconds.
fn put_in_there(outer: &Home) {
    let stage = Stage::new();
    let home = stage.believing_home(&outer.wall);
    let id = create(&home, &NET);
    assert_eq!(ask(&home, &id, "-H \"X-Token: $TOKEN $KEY\" https://allowed.test:8443/there"), "welcome over HTTP/2.0\n");
    saw(&stage, &format!("http allowed.test:8443 HTTP/2.0 /there x-token={TOKEN} {KEY}"));
    assert!(home.shell(&id, "echo $TOKEN").starts_with("sandbar-secret-"));
    home.close();
}

const PYTHON: &str = "
import os, ssl, http.client
host = http.client.HTTPSConnection('allowed.test', 8443, timeout=20)
host.request('GET', '/python', headers={'X-Token': os.environ['TOKEN']})
print(host.getresponse().status)
strict = ssl.create_default_context()
strict.verify_flags |= ssl.VERIFY_X509_STRICT
host = http.client.HTTPSConnection('allowed.test', 8443, timeout=20, context=strict)
host.request('GET', '/strict')
print(host.getresponse().status)
";

fn believed(outer: &Home) {
    let stage = Stage::new();
    let home = stage.believing_home(&outer.wall);
    let id = create(&home, &NET);
    assert_eq!(home.ok(&["exec", &id, "--", "/usr/bin/python3", "-c", PYTHON]), "200\n200");
    saw(&stage, &format!("/python x-token={TOKEN}"));
    // Without the variables: the system's own file.
    home.ok(&["exec", &id, "--", "env", "-i", "curl", "-sS", "-m", "20", "https://allowed.test:8443/"]);
    let verify = "openssl s_client -connect allowed.test:8443 -verify_return_error -brief </dev/null 2>&1";
    assert!(home.shell(&id, verify).contains("Verification: OK"));
    // The system's own folder, by the hash of the name, and nothing else.
    let folder = "-CApath /etc/ssl/certs -no-CAfile -no-CAstore";
    assert!(home.shell(&id, &verify.replace("-verify", &format!("{folder} -verify"))).contains("Verification: OK"));
    let alone = ["env", "-i", "SSL_CERT_FILE=/dev/null", "SSL_CERT_DIR=/etc/ssl/certs", "TOKEN=none", "/usr/bin/python3", "-c", PYTHON];
    assert_eq!(home.ok(&[&["exec", &id, "--"], &alone[..]].concat()), "200\n200");
    // What was set by hand stays, and so does what is of the image.
    let own = create(&home, &[&NET[..], &["-e", "SSL_CERT_FILE=/own.pem"]].concat());
    assert_eq!(home.shell(&own, "echo $SSL_CERT_FILE $CURL_CA_BUNDLE"), "/own.pem /etc/sandbar/authorities.pem");
    let count = |id: &str| home.shell(id, "grep -c BEGIN /etc/sandbar/authorities.pem").parse::<u32>().unwrap();
    assert_eq!(count(&id), count(&own));
    home.close();
}

const NODE: &str = "
const headers = { 'X-Token': process.env.TOKEN };
require('https').get('https://allowed.test:8443/node', { headers }, (answer) => {
    console.log(answer.statusCode);
    answer.resume();
}).on('error', (error) => console.log(error.code));
";

fn node(outer: &Home) {
    let stage = Stage::new();
    let home = stage.believing_home(&outer.wall);
    let id = create(&home, &NET);
    let run = |options: &str| home.ok(&["exec", &id, "--", "sh", "-c", &format!("{options} -e \"$1\""), "node", NODE]);
    assert_eq!(run("node"), "200");
    saw(&stage, &format!("/node x-token={TOKEN}"));
    // Without what it is told, it has authorities of its own alone, or what OpenSSL finds in the folder.
    assert_eq!(run("env -u NODE_EXTRA_CA_CERTS node"), "UNABLE_TO_VERIFY_LEAF_SIGNATURE");
    assert_eq!(run("env -u NODE_EXTRA_CA_CERTS SSL_CERT_FILE=/dev/null SSL_CERT_DIR=/etc/ssl/certs node --use-openssl-ca"), "200");
    home.close();
}

fn git(outer: &Home) {
    let stage = Stage::new();
    publish(&stage, REPOSITORY);
    let home = stage.believing_home(&outer.wall);
    let id = create(&home, &NET);
    let clone = "git -c http.extraHeader=\"X-Token: $TOKEN\" clone --quiet https://allowed.test:8443/packages/git/demo.git";
    assert_eq!(home.shell(&id, &format!("cd /tmp && {clone} one && cat one/word")), WORD);
    saw(&stage, &format!("/packages/git/demo.git/info/refs x-token={TOKEN}"));
    // By what the system has.
    let bare = "unset GIT_SSL_CAINFO CURL_CA_BUNDLE SSL_CERT_FILE";
    assert_eq!(home.shell(&id, &format!("cd /tmp && {bare} && {clone} two && cat two/word")), WORD);
    stage.assert_not_seen("sandbar-secret-");
    home.close();
}

fn elsewhere(outer: &Home) {
    let stage = Stage::new();
    let home = stage.believing_home(&outer.wall);
    let id = create(&home, &NET);
    ask(&home, &id, "-H \"X-Token: $TOKEN\" http://other.test:8080/plain");
    saw(&stage, "/plain x-token=sandbar-secret-");
    let leaks =
        || home.ok(&["net", "log", &id]).lines().filter(|line| line.contains("  leak  ")).map(ToOwned::to_owned).collect::<Vec<_>>();
    assert!(leaks().len() == 1 && leaks()[0].contains("other.test") && leaks()[0].contains("placeholder of TOKEN"), "{:?}", leaks());
    // Its certificate is its own: nobody looks into it, so it is not told either.
    let issuer = |host: &str| {
        let line = format!("curl -skv -m 20 -H \"X-Token: $TOKEN\" https://{host}:8443/ 2>&1 | grep issuer");
        home.shell(&id, &line)
    };
    assert!(issuer("other.test").contains("CN=stage"));
    assert!(issuer("allowed.test").contains("CN=sandbar"));
    assert_eq!(leaks().len(), 1);
    // In the address, and in a name that is allowed to be asked for.
    ask(&home, &id, "\"http://allowed.test:8080/$TOKEN\"");
    home.ok(&["net", "set", &id, "open"]);
    home.sandbar(&["exec", &id, "--", "sh", "-c", "curl -sS -m 20 http://$KEY.test/"]);
    let told = leaks().join("\n");
    assert!(told.contains("in the address of a request") && told.contains("in a name that is asked for"), "{told}");
    // Another host by the way of the secret's own.
    for words in ["-H 'Host: other.test' http://allowed.test:8080/", "-H 'Host: other.test' https://allowed.test:8443/"] {
        let said = ask(&home, &id, &format!("-w '%{{http_code}}' -H \"X-Token: $TOKEN\" {words}"));
        assert!(said.ends_with("421"), "{said}");
    }
    stage.assert_not_seen("http other.test HTTP/1.1 / x-token=hunter2");
    assert!(home.ok(&["net", "log", &id]).contains("the host of HTTP is other.test, and allowed.test was resolved"));
    home.close();
}

fn lasting(outer: &Home) {
    let stage = Stage::new();
    let home = stage.believing_home(&outer.wall);
    let id = create(&home, &NET);
    let holds = |id: &str, path: &str| {
        ask(&home, id, &format!("-H \"X-Token: $TOKEN $KEY\" https://allowed.test:8443/{path}"));
        saw(&stage, &format!("/{path} x-token={TOKEN} {KEY}"));
    };
    holds(&id, "first");
    let placeholder = home.shell(&id, "echo $TOKEN");
    let checkpoint = home.ok(&["checkpoint", &id]);
    home.ok(&["stop", &id]);
    home.ok(&["start", &id]);
    holds(&id, "started");
    // Whoever decides in its place has them, too.
    let keepers = || processes_with(&format!("keeper\0--home\0{}\0{id}", home.state().display()));
    eventually("there is a keeper", || keepers().len() == 1);
    kill_process(Pid::from_raw(keepers()[0].cast_signed()).unwrap(), Signal::KILL).unwrap();
    eventually("there is no keeper", || keepers().is_empty());
    holds(&id, "kept-anew");
    // Another one's files, with another authority.
    let other = create(&home, &NET);
    assert_ne!(home.shell(&other, "echo $TOKEN"), placeholder);
    home.ok(&["restore", &other, &checkpoint]);
    holds(&other, "put-back-to-anothers");
    home.ok(&["restore", &id, &checkpoint]);
    holds(&id, "put-back");
    home.ok(&["rm", "-f", &id, &other]);
    let fork = home.ok(&["fork", &checkpoint]);
    holds(&fork, "fork");
    assert_eq!(home.shell(&fork, "echo $TOKEN"), placeholder);
    home.ok(&["rm", "-f", &fork]);
    home.ok(&["checkpoint", "rm", &checkpoint]);
    assert_eq!(fs::read_dir(home.state().join("secrets")).unwrap().count(), 0);
    home.close();
}

/// Asks its secrets' host for each path that it reads, with what it has had in its environment since it began.
const ASKS: &str = r#"busybox mkfifo /tmp/paths
while read -r path </tmp/paths; do curl -sS -m 60 -H "X-Token: $TOKEN $KEY" "https://allowed.test:8443/$path"; done"#;

fn in_memory(outer: &Home) {
    let stage = Stage::new();
    let home = stage.believing_home(&outer.wall);
    let id = create(&home, &NET);
    let placeholder = home.shell(&id, "echo $TOKEN");
    home.ok(&["exec", "-d", &id, "--", "sh", "-c", ASKS]);
    let asks = |id: &str, path: &str| {
        home.shell(id, &format!("until [ -p /tmp/paths ]; do :; done; echo {path} >/tmp/paths"));
        saw(&stage, &format!("/{path} x-token={TOKEN} {KEY}"));
    };
    asks(&id, "before");
    let checkpoint = home.ok(&["checkpoint", "--with-memory", &id]);
    asks(&id, "saved");
    // What is stored has the placeholder, in the memory of processes too, and neither the secrets nor the authority's key.
    let vault = fs::read_dir(home.state().join("secrets")).unwrap().next().unwrap().unwrap().path();
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(&vault).unwrap()).unwrap();
    let key = kept["key"].as_str().unwrap().lines().nth(1).unwrap();
    let memory = home.state().join("checkpoints").join(&checkpoint);
    assert!(!files_with(&memory, &placeholder).is_empty(), "{}", memory.display());
    for text in [TOKEN, key] {
        assert_eq!(files_with(home.path(), text), [vault.as_path()], "{text}");
    }
    assert_eq!(files_with(home.path(), KEY), [home.work().join("key")]);
    home.ok(&["restore", &id, &checkpoint]);
    asks(&id, "put-back");
    // Forks have it beside their origin and after it.
    let fork = home.ok(&["fork", &checkpoint]);
    asks(&fork, "fork");
    asks(&id, "origin");
    home.ok(&["rm", "-f", &id, &fork]);
    let later = home.ok(&["fork", &checkpoint]);
    asks(&later, "later");
    assert!(home.ok(&["net", "log", &later]).contains("the secret TOKEN is put in"));
    stage.assert_not_seen("sandbar-secret-");
    home.ok(&["rm", "-f", &later]);
    home.ok(&["checkpoint", "rm", &checkpoint]);
    assert_eq!(fs::read_dir(home.state().join("secrets")).unwrap().count(), 0);
    home.close();
}

fn unsaved(outer: &Home) {
    let stage = Stage::new();
    let home = stage.believing_home(&outer.wall);
    let id = create(&home, &NET);
    let refused = home.sandbar(&["checkpoint", "--with-memory", &id]);
    assert!(refused.code == 125 && refused.stderr.contains("network") && refused.stderr.contains("hint: "), "{refused}");
    ask(&home, &id, "-H \"X-Token: $TOKEN\" https://allowed.test:8443/goes-on");
    saw(&stage, &format!("/goes-on x-token={TOKEN}"));
    assert!(!home.state().join("checkpoints").exists() || fs::read_dir(home.state().join("checkpoints")).unwrap().next().is_none());
    home.close();
}

fn gone(outer: &Home) {
    let stage = Stage::new();
    let home = stage.believing_home(&outer.wall);
    let id = create(&home, &NET);
    let key = key_file(&home);
    fs::remove_file(&key).unwrap();
    let tried = home.sandbar(&["exec", &id, "--", "curl", "-sS", "-m", "20", "https://allowed.test:8443/"]);
    assert!([7, 35, 52, 56].contains(&tried.code), "{tried}");
    stage.assert_not_seen("tcp 93.184.215.14");
    let log = home.ok(&["net", "log", &id]);
    assert!(log.contains("its file cannot be read") && log.contains("secret=KEY"), "{log}");
    // Other hosts are reached meanwhile, and this one when it is there again, with what it is now.
    ask(&home, &id, "http://other.test:8080/");
    fs::write(&key, "changed").unwrap();
    home.wall.hand_over(&key);
    ask(&home, &id, "-H \"X-Token: $KEY\" https://allowed.test:8443/");
    saw(&stage, "x-token=changed");
    home.close();
}

fn limited(outer: &Home) {
    let stage = Stage::new();
    let home = stage.believing_home(&outer.wall);
    let id = create(&home, &["--net", "allow=allowed.test,max-bytes=200000"]);
    let upload = |count: u32| {
        let line = format!("head -c {count} /dev/zero | curl -sS -m 20 -T - -H \"X-Token: $TOKEN\" https://allowed.test:8443/upload");
        home.sandbar(&["exec", &id, "--", "sh", "-c", &line])
    };
    assert_eq!(upload(100_000).text(), "welcome over HTTP/2.0\n");
    let read = || home.ok(&["net", "log", "--json", &id]);
    let ended = || -> Option<serde_json::Value> {
        let records: Vec<serde_json::Value> = read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        records.into_iter().find(|record| record["event"] == "ended")
    };
    eventually("the end of the connection is in the log", || ended().is_some());
    let ended = ended().unwrap();
    assert!((100_000..150_000).contains(&ended["sent"].as_u64().unwrap()) && ended["reason"] == "ended", "{ended}");
    assert_ne!(upload(200_000).code, 0);
    eventually("the limit is in the log", || read().contains("the sandbox's limit of 200000 bytes is reached"));
    home.close();
}

fn killed(home: &Home) {
    let kill = |step: &str| {
        let args = ["create", "--on", home.wall.provider, "--net", "allow=allowed.test", "--secret", "TOKEN=env:MY_TOKEN@allowed.test"];
        let mut command = home.command(&args);
        command.env("MY_TOKEN", TOKEN).env("SANDBAR_FAULT", step);
        assert_eq!(Client::start(command, &args).finish().code, 137, "{step}");
    };
    for step in ["create.row", "create.folder"] {
        kill(step);
        assert_eq!(home.ids(), Vec::<String>::new(), "{step}");
        assert_eq!(files_with(&home.state(), TOKEN), Vec::<PathBuf>::new(), "{step}");
    }
    // From here on the sandbox is there, and whoever decides about it sees to the rest.
    kill("create.provisioned");
    let id = home.ids().remove(0);
    eventually("the authority is inside", || home.sandbar(&["exec", &id, "--", "test", "-e", "/etc/sandbar/authority.pem"]).code == 0);
    home.ok(&["rm", "-f", &id]);
    assert_eq!(files_with(&home.state(), TOKEN), Vec::<PathBuf>::new());
}

fn refused(home: &Home) {
    let refused = |options: &[&str], reason: &str| {
        let tried = with_token(home, &home.run_args(options, &["true"]));
        assert!(tried.code == 125 && tried.stderr.contains(reason) && !tried.stderr.contains(VALUE), "{options:?}: {tried}");
    };
    let secret = "T=env:MY_TOKEN@api.test";
    if home.wall.provider == "dangerous-host" {
        refused(&["--net", "open", "--secret", secret], "does not have network-rules");
        return;
    }
    refused(&["--secret", secret], "--net allow=api.test");
    refused(&["--net", "none", "--secret", secret], "--net allow=api.test");
    refused(&["--net", "allow=other.test", "--secret", secret], "--net allow=api.test");
    refused(&["--net", "open", "--secret", "T=env:NOT_SET@api.test"], "the variable is not set");
    refused(&["--net", "open", "--secret", "T=file:/not/there@api.test"], "its file cannot be read");
    refused(&["--net", "open", "--secret", secret, "-e", "T=x"], "a variable of this name is set as well");
    refused(&["--net", "open", "--secret", secret, "--secret", secret], "there are two of this name");
    // Somebody who gives the secret itself does not find it in a log.
    refused(&["--net", "open", "--secret", "T=hunter2@api.test"], "NAME=env:VARIABLE@HOST");
}
