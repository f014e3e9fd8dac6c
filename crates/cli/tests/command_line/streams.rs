//! Standard input, output and error.

use std::io::{BufRead, BufReader, Read};

use sha2::{Digest, Sha256};

use crate::support::{Case, Client, Home, eventually, feed};

pub const CASES: &[Case] = &[
    Case::new("streams::output_and_error_are_apart", apart),
    Case::new("streams::64_mib_pass_through_unchanged", through),
    Case::new("streams::input_is_streamed_and_its_end_is_told", input),
    Case::new("streams::a_command_that_does_not_read_holds_nobody_up", unread),
    Case::new("streams::exec_leaves_standard_input_alone_without_i", exec_input),
    Case::new("streams::a_reader_that_goes_away_ends_the_command_quietly", reader_gone),
    Case::new("streams::a_listing_whose_reader_went_away_ends_quietly", listing_gone),
    Case::new("streams::a_slow_reader_loses_nothing", slow),
];

const MANY: usize = 64 << 20;

fn noise(count: usize) -> Vec<u8> {
    let mut data = vec![0; count];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut data).unwrap();
    data
}

fn apart(home: &Home) {
    let run = home.run(&["sh", "-c", "echo out; echo err >&2; printf more"]);
    assert_eq!(run.text(), "out\nmore");
    let said: Vec<&str> = run.stderr.lines().filter(|line| !line.starts_with("warning: ")).collect();
    assert_eq!(said, ["err"]);
}

fn through(home: &Home) {
    let data = noise(MANY);
    let expected = Sha256::digest(&data);
    let args = home.run_args(&[], &["cat"]);
    let (client, input) = Client::start_with_input(home.command(&args), &args);
    let feeding = feed(input, data);
    let finished = client.finish();
    feeding.join().unwrap().unwrap();
    assert_eq!(finished.code, 0, "{finished}");
    assert_eq!(finished.stdout.len(), MANY);
    assert!(Sha256::digest(&finished.stdout) == expected);
}

fn input(home: &Home) {
    let args = home.run_args(&[], &["sh", "-c", "read a; read b || echo $a-end"]);
    let (client, input) = Client::start_with_input(home.command(&args), &args);
    feed(input, b"hello\n".to_vec()).join().unwrap().unwrap();
    assert_eq!(client.finish().text(), "hello-end\n");
    // Of /dev/null the end comes at once, and of a file all of it.
    assert_eq!(home.run(&["cat"]).text(), "");
    let file = home.work().join("input");
    std::fs::write(&file, "from a file").unwrap();
    let args = home.run_args(&[], &["cat"]);
    let mut command = home.command(&args);
    command.stdin(std::fs::File::open(&file).unwrap());
    assert_eq!(Client::start(command, &args).finish().text(), "from a file");
}

fn unread(home: &Home) {
    let args = home.run_args(&[], &["sh", "-c", "echo done"]);
    let (client, input) = Client::start_with_input(home.command(&args), &args);
    let feeding = feed(input, vec![b'x'; MANY]);
    assert_eq!(client.finish().text(), "done\n");
    assert!(feeding.join().unwrap().is_err());
}

fn exec_input(home: &Home) {
    let id = home.create(&[]);
    let args = ["exec", &id, "--", "cat"];
    // Held open: it would wait for ever if it read.
    let (client, input) = Client::start_with_input(home.command(&args), &args);
    assert_eq!(client.finish().text(), "");
    drop(input);
    let args = ["exec", "-i", &id, "--", "cat"];
    let (client, input) = Client::start_with_input(home.command(&args), &args);
    feed(input, b"hello".to_vec());
    assert_eq!(client.finish().text(), "hello");
}

fn reader_gone(home: &Home) {
    for args in [home.run_args(&[], &["yes"]), home.run_args(&[], &["sh", "-c", "trap '' PIPE; yes; sleep 1000"])] {
        let mut client = home.start(&args);
        let mut line = String::new();
        BufReader::new(client.take_stdout()).read_line(&mut line).unwrap();
        assert_eq!(line, "y\n");
        let finished = client.finish();
        assert_eq!(finished.code, 141, "{finished}");
        assert!(!finished.stderr.contains("error"), "{finished}");
    }
    assert!(home.ids().is_empty());
    let id = home.create(&[]);
    let mut client = home.start(&["exec", &id, "--", "yes"]);
    drop(client.take_stdout());
    assert_eq!(client.finish().code, 141);
    let has_ended = || {
        let processes = home.json(&["ps", "--json", &id]);
        let processes = processes.as_array().unwrap();
        processes.len() == 1 && !processes[0]["status"].is_null()
    };
    eventually("the command has ended", has_ended);
}

fn listing_gone(home: &Home) {
    home.create(&[]);
    let mut client = home.start(&["ls"]);
    drop(client.take_stdout());
    let finished = client.finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (141, ""), "{finished}");
}

fn slow(home: &Home) {
    let mut client = home.start(&home.run_args(&[], &["sh", "-c", "seq 400000; echo end >&2"]));
    let mut out = client.take_stdout();
    let mut text = Vec::new();
    let mut buffer = [0; 999];
    // Small reads against big writes: the pipe, the queue and the socket are full most of the time.
    loop {
        match out.read(&mut buffer).unwrap() {
            0 => break,
            count => text.extend_from_slice(&buffer[..count]),
        }
    }
    let finished = client.finish();
    assert_eq!(finished.code, 0, "{finished}");
    let expected: String = (1..=400_000).map(|number| format!("{number}\n")).collect();
    assert!(String::from_utf8(text).unwrap() == expected);
    assert!(finished.stderr.ends_with("end\n"), "{finished}");
}
