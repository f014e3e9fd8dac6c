use std::{
    convert::Infallible,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// Ports of a server that tells what it is asked, without and with TLS.
const PLAIN: u16 = 8080;
const TLS: u16 = 8443;
/// Headers that it tells of.
const HEADERS: [&str; 2] = ["authorization", "x-token"];

/// Serves HTTP of all versions at every address, with `key.pem` and `cert.pem` of the folder, and tells of each request.
pub fn begin(folder: &Path, say: fn(&str)) {
    let certificates = CertificateDer::pem_file_iter(folder.join("cert.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(certificates, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listen = |port| {
        let listener = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    };
    let (plain, encrypted) = (listen(PLAIN), listen(TLS));
    let packages = folder.to_owned();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (plain, encrypted) = (TcpListener::from_std(plain).unwrap(), TcpListener::from_std(encrypted).unwrap());
            loop {
                tokio::select! {
                    stream = plain.accept() => drop(tokio::spawn(serve(told(stream.unwrap().0, say), packages.clone(), say))),
                    stream = encrypted.accept() => {
                        let (accepting, packages) = (acceptor.accept(told(stream.unwrap().0, say)), packages.clone());
                        tokio::spawn(async move {
                            if let Ok(stream) = accepting.await {
                                serve(stream, packages, say).await;
                            }
                        });
                    }
                }
            }
        });
    });
}

fn told(stream: TcpStream, say: fn(&str)) -> TcpStream {
    let address = stream.local_addr().unwrap();
    say(&format!("tcp {} {}", address.ip().to_canonical(), address.port()));
    stream
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, folder: PathBuf, say: fn(&str)) {
    let folder = Arc::new(folder);
    let service = service_fn(move |request: Request<Incoming>| {
        let folder = Arc::clone(&folder);
        async move {
            let header = |name: &str| request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            let host = request.uri().authority().map(ToString::to_string).or_else(|| header("host")).unwrap_or_default();
            let version = request.version();
            let shown: Vec<String> = HEADERS.iter().filter_map(|name| Some(format!("{name}={}", header(name)?))).collect();
            say(&format!("http {host} {version:?} {} {}", request.uri().path(), shown.join(" ")));
            let path = request.uri().path().to_owned();
            // A client that breaks off is its own affair.
            let _ = request.into_body().collect().await;
            if path.starts_with("/packages/") {
                return Ok(package(&folder, &path));
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(format!("welcome over {version:?}\n")))))
        }
    });
    // It ends when the client does.
    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// A file below the folder, or of a folder there what stands for it. Below `away` is what is elsewhere.
fn package(folder: &Path, path: &str) -> Response<Full<Bytes>> {
    let answer = Response::builder();
    if path.starts_with("/packages/away/") {
        return answer.status(302).header("location", "http://169.254.169.254/latest/").body(Full::default()).unwrap();
    }
    let mut file = folder.join(path.trim_matches('/'));
    if file.is_dir() {
        file.push("index.html");
    }
    match std::fs::read(&file).ok().filter(|_| !path.contains("..")) {
        Some(bytes) => {
            let kind = if file.extension().is_some_and(|extension| extension == "html") { "text/html" } else { "application/octet-stream" };
            answer.header("content-type", kind).body(Full::new(bytes.into())).unwrap()
        }
        None => answer.status(404).body(Full::default()).unwrap(),
    }
}
