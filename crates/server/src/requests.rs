use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tracing::Instrument;

use crate::{caller::Caller, metrics::Metrics};

/// By which a client, what stands before the server, and the server's log call one request.
const ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of an id that somebody else gave.
const LONGEST: usize = 64;
/// The route of what is at no path.
const NOWHERE: &str = "none";

/// Gives each request an id, counts it, and writes into the log what became of it: a line when the head of its answer is there, in a span around everything that was written meanwhile.
///
/// Neither has the path: it holds names that a client chose. The route has their places.
pub(crate) async fn told(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = id(request.headers());
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(NOWHERE, MatchedPath::as_str);
    let span = tracing::info_span!("request", id, %method, route);
    let mut response = next.run(request).instrument(span.clone()).await;
    span.in_scope(|| {
        let caller = response.extensions().get::<Caller>().map(tracing::field::display);
        let took = begun.elapsed();
        metrics.answered(&method, route, response.status(), took);
        let duration_ms = took.as_micros() as f64 / 1000.0;
        tracing::info!(status = response.status().as_u16(), duration_ms, caller, "answered");
    });
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(ID, id);
    }
    response
}

/// The id that the request has already, if it is one that can be written anywhere; else a new one.
fn id(headers: &HeaderMap) -> String {
    let given = headers.get(ID).and_then(|value| value.to_str().ok());
    let plain =
        |id: &&str| (1..=LONGEST).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    given.filter(plain).map_or_else(new_id, str::to_owned)
}

fn new_id() -> String {
    let mut random = [0; 12];
    // Without random numbers ids would be alike, which harms nobody.
    let _ = getrandom::fill(&mut random);
    URL_SAFE_NO_PAD.encode(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(value: &str) -> String {
        id(&HeaderMap::from_iter([(ID, HeaderValue::from_str(value).unwrap())]))
    }

    #[test]
    fn an_id_is_kept_if_it_is_harmless_and_is_new_otherwise() {
        assert_eq!(given("Root=1-67891233-abcdef".replace('=', ".").as_str()), "Root.1-67891233-abcdef");
        for odd in ["", "a b", "a\"b", "{}", &"x".repeat(65)] {
            let id = given(odd);
            assert!(id != odd && id.len() == 16, "{odd:?}: {id}");
        }
        assert_ne!(id(&HeaderMap::new()), id(&HeaderMap::new()));
    }
}
