use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    process::{Command, Stdio},
    time::Instant,
};

use crate::{
    authority::Authority,
    world::{Home, PATIENCE, There},
};

pub const CASES: &[(&str, fn())] = &[
    ("commands_terminals_and_files_go_over_it", commands_terminals_and_files_go_over_it),
    ("who_is_not_vouched_for_gets_nothing", who_is_not_vouched_for_gets_nothing),
    ("a_server_answers_by_the_names_of_its_certificate", a_server_answers_by_the_names_of_its_certificate),
    ("a_certificate_is_renewed_under_a_server_that_runs", a_certificate_is_renewed_under_a_server_that_runs),
    ("who_does_not_speak_it_holds_up_nobody", who_does_not_speak_it_holds_up_nobody),
    ("a_certificate_or_key_that_cannot_be_used_is_told_before_anything_is_served", what_cannot_be_used),
];

impl Authority {
    fn server(&self) -> There {
        let there = There::serving(&["--tls-cert", &self.file("certificate"), "--tls-key", &self.file("key")]);
        assert!(there.url.starts_with("https://127.0.0.1:"), "{}", there.url);
        there
    }

    /// A state folder with a context `there` that believes this authority.
    fn believer(&self, there: &There) -> Home {
        let here = Home::new();
        let key = there.home.path().join("server-token");
        let url = format!("{}/container", there.url);
        here.says(&["context", "add", "there", &url, "--key-file", key.to_str().unwrap(), "--authority", &self.file("authority")]);
        here
    }
}

fn commands_terminals_and_files_go_over_it() {
    let authority = Authority::of(&["127.0.0.1"]);
    let there = authority.server();
    let here = authority.believer(&there);
    let id = here.says(&["create", "--on", "there", "--name", "web"]);
    let failed = here.run(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((failed.status.code(), failed.stdout.as_slice(), failed.stderr.as_slice()), (Some(7), &b"out\n"[..], &b"err\n"[..]));

    // More than fits between, both ways at once.
    let content: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut cat = here.command(&["exec", "-i", "web", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
    let (sent, mut got) = (content.clone(), Vec::new());
    let sender = std::thread::spawn(move || input.write_all(&sent).unwrap());
    output.read_to_end(&mut got).unwrap();
    sender.join().unwrap();
    assert!(cat.wait().unwrap().success() && got == content, "{} bytes came back", got.len());

    let program = env!("CARGO_BIN_EXE_sandbar");
    let line = format!("{program} exec -it web -- sh -c 'tty; test -t 0 && test -t 1 && echo both'");
    let terminal = Command::new("script").args(["-qec", &line, "/dev/null"]).env("SANDBAR_HOME", here.path()).stdin(Stdio::null()).output();
    let shown = String::from_utf8(terminal.unwrap().stdout).unwrap();
    assert!(shown.contains("/dev/pts/") && shown.contains("both"), "{shown}");

    let file = here.path().join("file");
    fs::write(&file, &content).unwrap();
    here.says(&["cp", file.to_str().unwrap(), "web:/tmp/file"]);
    fs::remove_file(&file).unwrap();
    here.says(&["cp", "web:/tmp/file", file.to_str().unwrap()]);
    assert!(fs::read(&file).unwrap() == content, "the file is another");

    let port = here.says(&["expose", "web", "8080"]);
    here.says(&["exec", "-d", "web", "--", "python3", "-m", "http.server", "-d", "/tmp", "8080"]);
    let fetched = here.says(&[
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8080))'; do :; done 2>/dev/null; echo up",
    ]);
    assert_eq!(fetched, "up");
    let mut stream = TcpStream::connect(port.trim()).unwrap();
    stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.0 200") && answer.ends_with(&content[content.len() - 1000..]), "{} bytes came", answer.len());
    here.says(&["rm", "-f", &id]);
    assert_eq!((here.ids().len(), there.home.ids().len()), (0, 0));
}

fn who_is_not_vouched_for_gets_nothing() {
    let authority = Authority::of(&["127.0.0.1"]);
    let there = authority.server();
    let untrusted = "certificate is not to be trusted";
    // The machine's own authorities know nothing of it.
    let stranger = Home::new();
    let complaint = stranger.complains(&["create", "--on", &there.url]);
    assert!(complaint.contains(untrusted) && complaint.contains("--authority"), "{complaint}");
    // Nor does another authority of the same name.
    let other = Authority::of(&["127.0.0.1"]).believer(&there);
    assert!(other.complains(&["create", "--on", "there"]).contains(untrusted));
    // And the right one has vouched for other servers only.
    let misnamed = Authority::of(&["box.example"]);
    let elsewhere = misnamed.server();
    let complaint = misnamed.believer(&elsewhere).complains(&["create", "--on", "there"]);
    assert!(complaint.contains(untrusted) && complaint.contains("box.example"), "{complaint}");
    assert_eq!((there.home.ids().len(), elsewhere.home.ids().len()), (0, 0));
    // Who believes it by the machine's own list is believed.
    let key = fs::read_to_string(there.home.path().join("server-token")).unwrap();
    let believer = stranger
        .command(&["run", "--on", &format!("{}/container", there.url), "--", "echo", "hello"])
        .env("SANDBAR_KEY", key.trim())
        .env("SSL_CERT_FILE", authority.file("authority"))
        .output()
        .unwrap();
    assert_eq!(believer.stdout, b"hello\n", "{believer:?}");
}

fn a_server_answers_by_the_names_of_its_certificate() {
    let authority = Authority::of(&["127.0.0.1", "box.example", "*.farm.example"]);
    let there = authority.server();
    let status = |host: &str| {
        let address = there.url.strip_prefix("https://").unwrap();
        let port = address.rsplit_once(':').unwrap().1;
        let arguments = ["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "60", "--cacert", &authority.file("authority")];
        let mut command = Command::new("curl");
        command.args(arguments).args(["-H", &format!("Host: {host}:{port}"), &format!("{}/healthz", there.url)]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    for host in ["127.0.0.1", "localhost", "box.example", "BOX.example", "a.farm.example"] {
        assert_eq!(status(host), "200", "{host}");
    }
    for host in ["evil.example", "farm.example", "a.b.farm.example", "box.example.evil.example"] {
        assert_eq!(status(host), "421", "{host}");
    }
}

fn a_certificate_is_renewed_under_a_server_that_runs() {
    let (old, new) = (Authority::of(&["127.0.0.1"]), Authority::of(&["127.0.0.1", "new.example"]));
    let there = old.server();
    let (before, after) = (old.believer(&there), new.believer(&there));
    let is_believed = |home: &Home| home.run(&["run", "--on", "there", "--", "true"]).status.success();
    assert!(is_believed(&before) && !is_believed(&after));
    let id = before.says(&["create", "--on", "there"]);
    let mut open = before.command(&["exec", "-i", &id, "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut words, mut heard) = (open.stdin.take().unwrap(), open.stdout.take().unwrap());
    let mut line = [0; 4];
    words.write_all(b"one\n").unwrap();
    heard.read_exact(&mut line).unwrap();
    // Half of a change is refused, and changes nothing.
    fs::copy(new.file("certificate"), old.file("certificate")).unwrap();
    there.hang_up();
    assert!(is_believed(&before));
    fs::copy(new.file("key"), old.file("key")).unwrap();
    there.hang_up();
    let until = Instant::now() + PATIENCE;
    while !is_believed(&after) {
        assert!(Instant::now() < until, "the old one is shown");
    }
    assert!(!is_believed(&before));
    // What was open before stays.
    words.write_all(b"two\n").unwrap();
    drop(words);
    let mut rest = String::new();
    heard.read_to_string(&mut rest).unwrap();
    assert_eq!((&line, rest.as_str(), open.wait().unwrap().code()), (b"one\n", "two\n", Some(0)));
    after.says(&["run", "--on", "there", "--", "true"]);
}

fn who_does_not_speak_it_holds_up_nobody() {
    let authority = Authority::of(&["127.0.0.1"]);
    let mut there = authority.server();
    let here = authority.believer(&there);
    let address = there.url.strip_prefix("https://").unwrap().to_owned();
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let mut plain = TcpStream::connect(&address).unwrap();
    plain.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
    plain.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(here.says(&["run", "--on", "there", "--", "echo", "served"]), "served");
    assert!(there.stop().success(), "those who have said nothing do not keep it");
    drop(silent);
}

fn what_cannot_be_used() {
    let (one, other) = (Authority::of(&["127.0.0.1"]), Authority::of(&["127.0.0.1"]));
    fs::write(one.folder.path().join("empty"), "").unwrap();
    fs::write(one.folder.path().join("torn"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let sealed = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(one.folder.path().join("sealed"), sealed).unwrap();
    let home = Home::new();
    for (certificate, key, complaint) in [
        (one.file("none"), one.file("key"), "cannot read"),
        (one.file("certificate"), one.file("none"), "cannot read"),
        (one.file("empty"), one.file("key"), "no certificate"),
        (one.file("key"), one.file("key"), "no certificate"),
        (one.file("torn"), one.file("key"), "no certificate"),
        (one.file("certificate"), one.file("certificate"), "no private key"),
        (one.file("certificate"), one.file("sealed"), "openssl pkey"),
        (one.file("certificate"), other.file("key"), "not that of the certificate"),
    ] {
        let found = home.complains(&["serve", "--listen", "127.0.0.1:0", "--tls-cert", &certificate, "--tls-key", &key]);
        assert!(found.contains(complaint), "{complaint:?}: {found}");
    }
    for options in [["--tls-cert", "x"], ["--tls-key", "x"]] {
        home.complains(&[&["serve", "--listen", "127.0.0.1:0"], &options[..]].concat());
    }
}
