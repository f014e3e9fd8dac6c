use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::world::{Agent, Home, Login, PATIENCE};

/// A fact, and what shows it over a login.
type Case = (&'static str, fn(&Login));

pub const CASES: &[Case] = &[
    ("nothing_is_installed_there_and_it_works", nothing_is_installed_there_and_it_works),
    ("what_follows_a_login_starts_no_process_here_and_none_there", what_follows_a_login_starts_no_process_here_and_none_there),
    ("a_host_that_leads_no_sockets_is_used_by_channels", a_host_that_leads_no_sockets_is_used_by_channels),
    ("a_connection_that_is_not_shared_is_used_by_channels", a_connection_that_is_not_shared_is_used_by_channels),
    (
        "a_connection_that_the_user_shares_already_is_the_one_that_is_used",
        a_connection_that_the_user_shares_already_is_the_one_that_is_used,
    ),
    ("output_goes_on_when_the_connection_was_cut", output_goes_on_when_the_connection_was_cut),
    ("the_users_configuration_names_a_host_its_jump_and_its_agent", the_users_configuration_names_a_host_its_jump_and_its_agent),
    ("a_program_that_arrives_changed_is_not_used", a_program_that_arrives_changed_is_not_used),
    ("a_login_that_fails_and_a_program_that_does_not_run_are_told", a_login_that_fails_and_a_program_that_does_not_run_are_told),
];

fn what_follows_a_login_starts_no_process_here_and_none_there(login: &Login) {
    let calls = login.calls("");
    let here = Home::new();
    let id = login.says(&here, &["create", "--on", &format!("{}/container", login.url)]);
    let begun = calls();
    assert!(begun.iter().any(|call| call.contains("ControlPath=/tmp/sandbar-ssh-")), "{begun:?}");
    for _ in 0..3 {
        assert_eq!(login.says(&here, &["exec", &id, "--", "echo", "hello"]), "hello");
    }
    assert_eq!(calls(), begun);
    assert_eq!(login.serving(), 1);
    login.says(&here, &["rm", "-f", &id]);
    // What was put there is gone, and so is who listens there.
    login.says(&here, &["context", "clean", &login.url]);
    let until = Instant::now() + PATIENCE;
    while login.serving() > 0 {
        assert!(Instant::now() < until, "a server is left there");
        sleep(Duration::from_millis(20));
    }
}

fn a_host_that_leads_no_sockets_is_used_by_channels(login: &Login) {
    // It may be logged into, and nothing is forwarded.
    let keys = login.folder.path().join("authorized");
    fs::write(&keys, format!("restrict {}", fs::read_to_string(&keys).unwrap())).unwrap();
    is_used_by_channels(login, "");
}

fn a_connection_that_is_not_shared_is_used_by_channels(login: &Login) {
    // There is nobody to ask for a socket.
    is_used_by_channels(login, "-o ControlPath=none");
}

fn is_used_by_channels(login: &Login, options: &str) {
    let calls = login.calls(options);
    let here = Home::new();
    let on = format!("{}/container", login.url);
    let id = login.says(&here, &["create", "--on", &on]);
    let begun = calls().len();
    assert_eq!(login.says(&here, &["exec", &id, "--", "echo", "hello"]), "hello");
    let more = calls().split_off(begun);
    let (asked, channels): (Vec<_>, Vec<_>) = more.iter().partition(|call| call.contains("-G"));
    assert!(channels.iter().all(|call| call.contains("serve --stdio")) && asked.len() == 1 && !channels.is_empty(), "{more:?}");
    login.says(&here, &["rm", "-f", &id]);
}

fn a_connection_that_the_user_shares_already_is_the_one_that_is_used(login: &Login) {
    let own = login.folder.path().join("own");
    let calls = login.calls(&format!("-o ControlMaster=auto -o ControlPersist=60 -o ControlPath={}", own.display()));
    let here = Home::new();
    assert_eq!(login.says(&here, &["run", "--on", &format!("{}/container", login.url), "--", "echo", "hello"]), "hello");
    assert!(own.exists());
    let calls = calls();
    assert!(calls.iter().all(|call| !call.contains("ControlPath=/tmp/sandbar-ssh-")), "{calls:?}");
}

fn output_goes_on_when_the_connection_was_cut(login: &Login) {
    let here = Home::new();
    let id = login.says(&here, &["create", "--on", &format!("{}/container", login.url)]);
    login.says(&here, &["exec", &id, "--", "mkfifo", "/tmp/go"]);
    let line = "echo one; read x < /tmp/go; echo two";
    let mut client = login.command(&here, &["exec", &id, "--", "sh", "-c", line]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = client.stdout.take().unwrap();
    let mut first = [0; 4];
    output.read_exact(&mut first).unwrap();
    login.cut();
    login.says(&here, &["exec", &id, "--", "sh", "-c", "echo > /tmp/go"]);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!((&first, rest.as_str(), client.wait().unwrap().code()), (b"one\n", "two\n", Some(0)));
    login.says(&here, &["rm", "-f", &id]);
}

fn nothing_is_installed_there_and_it_works(login: &Login) {
    let here = Home::new();
    let on = format!("{}/container", login.url);
    assert_eq!(login.says(&here, &["run", "--on", &on, "--", "echo", "hello"]), "hello");
    let id = login.says(&here, &["create", "--on", &on]);
    assert_eq!(login.there.ids(), [id.as_str()]);
    std::fs::write(here.path().join("file"), vec![7; 3 << 20]).unwrap();
    login.says(&here, &["cp", here.path().join("file").to_str().unwrap(), &format!("{id}:/tmp/file")]);
    assert_eq!(login.says(&here, &["exec", &id, "--", "stat", "-c", "%s", "/tmp/file"]), (3 << 20).to_string());
    login.says(&here, &["rm", "-f", &id]);
    assert!(login.there.ids().is_empty());
    let cache = login.folder.path().join("cache/sandbar");
    let put: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(put.iter().filter(|name| name.starts_with("sandbar-")).count(), 1, "the program, once: {put:?}");
    login.says(&here, &["context", "clean", &login.url]);
    assert!(!cache.exists());
}

fn the_users_configuration_names_a_host_its_jump_and_its_agent(login: &Login) {
    let gate = Login::new().unwrap();
    let key = login.folder.path().join("client");
    fs::copy(key.with_extension("pub"), gate.folder.path().join("authorized")).unwrap();
    let socket = login.folder.path().join("agent");
    let agent = Agent::new(&socket, &key);
    let host = |name: &str, login: &Login| {
        let (address, port) = login.url.strip_prefix("ssh://root@").unwrap().split_once(':').unwrap();
        format!("Host {name}\n  HostName {address}\n  Port {port}\n  User root\n")
    };
    login.configure(&format!("{}  ProxyJump gate\n{}", host("box.example", login), host("gate", &gate)));

    let here = Home::new();
    let run = |arguments: &[&str]| login.command(&here, arguments).env("SSH_AUTH_SOCK", &socket).output().unwrap();
    let says = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    says(&["context", "add", "box", "ssh://box.example/container"]);
    let id = says(&["create", "--on", "box"]);
    assert_eq!(login.there.ids(), [id.as_str()]);
    assert_eq!(says(&["exec", &id, "--", "echo", "hello"]), "hello");
    // A new login goes by both again.
    login.cut();
    assert_eq!(says(&["exec", &id, "--", "echo", "again"]), "again");
    says(&["rm", "-f", &id]);
    says(&["context", "clean", "box"]);

    // Without either of them there is no way.
    let refused = || {
        let tried = run(&["create", "--on", "box"]);
        let said = String::from_utf8_lossy(&tried.stderr);
        assert!(tried.status.code() == Some(125) && said.contains("ssh says") && said.contains("does `ssh box.example` work?"), "{said}");
    };
    drop(agent);
    refused();
    fs::remove_file(&socket).unwrap();
    let _agent = Agent::new(&socket, &key);
    assert_eq!(says(&["run", "--on", "box", "--", "echo", "hello"]), "hello");
    says(&["context", "clean", "box"]);
    drop(gate);
    refused();
}

/// What `cargo xtask static` has built.
pub fn static_program() -> Result<PathBuf, String> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/static").join(target).join("release/sandbar");
    if built.exists() { Ok(built) } else { Err("it is not built: cargo xtask static".to_owned()) }
}

pub fn a_program_that_is_linked_statically_runs_there(login: &Login, program: &Path) {
    let here = Home::new();
    let says = |arguments: &[&str]| {
        let output = login.command(&here, arguments).env("SANDBAR_SSH_PROGRAM", program).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    let id = says(&["create", "--on", &format!("{}/container", login.url)]);
    assert_eq!(says(&["exec", &id, "--", "echo", "hello"]), "hello");
    let there = fs::read_dir(login.folder.path().join("cache/sandbar")).unwrap().map(|entry| entry.unwrap().path());
    let there: Vec<_> = there.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("sandbar-")).collect();
    assert!(there.len() == 1 && fs::read(&there[0]).unwrap() == fs::read(program).unwrap(), "{there:?}");
    says(&["rm", "-f", &id]);
}

fn a_program_that_arrives_changed_is_not_used(login: &Login) {
    let here = Home::new();
    let run = ["run", "--on", &format!("{}/container", login.url), "--", "echo", "hello"];
    let restore = login.spoil_uploads();
    let output = login.command(&here, &run).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("could not be put onto the other host") && said.contains("what arrived is not what was sent"), "{said}");
    let left: Vec<_> = fs::read_dir(login.folder.path().join("cache/sandbar")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!((here.ids().len(), login.there.ids().len()), (0, 0));
    restore();
    assert_eq!(login.says(&here, &run), "hello");
}

fn a_login_that_fails_and_a_program_that_does_not_run_are_told(login: &Login) {
    let here = Home::new();
    let complains = |url: &str, program: &str| {
        let mut command = login.command(&here, &["create", "--on", url]);
        let output = command.env("SANDBAR_SSH_PROGRAM", program).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(complains("ssh://nobody-here@127.0.0.1:1", "/bin/true").contains("ssh says"));
    let said = complains(&login.url, "/bin/true");
    assert!(said.contains("does not run there") && said.contains("SANDBAR_SSH_PROGRAM"), "{said}");
    // A program of another C library, which is not sent.
    let foreign = here.path().join("foreign");
    let own = fs::read(env!("CARGO_BIN_EXE_sandbar")).unwrap();
    let at = own.windows(8).position(|bytes| bytes == b"/ld-linu").unwrap();
    fs::write(&foreign, [&own[..at], b"/no-linu", &own[at + 8..]].concat()).unwrap();
    let said = complains(&login.url, foreign.to_str().unwrap());
    assert!(said.contains("there is no /lib64/no-linux-x86-64.so.2") && said.contains("linked dynamically"), "{said}");
}
