use axum::{
    extract::ws::{Message, WebSocket},
    response::Response,
};
use futures_util::{SinkExt, StreamExt};
use sandbar_core::WatchStream;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use crate::{
    caller::{May, Use},
    extract::{Path, Query, Upgrade},
    farewell::until_closed,
    problem::{Answer, Problem},
};

/// What is watched.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Watched {
    /// The path inside.
    path: String,
    /// Everything beneath it too.
    #[serde(default)]
    recursive: bool,
}

/// Watch a path, over a WebSocket
///
/// Each message is an event: `{"kind":"modified","path":"a/b","is_directory":false}`. The kinds are `created`, `modified`, `removed`, `attributes`, and `overflow` where events
/// were lost. The connection is closed when the path is gone.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/watch", tag = "files", operation_id = "watch_path", params(("id" = String, Path), Watched),
    responses((status = 101, description = "The connection is a WebSocket now"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn watch(
    app: May<Use>,
    Path(id): Path<String>,
    Query(watched): Query<Watched>,
    Upgrade(upgrade): Upgrade,
) -> Answer<Response> {
    let events = app.runtime.sandbox(&id).await?.watch(&watched.path, watched.recursive).await?;
    Ok(upgrade.on_upgrade(move |socket| tell(socket, events)))
}

async fn tell(socket: WebSocket, mut events: Box<dyn WatchStream>) {
    let (mut sink, mut source) = socket.split();
    let telling = async {
        loop {
            let words = match events.next().await {
                Ok(Some(event)) => json!(event),
                Ok(None) => break,
                Err(error) => {
                    let words = json!({ "type": "error", "problem": Problem::from(error) });
                    sink.send(Message::Text(words.to_string().into())).await?;
                    break;
                }
            };
            sink.send(Message::Text(words.to_string().into())).await?;
        }
        sink.send(Message::Close(None)).await
    };
    tokio::select! {
        // An error is a client that is gone.
        _ = telling => {}
        // Whatever a client says is not listened to, but that it goes.
        () = async { while let Some(Ok(_)) = source.next().await {} } => {}
    }
    until_closed(&mut source).await;
}
