//! Many sandboxes with traffic at the same time: each has its own policy, and nothing of one's reaches another.

use std::{io::Write, time::Duration};

use crate::{
    egress_limits::own_memory,
    support::{Case, Client, Home, Stage, eventually, processes_with},
};

pub const CASES: &[Case] = &[Case::new("crowd::each_of_many_sandboxes_reaches_what_is_its_own_and_nothing_else", apart)
    .on(&["container-root", "container-rootless"])
    .staged()];

/// Connections of each.
const EACH: usize = 5;
/// Bytes that each says at a time, and hears again.
const SAID: usize = 20_000;

/// For what is done with all of them at a time.
const PATIENCE: Duration = Duration::from_secs(600);
/// What whoever decides about one has of its own, on average.
const KEEPER: u64 = 8 << 20;

/// Opens connections to its own place, speaks on all of them, tries the places of others by name and by address, and then speaks on each again.
const TRAFFIC: &str = "
import socket, sys
own, each, said = (int(word) for word in sys.argv[1:4])
others = [int(word) for word in sys.argv[4:]]
def speak(stream, word):
    stream.sendall(word)
    heard = b''
    while len(heard) < len(word):
        more = stream.recv(65536)
        if not more:
            raise ConnectionError('it has ended')
        heard += more
    assert heard == word, 'somebody else is heard'
def is_open(host):
    try:
        speak(socket.create_connection((host, 7000), 300), b'mine?')
        return True
    except ConnectionError:
        return False
    except socket.gaierror as error:
        assert error.errno == socket.EAI_NONAME, error
        return False
def word(number):
    return (b'<%d.%d>' % (own, number) * said)[:said]
print('ready', flush=True)
sys.stdin.readline()
streams = [socket.create_connection(('place%d.test' % own, 7000), 300) for _ in range(each)]
for number, stream in enumerate(streams):
    speak(stream, word(number))
print('reached', [other for other in others if is_open('place%d.test' % other) or is_open('93.184.216.%d' % other)], flush=True)
sys.stdin.readline()
kept = 0
for number, stream in enumerate(streams):
    try:
        speak(stream, word(number))
        kept += 1
    except ConnectionError:
        pass
print('kept', kept, flush=True)
";

fn apart(outer: &Home) {
    let count = 200usize;
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let others = |own: usize| [(own + 1) % count, (own + count / 2) % count];
    let made: Vec<_> = (0..count)
        .map(|own| {
            let net = format!("allow=place{own}.test:7000");
            home.start(&[&["create"], home.wall.options().as_slice(), &["--net", &net]].concat())
        })
        .collect();
    let ids: Vec<String> = made.into_iter().map(|client| client.finish_within(PATIENCE).text().trim().to_owned()).collect();
    let mut clients: Vec<_> = ids
        .iter()
        .enumerate()
        .map(|(own, id)| {
            let numbers: Vec<String> = [own, EACH, SAID].into_iter().chain(others(own)).map(|number| number.to_string()).collect();
            let words = ["exec", "-i", id, "--", "/usr/bin/python3", "-c", TRAFFIC].into_iter().chain(numbers.iter().map(String::as_str));
            let words: Vec<_> = words.collect();
            Client::start_with_input(home.command(&words), &["exec", id])
        })
        .collect();
    for (client, _) in &mut clients {
        client.wait_for_line("ready");
    }
    for (_, input) in &mut clients {
        input.write_all(b"go\n").unwrap();
    }
    for (client, _) in &mut clients {
        client.wait_for_line("reached []");
    }
    // With all of that open, and spoken, whoever decides about one takes little, and no thread or process for a connection.
    let keepers: Vec<u32> =
        ids.iter().flat_map(|id| processes_with(&format!("keeper\0--home\0{}\0{id}", home.state().display()))).collect();
    assert_eq!(keepers.len(), count);
    let memory: u64 = keepers.into_iter().map(own_memory).sum();
    assert!(memory < count as u64 * KEEPER, "{count} keepers have {} KiB", memory >> 10);
    // While they all wait with open connections, every other one's network is taken away.
    let is_cut = |own: usize| own % 2 == 1;
    let cut = ids.iter().enumerate().filter(|(own, _)| is_cut(*own));
    let changes: Vec<_> = cut.map(|(_, id)| home.start(&["net", "set", id, "none"])).collect();
    for change in changes {
        assert_eq!(change.finish_within(PATIENCE).code, 0);
    }
    let resets = |own: usize| stage.seen().iter().filter(|line| **line == format!("reset 93.184.216.{own} 7000")).count();
    eventually("those are cut off", || (0..count).all(|own| !is_cut(own) || resets(own) == EACH));
    for (own, (mut client, mut input)) in clients.into_iter().enumerate() {
        input.write_all(b"go\n").unwrap();
        client.wait_for_line(&format!("kept {}", if is_cut(own) { 0 } else { EACH }));
        assert_eq!(client.finish().code, 0);
    }
    for (own, id) in ids.iter().enumerate() {
        assert_counted(&home, id, own, &others(own), if is_cut(own) { SAID } else { 2 * SAID });
    }
    // And the internet has seen all of that, and nothing else.
    let mut seen = stage.all_seen();
    seen.retain(|line| !line.starts_with("reset ") && !line.starts_with("dns place"));
    seen.sort();
    let mut expected: Vec<_> = (0..count).flat_map(|own| vec![format!("tcp 93.184.216.{own} 7000"); EACH]).collect();
    expected.sort();
    assert_eq!(seen, expected);
    assert!((0..count).all(|own| is_cut(own) || resets(own) == 0));
    home.close();
}

/// What its log says is its own, whole, and refused where it is another's.
fn assert_counted(home: &Home, id: &str, own: usize, others: &[usize], bytes: usize) {
    let read = || -> Vec<serde_json::Value> {
        home.ok(&["net", "log", "--json", id]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let mut records = Vec::new();
    eventually("all ends are in the log", || {
        records = read();
        records.iter().filter(|record| record["event"] == "ended").count() == EACH
    });
    let name = |number: usize| format!("place{number}.test");
    let of = |event: &str, protocol: &str| {
        let is = move |record: &&serde_json::Value| record["event"] == event && record["protocol"] == protocol;
        records.iter().filter(is).collect::<Vec<_>>()
    };
    for record in of("allowed", "tcp").into_iter().chain(of("allowed", "dns")).chain(of("ended", "tcp")) {
        assert_eq!(record["name"], name(own).as_str(), "{record}");
    }
    assert_eq!(of("allowed", "tcp").len(), EACH);
    for ended in of("ended", "tcp") {
        assert_eq!((&ended["sent"], &ended["received"]), (&bytes.into(), &bytes.into()), "{ended}");
    }
    // Those that were tried, and nobody else's.
    let mut refused: Vec<_> = of("refused", "tcp").iter().map(|record| record["address"].as_str().unwrap().to_owned()).collect();
    let mut tried: Vec<_> = others.iter().map(|other| format!("93.184.216.{other}")).collect();
    refused.sort();
    tried.sort();
    assert_eq!(refused, tried);
    for record in of("refused", "dns") {
        assert!(others.iter().any(|other| record["name"] == name(*other).as_str()), "{record}");
    }
    assert!(of("failed", "tcp").is_empty(), "{records:?}");
}
