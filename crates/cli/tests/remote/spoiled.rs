//! What comes by way of somebody who does not pass everything on.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use crate::world::{Home, PATIENCE, There};

pub const CASES: &[(&str, fn())] = &[
    ("a_file_that_does_not_come_whole_is_none", a_file_that_does_not_come_whole_is_none),
    ("a_proxy_whose_server_is_gone_for_a_while_ends_no_command", a_proxy_whose_server_is_gone_for_a_while_ends_no_command),
];

/// What becomes of an answer.
type Spoil = fn(Vec<u8>) -> Vec<u8>;

/// Stands before a server. Of what it is asked for a checkpoint's file the answer is spoiled; everything else passes. Where the server is gone, it says so, as
/// proxies do.
struct Between {
    url: String,
    spoil: Arc<Mutex<Spoil>>,
    /// The first lines of requests that were answered so.
    refused: Receiver<String>,
}

impl Between {
    /// Begins to listen. Its threads end with the test's process.
    fn new(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spoil: Arc<Mutex<Spoil>> = Arc::new(Mutex::new(|answer| answer));
        let (refuse, refused) = mpsc::channel();
        let (server, current) = (server.strip_prefix("http://").unwrap().to_owned(), Arc::clone(&spoil));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server, spoil) = (client.unwrap(), TcpStream::connect(&server), *current.lock().unwrap());
                let refuse = refuse.clone();
                thread::spawn(move || pass(client, server, spoil, &refuse));
            }
        });
        Self { url, spoil, refused }
    }

    /// A state folder with a context `there` that goes by this.
    fn here(&self, there: &There) -> Home {
        let here = Home::new();
        let key = there.home.path().join("server-token").display().to_string();
        here.says(&["context", "add", "there", &format!("{}/container", self.url), "--key-file", &key]);
        here
    }
}

/// One connection. Either side may go at any time, which ends it.
fn pass(mut client: TcpStream, server: io::Result<TcpStream>, spoil: Spoil, refuse: &Sender<String>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    let text = String::from_utf8(head).map_err(io::Error::other)?;
    let Ok(mut server) = server else {
        client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\nnone")?;
        return refuse.send(text.lines().next().unwrap_or_default().to_owned()).map_err(io::Error::other);
    };
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
    // A server that was killed may have reset the connection.
    let _ = io::copy(&mut server, &mut client);
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
    let here = between.here(&there);
    let place = |name: &str| here.path().join(name).display().to_string();
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

fn a_proxy_whose_server_is_gone_for_a_while_ends_no_command() {
    let mut there = There::new();
    let between = Between::new(&there.url);
    let here = between.here(&there);
    let id = here.says(&["create", "--on", "there"]);
    let mut command = here.command(&["exec", "-i", &id, "--", "sh", "-c", "echo one; cat"]);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut words, mut output) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let mut first = [0; 4];
    output.read_exact(&mut first).unwrap();
    there.kill();
    let refused = between.refused.recv_timeout(PATIENCE).unwrap();
    assert!(refused.contains("/attach?from=4 "), "{refused}");
    // What is said meanwhile waits for the server.
    words.write_all(b"two\n").unwrap();
    drop(words);
    there.again();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!((&first, rest.as_str(), client.wait().unwrap().code()), (b"one\n", "two\n", Some(0)));
    here.says(&["rm", "-f", &id]);
}
