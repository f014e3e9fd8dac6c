use std::{path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use sandbar_core::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::time::timeout;

use crate::machine::socket::connect_in;

/// Firecracker's socket, in the machine's folder.
pub(super) const SOCKET: &str = "api.sock";
const OPERATION: &str = "firecracker";
/// The most that an answer may be; they are short.
const MOST: usize = 64 << 10;

/// Firecracker's interface: one request a connection.
pub(super) struct Api {
    /// The machine's folder.
    pub(super) folder: PathBuf,
}

impl Api {
    /// Asks for a change.
    ///
    /// # Errors
    /// `TimedOut` without an answer within `patience`; else with what Firecracker says.
    pub(super) async fn put(&self, path: &'static str, body: &Value, patience: Duration) -> Result<()> {
        self.ask(Method::PUT, path, body, patience).await
    }

    /// The same, of something that exists.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub(super) async fn patch(&self, path: &'static str, body: &Value, patience: Duration) -> Result<()> {
        self.ask(Method::PATCH, path, body, patience).await
    }

    async fn ask(&self, method: Method, path: &'static str, body: &Value, patience: Duration) -> Result<()> {
        let answered = timeout(patience, self.exchange(method, path, body)).await;
        let late = |_| Error::new(ErrorKind::TimedOut, OPERATION, format!("Firecracker did not answer within {} s", patience.as_secs()));
        let (status, said) = answered.map_err(late)?.map_err(|error| error.with("request", path))?;
        if status.is_success() {
            return Ok(());
        }
        let fault = serde_json::from_slice::<Value>(&said).ok();
        let fault = fault.as_ref().and_then(|fault| fault.get("fault_message")?.as_str()).unwrap_or("it says no more").to_owned();
        Err(Error::new(ErrorKind::Unavailable, OPERATION, format!("Firecracker refuses: {fault}"))
            .with("request", path)
            .with("status", status.as_u16()))
    }

    async fn exchange(&self, method: Method, path: &'static str, body: &Value) -> Result<(StatusCode, Bytes)> {
        let gone = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Unavailable, OPERATION, "Firecracker does not answer").with_source(error)
        };
        let stream = connect_in(&self.folder, SOCKET).await.map_err(|error| gone(error.into()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| gone(error.into()))?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(HOST, "localhost").header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::new(Bytes::from(body.to_string()))).map_err(|error| gone(error.into()))?;
        let answer: hyper::Response<Incoming> = sender.send_request(request).await.map_err(|error| gone(error.into()))?;
        let status = answer.status();
        let said = Limited::new(answer.into_body(), MOST).collect().await.map_err(gone)?.to_bytes();
        connection.abort();
        Ok((status, said))
    }
}
