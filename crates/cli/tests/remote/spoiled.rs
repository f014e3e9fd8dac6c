//! Checkpoints that come as files by way of somebody who does not pass everything on.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use crate::world::{Home, There};

pub const CASES: &[(&str, fn())] = &[("a_file_that_does_not_come_whole_is_none", a_file_that_does_not_come_whole_is_none)];

/// What becomes of an answer.
type Spoil = fn(Vec<u8>) -> Vec<u8>;

/// Stands before a server. Of what it is asked for a checkpoint's file the answer is spoiled; everything else passes.
struct Between {
    url: String,
    spoil: Arc<Mutex<Spoil>>,
}

impl Between {
    /// Begins to listen. Its threads end with the test's process.
    fn new(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spoil: Arc<Mutex<Spoil>> = Arc::new(Mutex::new(|answer| answer));
        let (server, current) = (server.strip_prefix("http://").unwrap().to_owned(), Arc::clone(&spoil));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server, spoil) = (client.unwrap(), TcpStream::connect(&server).unwrap(), *current.lock().unwrap());
                thread::spawn(move || pass(client, server, spoil));
            }
        });
        Self { url, spoil }
    }
}

/// One connection. Either side may go at any time, which ends it.
fn pass(mut client: TcpStream, mut server: TcpStream, spoil: Spoil) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    let text = String::from_utf8(head).map_err(io::Error::other)?;
    if text.starts_with("GET /v1/checkpoints/") {
        // So that the answer has an end.
        server.write_all(text.replace("connection: TE\r\n", "connection: TE, close\r\n").as_bytes())?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        return client.write_all(&spoil(answer));
    }
    server.write_all(text.as_bytes())?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Write)
}

fn find(answer: &[u8], what: &[u8]) -> usize {
    answer.windows(what.len()).position(|window| window == what).unwrap()
}

/// As from a server of before.
fn unannounced(mut answer: Vec<u8>) -> Vec<u8> {
    let field = b"\r\ntrailer: sandbar-exported";
    let at = find(&answer, field);
    answer.drain(at..at + field.len());
    answer
}

fn half(mut answer: Vec<u8>) -> Vec<u8> {
    answer.truncate(answer.len() / 2);
    answer
}

/// As by a proxy that passes no trailers on.
fn without_its_end(mut answer: Vec<u8>) -> Vec<u8> {
    let last = find(&answer, b"\r\n0\r\nsandbar-exported: ") + b"\r\n0\r\n".len();
    answer.truncate(last);
    answer.extend_from_slice(b"\r\n");
    answer
}

fn without_its_first_chunk(mut answer: Vec<u8>) -> Vec<u8> {
    let begin = find(&answer, b"\r\n\r\n") + 4;
    let line = find(&answer[begin..], b"\r\n");
    let size = std::str::from_utf8(&answer[begin..begin + line]).unwrap();
    let size = usize::from_str_radix(size, 16).unwrap();
    answer.drain(begin..begin + line + 2 + size + 2);
    answer
}

fn a_file_that_does_not_come_whole_is_none() {
    let there = There::new();
    let between = Between::new(&there.url);
    let here = Home::new();
    let place = |name: &str| here.path().join(name).display().to_string();
    let key = there.home.path().join("server-token").display().to_string();
    here.says(&["context", "add", "there", &format!("{}/container", between.url), "--key-file", &key]);
    fs::create_dir(place("root")).unwrap();
    fs::write(place("root/motd"), "from afar").unwrap();
    assert!(Command::new("tar").args(["-cf", &place("root.tar"), "-C", &place("root"), "."]).status().unwrap().success());
    here.says(&["image", "import", "--on", "there", &place("root.tar"), "afar"]);
    let id = here.says(&["create", "--on", "there", "--image", "afar"]);
    here.says(&["checkpoint", &id, "--name", "saved"]);
    here.says(&["rm", "-f", &id]);

    let files = place("files");
    fs::create_dir(&files).unwrap();
    let (new, old) = (format!("{files}/new.tar"), format!("{files}/old.tar"));
    fs::write(&old, "what was there").unwrap();
    let spoiled: [(Spoil, &str); 4] = [
        (unannounced, "does not tell what it has written"),
        (half, "the file was cut off"),
        (without_its_end, "the end of the file does not say what it is"),
        (without_its_first_chunk, "is not the whole file"),
    ];
    for (spoil, complaint) in spoiled {
        *between.spoil.lock().unwrap() = spoil;
        for file in [&new, &old, "-"] {
            let said = here.complains(&["checkpoint", "export", "saved", file]);
            assert!(said.contains(complaint), "{said}");
        }
        assert_eq!(fs::read_to_string(&old).unwrap(), "what was there", "{complaint}");
        assert_eq!(fs::read_dir(&files).unwrap().count(), 1, "{complaint}");
    }
    // Whoever passes everything on does no harm.
    *between.spoil.lock().unwrap() = |answer| answer;
    let digest = here.says(&["checkpoint", "export", "saved", &old]);
    assert!(digest.starts_with("sha256:") && fs::metadata(&old).unwrap().len() > 1024, "{digest}");
    here.says(&["checkpoint", "rm", "saved"]);
    assert_eq!((here.ids().len(), there.home.ids().len()), (0, 0));
}
