use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::{Json, http::StatusCode, response::IntoResponse};
use sandbar_core::ExposedPort;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    caller::{Manage, May},
    extract::{Body, Path},
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
