//! A client, a server, and what is between them, in one process.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn, upgrade};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    sign::SingleCertAndKey,
};
use sandbar_core::{Connection, DomainName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    super::{held::Held, log::NetworkEvent},
    Failure, Interception, Keyring,
    authority::Authority,
    keyring,
};

const HEADER: &str = "x-token";

/// What has reached the server: version, path, the header.
type Seen = Arc<Mutex<Vec<(Version, String, String)>>>;

struct Middle {
    keyring: Arc<Keyring>,
    client: DuplexStream,
    server: DuplexStream,
    told: Arc<Mutex<Vec<(NetworkEvent, String)>>>,
    task: JoinHandle<Result<(), Failure>>,
}

/// Somebody between `client` and `server`, who has a secret A for a.test, and B for b.test.
fn middle(folder: &Path) -> Middle {
    middle_with(folder, &[("A", "a.test", "one"), ("B", "b.test", "two")])
}

/// As [`middle`], with these secrets.
fn middle_with(folder: &Path, secrets: &[(&str, &str, &str)]) -> Middle {
    let keyring = Arc::new(keyring::example(folder, secrets));
    let ((client, inside), (outside, server)) = (duplex(16 << 10), duplex(16 << 10));
    let told = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&told);
    let tell = move |event, reason| list.lock().unwrap().push((event, reason));
    let interception = Interception::new(Arc::clone(&keyring), "a.test".parse().unwrap(), tell);
    let task = tokio::spawn(interception.run(Held::new(Box::new(inside)), Box::new(outside)));
    Middle { keyring, client, server, told, task }
}

/// Makes an authority of the internet, and what a server has that it has certified.
fn certified_server(folder: &Path, host: &str, protocols: &[&str]) -> TlsAcceptor {
    let host: DomainName = host.parse().unwrap();
    let (certificate, key) = Authority::make([&host].into_iter()).unwrap();
    std::fs::write(folder.join("roots.pem"), certificate).unwrap();
    let certified = Authority::of(&key).unwrap().certify(&host).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

async fn tls_client(keyring: &Keyring, stream: DuplexStream, name: &str, protocols: &[&str]) -> std::io::Result<Connection> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(keyring.vault().unwrap().certificate.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

/// Serves what it is asked for: it says again what comes, also after an upgrade.
async fn serve(stream: Connection, is_h2: bool, seen: Seen) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        let text = request.headers().get(HEADER).map_or("", |value| value.to_str().unwrap()).to_owned();
        seen.lock().unwrap().push((request.version(), request.uri().path().to_owned(), text));
        async move {
            if request.headers().contains_key("upgrade") {
                let upgraded = upgrade::on(&mut request);
                tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
                    tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                    writer.shutdown().await.unwrap();
                });
                let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
                return response.body(Full::default().map_err(|never| match never {}).boxed());
            }
            Ok(Response::new(request.into_body().boxed()))
        }
    });
    // It ends when the other side does.
    if is_h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    }
}

/// Sends requests; their statuses and bodies.
async fn ask(stream: Connection, is_h2: bool, requests: Vec<Request<Full<Bytes>>>) -> Vec<(StatusCode, Bytes)> {
    let mut answers = Vec::new();
    if is_h2 {
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for request in requests {
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            answers.push((head.status, body.collect().await.unwrap().to_bytes()));
        }
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for request in requests {
            sender.ready().await.unwrap();
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            answers.push((head.status, body.collect().await.unwrap().to_bytes()));
        }
    }
    answers
}

/// A request for a path of a host, or for all of an address.
fn request(is_h2: bool, host: &str, path: &str, token: &str) -> http::request::Builder {
    match is_h2 {
        true => Request::post(format!("https://{host}{path}")).header(HEADER, token),
        false => Request::post(path).header(HOST, host).header(HEADER, token),
    }
}

#[tokio::test]
async fn a_secret_is_put_into_requests_of_both_versions_and_bodies_pass() {
    let body = Bytes::from(vec![b'x'; 3 << 20]);
    for (protocol, is_h2, version) in [("h2", true, Version::HTTP_2), ("http/1.1", false, Version::HTTP_11)] {
        let folder = tempfile::tempdir().unwrap();
        let Middle { keyring, client, server, told, task } = middle(folder.path());
        let seen = Seen::default();
        let (list, acceptor) = (Arc::clone(&seen), certified_server(folder.path(), "a.test", &["h2", "http/1.1"]));
        let serving = tokio::spawn(async move { serve(Box::new(acceptor.accept(server).await.unwrap()), is_h2, list).await });
        let stream = tls_client(&keyring, client, "a.test", &[protocol]).await.unwrap();
        let requests = vec![
            request(is_h2, "a.test", "/1", "Bearer sandbar-secret-A").body(Full::new(body.clone())).unwrap(),
            request(is_h2, "A.test:443", "/2", "sandbar-secret-B").body(Full::default()).unwrap(),
        ];
        let answers = ask(stream, is_h2, requests).await;
        assert!(answers.iter().all(|(status, _)| *status == StatusCode::OK));
        assert!(answers[0].1 == body && answers[1].1.is_empty());
        task.await.unwrap().unwrap();
        serving.await.unwrap();
        let expected = [(version, "/1".to_owned(), "Bearer one".to_owned()), (version, "/2".to_owned(), "sandbar-secret-B".to_owned())];
        assert_eq!(*seen.lock().unwrap(), expected);
        let told = told.lock().unwrap();
        assert_eq!(told[0], (NetworkEvent::Secret, "the secret A is put in".to_owned()));
        assert!(told.len() == 2 && told[1].0 == NetworkEvent::Leak && told[1].1.contains("of B"), "{told:?}");
    }
}

#[tokio::test]
async fn a_request_for_another_host_goes_nowhere() {
    for is_h2 in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let Middle { keyring, client, server, told, task } = middle(folder.path());
        let seen = Seen::default();
        let (list, acceptor) = (Arc::clone(&seen), certified_server(folder.path(), "a.test", &["h2", "http/1.1"]));
        tokio::spawn(async move { serve(Box::new(acceptor.accept(server).await.unwrap()), is_h2, list).await });
        let stream = tls_client(&keyring, client, "a.test", &[if is_h2 { "h2" } else { "http/1.1" }]).await.unwrap();
        let requests = vec![
            request(is_h2, "b.test", "/", "sandbar-secret-A").body(Full::default()).unwrap(),
            request(is_h2, "a.test", "/", "").body(Full::default()).unwrap(),
        ];
        let statuses: Vec<_> = ask(stream, is_h2, requests).await.into_iter().map(|(status, _)| status).collect();
        assert_eq!(statuses, [StatusCode::MISDIRECTED_REQUEST, StatusCode::OK]);
        task.await.unwrap().unwrap();
        assert_eq!(seen.lock().unwrap().len(), 1);
        let told = told.lock().unwrap();
        assert_eq!(*told, [(NetworkEvent::Refused, "the host of HTTP is b.test, and a.test was resolved".to_owned())]);
    }
}

/// What a server gets of what a client says in plain text, and what the client gets.
async fn plainly(said: &str) -> (Seen, String, Vec<(NetworkEvent, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let Middle { mut client, server, told, task, .. } = middle(folder.path());
    let seen = Seen::default();
    tokio::spawn(serve(Box::new(server), false, Arc::clone(&seen)));
    client.write_all(said.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    drop(client);
    task.await.unwrap().unwrap();
    let told = told.lock().unwrap().clone();
    (seen, answer, told)
}

#[tokio::test]
async fn plain_requests_are_taken_apart_as_well() {
    let close = "Connection: close\r\nX-Token: sandbar-secret-A\r\n";
    let (seen, answer, _) = plainly(&format!("GET /a HTTP/1.1\r\nHost: a.test\r\n{close}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(seen.lock().unwrap()[0].2, "one");
    // As to a proxy.
    let (seen, answer, _) = plainly(&format!("GET http://a.test/b HTTP/1.1\r\nHost: a.test\r\n{close}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && seen.lock().unwrap()[0].1 == "/b", "{answer}");
    for (head, status) in [
        ("GET http://b.test/ HTTP/1.1\r\nHost: b.test", 421),
        ("GET / HTTP/1.1\r\nHost: me@a.test", 400),
        ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443", 405),
        ("TRACE / HTTP/1.1\r\nHost: a.test", 405),
    ] {
        let (seen, answer, told) = plainly(&format!("{head}\r\n{close}\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
        assert!(seen.lock().unwrap().is_empty() && told[0].0 == NetworkEvent::Refused, "{head}");
    }
    // Two requests in one, for whoever counts the bytes otherwise.
    let two = "POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: b.test\r\n";
    let (seen, answer, _) = plainly(&format!("{two}{close}\r\n")).await;
    assert!(seen.lock().unwrap().iter().all(|(_, path, _)| path == "/a"), "{answer}");
}

#[tokio::test]
async fn a_secret_that_a_server_says_again_does_not_come_in() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = [("A", "a.test", "hunter2-hunter2"), ("B", "b.test", "other-secret"), ("S", "a.test", "200")];
    let Middle { mut client, mut server, told, task, .. } = middle_with(folder.path(), &secrets);
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Token: sandbar-secret-A\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        server.read_buf(&mut heard).await.unwrap();
    }
    assert!(String::from_utf8(heard).unwrap().contains("hunter2-hunter2"));
    let answer = "HTTP/1.1 200 not hunter2-hunter2\r\nX-Echo: <hunter2-hunter2> hunter2-hunter2\r\nX-Other: other-secret 200\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    server.write_all(answer.as_bytes()).await.unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).await.unwrap();
    drop((client, server));
    task.await.unwrap().unwrap();
    assert!(said.starts_with("HTTP/1.1 200 ") && !said.contains("hunter2"), "{said}");
    assert!(said.contains("X-Echo: <sandbar-secret-A> sandbar-secret-A\r\n") && said.contains("X-Other: other-secret 200\r\n"), "{said}");
    let told = told.lock().unwrap();
    assert_eq!(told[1], (NetworkEvent::Leak, "the secret A is in the head of an answer, where its placeholder is put back".to_owned()));
    assert_eq!(told.len(), 2, "{told:?}");
}

#[tokio::test]
async fn whoever_is_not_certified_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Middle { keyring, client, server, task, .. } = middle(folder.path());
    let accepting = certified_server(folder.path(), "b.test", &[]).accept(server);
    tokio::spawn(async move { accepting.await.map(drop) });
    assert!(tls_client(&keyring, client, "a.test", &[]).await.is_err());
    let Err(Failure::Refused(refusal)) = task.await.unwrap() else { panic!("it was not refused") };
    assert!(refusal.event == NetworkEvent::Failed && refusal.reason.contains("certificate"), "{refusal:?}");

    let Middle { keyring, client, task, server: _server, .. } = middle(folder.path());
    assert!(tls_client(&keyring, client, "b.test", &[]).await.is_err());
    let Err(Failure::Refused(refusal)) = task.await.unwrap() else { panic!("it was not refused") };
    assert_eq!(refusal.reason, "the server name of TLS is b.test, and a.test was resolved");
}

#[tokio::test]
async fn a_web_socket_passes() {
    let folder = tempfile::tempdir().unwrap();
    let Middle { mut client, server, told, task, .. } = middle(folder.path());
    let seen = Seen::default();
    tokio::spawn(serve(Box::new(server), false, Arc::clone(&seen)));
    let head = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Token: sandbar-secret-A\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        client.read_buf(&mut answer).await.unwrap();
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    client.write_all(b"\x81\x02hi").await.unwrap();
    let mut echo = [0; 4];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"\x81\x02hi");
    client.shutdown().await.unwrap();
    assert_eq!(client.read(&mut echo).await.unwrap(), 0);
    task.await.unwrap().unwrap();
    assert_eq!(seen.lock().unwrap()[0].2, "one");
    assert_eq!(told.lock().unwrap()[0].0, NetworkEvent::Secret);
}

#[tokio::test]
async fn what_is_not_http_passes_as_it_is_and_a_placeholder_in_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let Middle { mut client, mut server, told, task, .. } = middle(folder.path());
    server.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    let mut banner = [0; 14];
    client.read_exact(&mut banner).await.unwrap();
    client.write_all(b"sandbar-secret-A").await.unwrap();
    client.shutdown().await.unwrap();
    let mut said = String::new();
    server.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "sandbar-secret-A");
    drop(server);
    task.await.unwrap().unwrap();
    assert_eq!(told.lock().unwrap()[0].0, NetworkEvent::Leak);
}

#[tokio::test]
async fn no_request_passes_where_none_is_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    // One that names nobody, and then another.
    let Middle { mut client, server, told, task, .. } = middle(folder.path());
    let seen = Seen::default();
    tokio::spawn(serve(Box::new(server), false, Arc::clone(&seen)));
    client
        .write_all(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).await.unwrap();
    drop(client);
    let _ = task.await.unwrap();
    assert!(seen.lock().unwrap().is_empty() && said.contains(" 400 ") && said.contains(" 421 "), "{said}");
    assert_eq!(told.lock().unwrap().len(), 2);
    // After a server that speaks first.
    let Middle { mut client, mut server, task, .. } = middle(folder.path());
    server.write_all(b"hello\n").await.unwrap();
    client.read_exact(&mut [0; 6]).await.unwrap();
    client.write_all(b"GET /b HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let Err(Failure::Refused(refusal)) = task.await.unwrap() else { panic!("it was not refused") };
    assert_eq!(refusal.reason, "an HTTP request where none was begun with");
    let mut said = Vec::new();
    server.read_to_end(&mut said).await.unwrap();
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
