//! File operations, in a workspace.

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, fs::symlink, net::UnixStream},
    path::Path,
};

use sandbar_protocol::{
    Event, FrameKind, KindOfFile, MakeDir, Owner, Put, ReadDir, Remove, Rename, Stat, Symlink, Target, event, read_frame, reply,
    request::Operation, write_frame,
};

use crate::host::{Host, answer, eventually, read};

fn put(path: &str) -> Put {
    Put { path: path.into(), ..Put::default() }
}

fn begin(host: &Host, request: Put) -> UnixStream {
    host.send(Operation::PutFile(request))
}

fn finish(mut stream: UnixStream, content: &[u8]) -> reply::Answer {
    for chunk in content.chunks(200_000) {
        if write_frame(&mut stream, FrameKind::Bytes, chunk).is_err() {
            break;
        }
    }
    let _ = write_frame(&mut stream, FrameKind::End, &[]);
    answer(&mut stream)
}

#[track_caller]
fn put_file(host: &Host, request: Put, content: &[u8]) {
    let answer = finish(begin(host, request), content);
    assert!(matches!(answer, reply::Answer::Done(_)), "{answer:?}");
}

fn refused(answer: reply::Answer) -> String {
    match answer {
        reply::Answer::Failure(failure) => failure.kind,
        other => panic!("{other:?}"),
    }
}

/// The bytes up to the end, or the failure in the middle.
fn receive(stream: &mut UnixStream) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    loop {
        let frame = read_frame(stream).unwrap().unwrap();
        match frame.kind {
            FrameKind::Bytes => content.extend_from_slice(&frame.payload),
            FrameKind::End => return Ok(content),
            _ => match frame.message::<Event>().unwrap().what.unwrap() {
                event::What::Failure(failure) => return Err(failure.kind),
                other => panic!("{other:?}"),
            },
        }
    }
}

fn get(host: &Host, path: &str, offset: u64) -> Vec<u8> {
    let (mut stream, answer) = host.ask(Operation::GetFile(Target { path: path.into(), offset }));
    assert!(matches!(answer, reply::Answer::Entry(_)), "{answer:?}");
    receive(&mut stream).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_comes_back_as_it_was_put() {
    let host = Host::new();
    let content: Vec<u8> = (0..2_500_000_u32).map(|index| (index / 3) as u8).collect();
    put_file(&host, put("a"), &content);
    assert!(read(host.workspace().join("a")) == content);
    assert!(get(&host, "a", 0) == content);
    assert!(get(&host, "a", 2_000_000) == content[2_000_000..]);
    assert_eq!(get(&host, "a", 9_000_000), b"");
    put_file(&host, put("empty"), b"");
    assert_eq!(get(&host, "empty", 0), b"");
    let absolute = host.workspace().join("a").into_os_string().into_string().unwrap();
    assert!(get(&host, &absolute, 0) == content);
    let (_, reply::Answer::Entry(entry)) = host.ask(Operation::Stat(Stat { path: b"a".to_vec(), follow: true })) else { panic!() };
    assert_eq!((entry.kind, entry.size, entry.mode), (KindOfFile::File as i32, 2_500_000, 0o644));
    assert_eq!(names(&host.workspace()), ["a", "empty"]);
}

#[test]
fn a_put_is_one_step() {
    let host = Host::new();
    put_file(&host, Put { mode: Some(0o600), ..put("a") }, b"old");
    let mut stream = begin(&host, put("a"));
    write_frame(&mut stream, FrameKind::Bytes, b"new").unwrap();
    eventually("it is being written", || names(&host.workspace()).len() == 2);
    assert_eq!(read(host.workspace().join("a")), b"old");
    assert!(matches!(finish(stream, b" content"), reply::Answer::Done(_)));
    assert_eq!(read(host.workspace().join("a")), b"new content");
    assert_eq!(fs::metadata(host.workspace().join("a")).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(names(&host.workspace()), ["a"]);
}

#[test]
fn a_put_that_is_cut_leaves_nothing() {
    let host = Host::new();
    put_file(&host, put("a"), b"old");
    let mut stream = begin(&host, put("a"));
    write_frame(&mut stream, FrameKind::Bytes, &[7; 100_000]).unwrap();
    eventually("it is being written", || names(&host.workspace()).len() == 2);
    drop(stream);
    eventually("the rest is gone", || names(&host.workspace()) == ["a"]);
    // Cut in the middle of a frame, and garbage in the place of one.
    let mut stream = begin(&host, put("a"));
    stream.write_all(&[0, 0, 1, 0, 1, 7, 7]).unwrap();
    drop(stream);
    let mut stream = begin(&host, put("a"));
    stream.write_all(&[0xff; 100]).unwrap();
    assert!(!refused(answer(&mut stream)).is_empty());
    eventually("the rest is gone", || names(&host.workspace()) == ["a"]);
    assert_eq!(read(host.workspace().join("a")), b"old");
}

#[test]
fn a_put_goes_through_links_and_only_to_files() {
    let host = Host::new();
    let workspace = host.workspace();
    fs::create_dir(workspace.join("d")).unwrap();
    symlink("d/target", workspace.join("link")).unwrap();
    symlink("loop", workspace.join("loop")).unwrap();
    symlink("/etc/sandbar-test-outside", workspace.join("outside")).unwrap();
    symlink("../../outside", workspace.join("up")).unwrap();
    put_file(&host, put("link"), b"through");
    assert_eq!(read(workspace.join("d/target")), b"through");
    assert!(fs::symlink_metadata(workspace.join("link")).unwrap().is_symlink());
    let kind = |request| refused(finish(begin(&host, request), &[1; 1000]));
    assert_eq!(kind(put("loop")), "invalid_input");
    assert_eq!(kind(put("outside")), "permission_denied");
    assert_eq!(kind(put("up")), "permission_denied");
    assert_eq!(kind(put("../x")), "permission_denied");
    assert_eq!(kind(put("/etc/x")), "permission_denied");
    assert_eq!(kind(put("d")), "invalid_input");
    assert_eq!(kind(put("")), "invalid_input");
    assert_eq!(kind(put("no/such")), "not_found");
    assert_eq!(kind(Put { no_replace: true, ..put("link") }), "already_exists");
    put_file(&host, Put { make_parents: true, mode: Some(0o750), ..put("x/y/z") }, b"deep");
    assert_eq!(read(workspace.join("x/y/z")), b"deep");
    assert_eq!(fs::metadata(workspace.join("x/y/z")).unwrap().permissions().mode() & 0o7777, 0o750);
    put_file(&host, Put { no_replace: true, ..put("fresh") }, b"");
}

#[test]
fn a_large_put_that_is_refused_is_told_why() {
    let host = Host::new();
    // More than a socket's buffer, so that the refusal comes while the host still sends.
    assert_eq!(refused(finish(begin(&host, put("no/such")), &vec![1; 8 << 20])), "not_found");
}

#[test]
fn what_is_put_belongs_to_the_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    use sandbar_protocol::{UserRef, user_ref};
    use std::os::unix::fs::MetadataExt;
    let host = Host::with(|config| config.user = Some(UserRef { which: Some(user_ref::Which::Uid(4242)), gid: Some(17) }));
    put_file(&host, Put { make_parents: true, ..put("d/a") }, b"x");
    put_file(&host, Put { owner: Some(Owner { uid: 5, gid: 6 }), mode: Some(0o4755), ..put("b") }, b"x");
    let owner = |path: &str| {
        let found = fs::metadata(host.workspace().join(path)).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(owner("d"), (4242, 17, 0o755));
    assert_eq!(owner("d/a"), (4242, 17, 0o644));
    assert_eq!(owner("b"), (5, 6, 0o4755));
}

#[test]
fn only_regular_files_are_got() {
    let host = Host::new();
    let kind = |path: &str| host.refusal(Operation::GetFile(Target { path: path.into(), offset: 0 })).kind;
    assert!(host.run("mkfifo fifo").stderr.is_empty());
    assert_eq!(kind("fifo"), "invalid_input");
    assert_eq!(kind("."), "invalid_input");
    assert_eq!(kind("missing"), "not_found");
    assert_eq!(kind("/etc/passwd"), "permission_denied");
    // Without a jail, files of the kernel that say they are empty are read to their end.
    let host = Host::with(|config| config.jail = None);
    assert!(!get(&host, "/proc/self/status", 0).is_empty());
    assert_eq!(host.refusal(Operation::GetFile(Target { path: b"/dev/null".to_vec(), offset: 0 })).kind, "invalid_input");
    fs::write(host.workspace().join("relative"), "here").unwrap();
    assert_eq!(get(&host, "relative", 0), b"here");
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_told() {
    let host = Host::new();
    let path = host.workspace().join("a");
    fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let (mut stream, answer) = host.ask(Operation::GetFile(Target { path: b"a".to_vec(), offset: 0 }));
    assert!(matches!(answer, reply::Answer::Entry(_)));
    fs::File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
    assert_eq!(receive(&mut stream), Err("conflict".to_owned()));
}

#[test]
fn directories_are_made_listed_renamed_and_removed() {
    let host = Host::new();
    let workspace = host.workspace();
    let make = |path: &str, parents| Operation::MakeDir(MakeDir { path: path.into(), parents, mode: Some(0o775) });
    let rename = |from: &str, to: &str, no_replace| Operation::Rename(Rename { from: from.into(), to: to.into(), no_replace });
    let remove = |path: &str, recursive, missing_ok| Operation::Remove(Remove { path: path.into(), recursive, missing_ok });
    host.done(make("a/b/c", true));
    host.done(make("a/b/c", true));
    assert_eq!(host.refusal(make("a", false)).kind, "already_exists");
    assert_eq!(host.refusal(make("x/y", false)).kind, "not_found");
    assert_eq!(fs::metadata(workspace.join("a/b/c")).unwrap().permissions().mode() & 0o777, 0o775);
    host.done(Operation::Symlink(Symlink { target: b"/any where".to_vec(), path: b"a/link".to_vec() }));
    assert_eq!(host.refusal(Operation::Symlink(Symlink { target: b"x".to_vec(), path: b"a/link".to_vec() })).kind, "already_exists");
    let (_, reply::Answer::Entry(entry)) = host.ask(Operation::Stat(Stat { path: b"a/link".to_vec(), follow: false })) else { panic!() };
    assert_eq!((entry.kind, entry.symlink_target.as_deref()), (KindOfFile::Symlink as i32, Some(b"/any where".as_slice())));
    fs::write(workspace.join("a/file"), "12345").unwrap();
    let (_, reply::Answer::Entries(found)) = host.ask(Operation::ReadDir(ReadDir { path: b"a".to_vec() })) else { panic!() };
    let shown: Vec<_> = found.entries.iter().map(|entry| (String::from_utf8_lossy(&entry.name).into_owned(), entry.kind)).collect();
    let [directory, file, link] = [KindOfFile::Directory, KindOfFile::File, KindOfFile::Symlink].map(|kind| kind as i32);
    assert_eq!(shown, [("b".to_owned(), directory), ("file".to_owned(), file), ("link".to_owned(), link)]);
    assert!(found.last);
    host.done(rename("a/file", "a/renamed", true));
    fs::write(workspace.join("a/file"), "other").unwrap();
    assert_eq!(host.refusal(rename("a/file", "a/renamed", true)).kind, "already_exists");
    host.done(rename("a/file", "a/renamed", false));
    assert_eq!(host.refusal(remove("a", false, false)).kind, "invalid_input");
    assert_eq!(host.refusal(remove("gone", false, false)).kind, "not_found");
    host.done(remove("gone", true, true));
    host.done(remove("a/b/c", false, false));
    host.done(remove("a/link", false, false));
    host.done(remove("a", true, false));
    assert!(names(&workspace).is_empty());
    assert_eq!(host.refusal(remove(".", true, false)).kind, "invalid_input");
}

#[test]
fn a_large_directory_comes_in_parts() {
    let host = Host::new();
    for index in 0..1500 {
        fs::write(host.workspace().join(format!("{index:04}")), "").unwrap();
    }
    let mut stream = host.send(Operation::ReadDir(ReadDir { path: b".".to_vec() }));
    let mut names = Vec::new();
    let mut next = answer(&mut stream);
    loop {
        let reply::Answer::Entries(part) = next else { panic!() };
        names.extend(part.entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()));
        if part.last {
            break;
        }
        next = read_frame(&mut stream).unwrap().unwrap().message::<sandbar_protocol::Reply>().unwrap().answer.unwrap();
    }
    assert_eq!(names, (0..1500).map(|index| format!("{index:04}")).collect::<Vec<_>>());
    fs::create_dir(host.workspace().join("empty")).unwrap();
    let (_, reply::Answer::Entries(part)) = host.ask(Operation::ReadDir(ReadDir { path: b"empty".to_vec() })) else { panic!() };
    assert!(part.last && part.entries.is_empty());
}

#[test]
fn a_tree_goes_out_and_in() {
    let host = Host::new();
    let workspace = host.workspace();
    fs::create_dir_all(workspace.join("from/deep")).unwrap();
    fs::write(workspace.join("from/deep/file"), vec![9; 700_000]).unwrap();
    symlink("deep/file", workspace.join("from/link")).unwrap();
    let mut stream = host.done(Operation::GetTree(Target { path: b"from".to_vec(), offset: 0 }));
    let tar = receive(&mut stream).unwrap();
    let into =
        |path: &str, make_parents, no_replace| finish(host.send(Operation::PutTree(Put { make_parents, no_replace, ..put(path) })), &tar);
    assert!(matches!(into("to", false, false), reply::Answer::Done(_)));
    assert!(matches!(into("x/y/to", true, true), reply::Answer::Done(_)));
    assert_eq!(refused(into("to", false, true)), "already_exists");
    assert_eq!(refused(into("no/such", false, false)), "not_found");
    for copy in ["to", "x/y/to"] {
        assert_eq!(read(workspace.join(copy).join("link")), vec![9; 700_000]);
    }
    assert_eq!(host.refusal(Operation::GetTree(Target { path: b"missing".to_vec(), offset: 0 })).kind, "not_found");
    assert_eq!(host.refusal(Operation::GetTree(Target { path: b"to/link".to_vec(), offset: 0 })).kind, "invalid_input");
    let broken = finish(host.send(Operation::PutTree(put("broken"))), &[7; 5000]);
    assert_eq!(refused(broken), "corrupt");
}
