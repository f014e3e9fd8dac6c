use futures_util::{StreamExt, stream};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    load::{EACH_STREAM, MIB},
    server::{Server, expect, problem},
};

/// A piece of a large file.
static PIECE: [u8; MIB as usize] = [0; MIB as usize];

#[tokio::test]
async fn files_are_written_read_in_parts_renamed_and_removed() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    let files = |rest: &str| format!("/v1/sandboxes/{id}/files{rest}");
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let put = server.request(Method::PUT, &files("?path=/tmp/a%20b/c&parents=true&mode=640")).body(content.clone());
    expect(put, StatusCode::NO_CONTENT).await;
    let got = server.request(Method::GET, &files("?path=/tmp/a%20b/c")).send().await.unwrap();
    assert_eq!(got.headers()["content-length"], content.len().to_string().as_str());
    assert!(got.bytes().await.unwrap() == content, "the content is another");
    let part = |range: &str| server.request(Method::GET, &files("?path=/tmp/a%20b/c")).header("range", range.to_owned()).send();
    let got = part("bytes=100-199").await.unwrap();
    assert_eq!((got.status(), &got.headers()["content-range"]), (StatusCode::PARTIAL_CONTENT, &"bytes 100-199/12000000".parse().unwrap()));
    assert!(got.bytes().await.unwrap() == content[100..200]);
    assert!(part("bytes=-5").await.unwrap().bytes().await.unwrap() == content[content.len() - 5..]);
    assert_eq!(part("bytes=12000000-").await.unwrap().status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let stat = server.get(&files("/stat?path=/tmp/a%20b/c")).await;
    assert_eq!((&stat["kind"], &stat["size"], &stat["mode"]), (&"file".into(), &12_000_000.into(), &0o640.into()));

    let post = async |verb: &str, body| server.post(&files(verb), body, StatusCode::NO_CONTENT).await;
    post("/mkdir", json!({ "path": "/tmp/d", "mode": "700" })).await;
    post("/rename", json!({ "from": "/tmp/a b/c", "to": "/tmp/d/e" })).await;
    post("/symlink", json!({ "target": "e", "path": "/tmp/d/link" })).await;
    let listed = server.get(&files("/list?path=/tmp/d")).await;
    let mut names: Vec<_> = listed.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["e", "link"]);
    assert_eq!(server.get(&files("/stat?path=/tmp/d/link")).await["symlink_target"], "e");
    expect(server.request(Method::DELETE, &files("?path=/tmp/d&recursive=true")), StatusCode::NO_CONTENT).await;
    problem(server.request(Method::GET, &files("?path=/tmp/d/e")), 404).await;
    for (query, status) in [("?path=/tmp", 400), ("", 400), ("?path=/x&pth=/y", 400)] {
        problem(server.request(Method::GET, &files(query)), status).await;
    }
    problem(server.request(Method::PUT, &files("?path=/tmp/x&mode=999")).body(""), 400).await;
}

#[tokio::test]
async fn what_is_large_passes_through_and_is_not_held() {
    let pieces = 512;
    let server = Server::new();
    let id = server.create(json!({})).await;
    let file = format!("/v1/sandboxes/{id}/files?path=/tmp/large");
    let put = |pieces: u64| {
        let content = stream::iter((0..pieces).map(|_| Ok::<_, std::io::Error>(PIECE.as_slice())));
        expect(server.request(Method::PUT, &file).body(reqwest::Body::wrap_stream(content)), StatusCode::NO_CONTENT)
    };
    put(1).await;
    let before = server.peak();
    put(pieces).await;
    let got = server.request(Method::GET, &file).send().await.unwrap();
    assert_eq!((got.status(), got.content_length()), (StatusCode::OK, Some(pieces * MIB)));
    let (mut content, mut length) = (got.bytes_stream(), 0);
    while let Some(part) = content.next().await {
        let part = part.unwrap();
        assert!(part.chunks(PIECE.len()).all(|part| PIECE.starts_with(part)), "the content is another");
        length += part.len() as u64;
    }
    assert_eq!(length, pieces * MIB);
    server.has_grown(before, EACH_STREAM);
}

#[tokio::test]
async fn a_tree_goes_in_and_comes_out_as_a_tar() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    let tree = |path: &str| format!("/v1/sandboxes/{id}/tree?path={path}");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    tar.append_data(&mut header, "deep/er/file", &b"hello"[..]).unwrap();
    let put = server.request(Method::PUT, &format!("{}&parents=true", tree("/tmp/t"))).body(tar.into_inner().unwrap());
    expect(put, StatusCode::NO_CONTENT).await;
    assert_eq!(server.shell(&id, "cat /tmp/t/deep/er/file").await["stdout"], "hello");
    let got = server.request(Method::GET, &tree("/tmp/t")).send().await.unwrap().bytes().await.unwrap();
    let mut archive = tar::Archive::new(&got[..]);
    let paths: Vec<_> = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    assert!(paths.iter().any(|path| path.ends_with("deep/er/file")), "{paths:?}");
    let broken = server.request(Method::PUT, &tree("/tmp/t")).body("this is no tar, and long enough to be read as a header ".repeat(40));
    let found = broken.send().await.unwrap();
    assert!(found.status().is_client_error(), "{found:?}");
}

#[tokio::test]
async fn what_happens_to_a_folder_is_told() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    server.shell(&id, "mkdir /tmp/w").await;
    let mut watch = server.socket(&format!("/v1/sandboxes/{id}/files/watch?path=/tmp/w&recursive=true")).await;
    server.shell(&id, "mkdir /tmp/w/deep; echo x > /tmp/w/file").await;
    let event = watch.words().await;
    assert_eq!((&event["kind"], &event["path"], &event["is_directory"]), (&"created".into(), &"deep".into(), &true.into()), "{event}");
    while watch.words().await["path"] != "file" {}
    server.shell(&id, "rm -r /tmp/w").await;
    while let Some(message) = watch.next().await {
        assert!(message.is_text(), "{message:?}");
    }
    problem(server.request(Method::GET, &format!("/v1/sandboxes/{id}/files/watch?path=/tmp/none")), 400).await;
}
