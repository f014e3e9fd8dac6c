//! Commands whose connection is lost, and what is said where they cannot be gone on with.

use std::{
    fs,
    io::{Read, Write},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::world::{PATIENCE, There};

pub const CASES: &[(&str, fn())] = &[
    ("input_that_may_not_have_come_ends_with_an_error_that_says_so", input_that_may_not_have_come_ends_with_an_error_that_says_so),
    ("what_cannot_be_attached_to_again_says_how_to_go_on", what_cannot_be_attached_to_again_says_how_to_go_on),
];

fn input_that_may_not_have_come_ends_with_an_error_that_says_so() {
    const MORE: usize = 4096;
    let mut there = There::new();
    let here = there.here();
    let id = here.says(&["create", "--on", "there"]);
    let mut command = here.command(&["exec", "-i", &id, "--", "cat"]);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut words, mut heard) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let mut line = [0; 4];
    words.write_all(b"one\n").unwrap();
    heard.read_exact(&mut line).unwrap();
    // What comes now, nobody confirms.
    there.halt();
    words.write_all(&[b'x'; MORE]).unwrap();
    let until = Instant::now() + PATIENCE;
    while there.unread() < MORE {
        assert!(Instant::now() < until, "the input is not sent");
        sleep(Duration::from_millis(5));
    }
    there.kill();
    there.again();
    // The end of the input is not awaited for it.
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("input was on its way: some of it may not have come"), "{said}");
    assert!(said.contains(&format!("sandbar attach {id} ")) && said.contains(" --from 4"), "{said}");
    drop(words);
    here.says(&["rm", "-f", &id]);
}

fn what_cannot_be_attached_to_again_says_how_to_go_on() {
    let mut there = There::new();
    let here = there.here();
    let id = here.says(&["create", "--on", "there"]);
    here.says(&["exec", &id, "--", "mkfifo", "/tmp/go"]);
    let line = "echo one; read x < /tmp/go; echo two; read x < /tmp/go";
    let mut command = here.command(&["exec", &id, "--", "sh", "-c", line]);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 4];
    client.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    // Whoever is there then does not take the key.
    let url = format!("{}/container", there.url);
    let (right, wrong) = (there.home.path().join("server-token"), here.path().join("wrong"));
    fs::write(&wrong, "wrong").unwrap();
    here.says(&["context", "add", "there", &url, "--key-file", wrong.to_str().unwrap()]);
    there.kill();
    there.again();
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("does not take the key") && said.contains("--key-file FILE"), "{said}");
    // As it says, it goes on.
    let how: Vec<&str> = said.split("sandbar attach ").nth(1).unwrap().split_whitespace().collect();
    assert_eq!((how[0], &how[2..]), (id.as_str(), &["--from", "4"][..]), "{said}");
    here.says(&["context", "add", "there", &url, "--key-file", right.to_str().unwrap()]);
    let mut client = here.command(&[&["attach"], &how[..]].concat()).stdout(Stdio::piped()).spawn().unwrap();
    let go = || here.says(&["exec", &id, "--", "sh", "-c", "echo > /tmp/go"]);
    go();
    let mut second = [0; 4];
    client.stdout.as_mut().unwrap().read_exact(&mut second).unwrap();
    go();
    assert_eq!((&second, client.wait().unwrap().code()), (b"two\n", Some(0)));
    here.says(&["rm", "-f", &id]);
}
