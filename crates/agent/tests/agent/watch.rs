//! Changes of files.

use std::{fs, os::unix::net::UnixStream};

use sandbar_protocol::{Event, Watch, event, read_frame, request::Operation};

use crate::host::Host;

fn watch(path: &str, recursive: bool) -> Operation {
    Operation::Watch(Watch { path: path.into(), recursive })
}

/// Reads events until one of this kind for this path comes.
#[track_caller]
fn expect(stream: &mut UnixStream, kind: u32, path: &str) -> bool {
    loop {
        let frame = read_frame(stream).unwrap().expect("another event");
        match frame.message::<Event>().unwrap().what {
            Some(event::What::Watch(event)) if (event.kind, event.path.as_slice()) == (kind, path.as_bytes()) => return event.is_directory,
            Some(event::What::Watch(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn changes_are_told_where_they_happen() {
    let host = Host::new();
    let workspace = host.workspace();
    fs::create_dir(workspace.join("old")).unwrap();
    let mut stream = host.done(watch(".", true));
    fs::write(workspace.join("a"), "x").unwrap();
    assert!(!expect(&mut stream, 1, "a"));
    expect(&mut stream, 2, "a");
    fs::write(workspace.join("old/b"), "x").unwrap();
    expect(&mut stream, 1, "old/b");
    fs::rename(workspace.join("old/b"), workspace.join("c")).unwrap();
    expect(&mut stream, 3, "old/b");
    expect(&mut stream, 1, "c");
    fs::set_permissions(workspace.join("c"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    expect(&mut stream, 4, "c");
    fs::remove_file(workspace.join("c")).unwrap();
    expect(&mut stream, 3, "c");
}

#[test]
fn a_new_tree_is_watched_and_what_is_in_it_is_told() {
    let host = Host::new();
    let mut stream = host.done(watch(".", true));
    fs::create_dir_all(host.workspace().join("1/2/3")).unwrap();
    fs::write(host.workspace().join("1/2/3/early"), "").unwrap();
    assert!(expect(&mut stream, 1, "1"));
    expect(&mut stream, 1, "1/2/3/early");
    fs::write(host.workspace().join("1/2/3/late"), "").unwrap();
    expect(&mut stream, 1, "1/2/3/late");
    fs::rename(host.workspace().join("1/2"), host.workspace().join("moved")).unwrap();
    expect(&mut stream, 1, "moved/3/early");
    fs::write(host.workspace().join("moved/3/again"), "").unwrap();
    expect(&mut stream, 1, "moved/3/again");
}

#[test]
fn a_watch_ends_with_what_is_watched() {
    let host = Host::new();
    fs::create_dir(host.workspace().join("d")).unwrap();
    fs::write(host.workspace().join("f"), "").unwrap();
    for path in ["d", "f"] {
        let mut stream = host.done(watch(path, false));
        let path = host.workspace().join(path);
        if path.is_dir() {
            fs::remove_dir(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        expect(&mut stream, 3, "");
        assert!(read_frame(&mut stream).unwrap().is_none());
    }
    assert_eq!(host.refusal(watch("missing", false)).kind, "not_found");
    assert_eq!(host.refusal(watch("/etc", true)).kind, "permission_denied");
}

#[test]
fn watches_are_bounded_and_end_with_their_client() {
    let host = Host::new();
    for _ in 0..3 {
        let streams: Vec<_> = (0..64).map(|_| host.done(watch(".", false))).collect();
        drop(streams);
    }
}
