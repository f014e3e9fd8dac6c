use axum::{
    extract::ws::{Message, WebSocket},
    response::Response,
};
use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use sandbar_core::Connection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use crate::{
    caller::{May, Use},
    extract::{Path, Upgrade},
    farewell::until_closed,
    problem::{Answer, Problem},
};

/// Bytes of a message.
const PIECE: usize = 64 << 10;
/// Says, from either side, that no more bytes come from it.
const SHUTDOWN: &str = r#"{"type":"shutdown"}"#;

/// Connect to a port inside, over a WebSocket
///
/// Messages of bytes are the stream, both ways; a client's have 1 MiB at most. The message `{"type":"shutdown"}` ends one way and leaves the other open.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/ports/{port}/connect", tag = "ports", operation_id = "connect_port",
    params(("id" = String, Path), ("port" = u16, Path)),
    responses((status = 101, description = "The connection is a WebSocket now"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn connect(app: May<Use>, Path((id, port)): Path<(String, u16)>, Upgrade(upgrade): Upgrade) -> Answer<Response> {
    let connection = app.runtime.sandbox(&id).await?.connect_port(port).await?;
    Ok(upgrade.on_upgrade(move |socket| pass(socket, connection)))
}

async fn pass(socket: WebSocket, connection: Connection) {
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(connection);
    let client_is_done = Notify::new();
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            let passed = match message {
                Message::Binary(data) => writer.write_all(&data).await,
                Message::Text(text) if text == SHUTDOWN => {
                    client_is_done.notify_one();
                    writer.shutdown().await
                }
                _ => Ok(()),
            };
            if passed.is_err() {
                // Nobody inside takes it any more. What comes out may go on, until the client goes.
                while let Some(Ok(_)) = source.next().await {}
            }
        }
    };
    let outward = async {
        let mut piece = BytesMut::with_capacity(PIECE);
        while let Ok(1..) = reader.read_buf(&mut piece).await {
            sink.send(Message::Binary(piece.split().freeze())).await?;
            piece.reserve(PIECE);
        }
        sink.send(Message::Text(SHUTDOWN.into())).await?;
        client_is_done.notified().await;
        sink.send(Message::Close(None)).await
    };
    tokio::select! {
        () = inward => {}
        // An error is a client that is gone.
        _ = outward => {}
    }
    until_closed(&mut source).await;
}
