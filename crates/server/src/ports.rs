use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::{
    Json,
    extract::ws::{Message, WebSocket},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::{SinkExt, StreamExt};
use sandbar_core::{ExposedPort, PortStream};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    caller::{Manage, May, Read},
    extract::{Body, Path, Upgrade},
    farewell::until_closed,
    problem::{Answer, Problem},
};

/// A port of a sandbox that shall listen on the server's host.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exposure {
    /// The port inside.
    port: u16,
    /// Where the host listens, ADDRESS:PORT; a free port of 127.0.0.1 if it is left out.
    #[schema(value_type = Option<String>)]
    listen: Option<SocketAddr>,
}

/// Let the server's host listen for a port of a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{id}/ports", tag = "ports", operation_id = "expose_port", params(("id" = String, Path)),
    request_body = Exposure,
    responses((status = 201, body = ExposedPort), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn expose(app: May<Manage>, Path(id): Path<String>, Body(exposure): Body<Exposure>) -> Answer<impl IntoResponse> {
    let listen = exposure.listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
    let exposed = app.runtime.sandbox(&id).await?.expose_port(exposure.port, listen).await?;
    Ok((StatusCode::CREATED, Json(exposed)))
}

/// End that
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/ports/{port}", tag = "ports", operation_id = "unexpose_port",
    params(("id" = String, Path), ("port" = u16, Path)),
    responses((status = 204, description = "Nothing listens any more"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn unexpose(app: May<Manage>, Path((id, port)): Path<(String, u16)>) -> Answer<StatusCode> {
    app.runtime.sandbox(&id).await?.unexpose_port(port).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Watch which ports something inside listens on, over a WebSocket
///
/// Each message has all of them, `{"ports":[22,8080]}`: one at once, another within a second of a change.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/ports/watch", tag = "ports", operation_id = "watch_ports", params(("id" = String, Path)),
    responses((status = 101, description = "The connection is a WebSocket now"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn watch(app: May<Read>, Path(id): Path<String>, Upgrade(upgrade): Upgrade) -> Answer<Response> {
    let ports = app.runtime.sandbox(&id).await?.watch_ports().await?;
    Ok(upgrade.on_upgrade(move |socket| tell(socket, ports)))
}

async fn tell(socket: WebSocket, mut ports: Box<dyn PortStream>) {
    let (mut sink, mut source) = socket.split();
    let telling = async {
        loop {
            let (words, is_last) = match ports.next().await {
                Ok(ports) => (json!({ "ports": ports }), false),
                Err(error) => (json!({ "type": "error", "problem": Problem::from(error) }), true),
            };
            sink.send(Message::Text(words.to_string().into())).await?;
            if is_last {
                return sink.send(Message::Close(None)).await;
            }
        }
    };
    tokio::select! {
        // An error is a client that is gone.
        _ = telling => {}
        // Whatever a client says is not listened to, but that it goes.
        () = async { while let Some(Ok(_)) = source.next().await {} } => {}
    }
    until_closed(&mut source).await;
}
