//! Who may ask.
//!
//! A request must carry the token or a key, in a header that no page of another origin can set without being allowed to, and that no browser adds by itself: so forged
//! requests carry nothing. `Host` must be a name of this server, so a name that was made to point here (DNS rebinding) is not one; an `Origin`, which only browsers
//! send, must be this server's own.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header, uri::Authority},
    middleware::Next,
    response::Response,
};

use sandbar_runtime::Runtime;

use crate::{
    caller::Caller,
    certificate::Certificate,
    problem::{Answer, Problem},
    token::Token,
};

/// What requests are held against.
pub(crate) struct Guard {
    /// Nobody but who may can reach the server where there is none.
    token: Option<Token>,
    /// Names by which the server may be called, beside addresses and `localhost`.
    names: Vec<String>,
    /// Has names too: a page that made one of somebody else's point here would be shown a certificate that is not for it.
    certificate: Option<Certificate>,
    /// Has the keys.
    runtime: Runtime,
}

impl Guard {
    pub(crate) fn new(token: Option<Token>, names: Vec<String>, certificate: Option<Certificate>, runtime: Runtime) -> Self {
        Self { token, runtime, certificate, names: names.into_iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    /// Whether a request was meant for this server by whoever sent it.
    fn is_addressed_to(&self, headers: &HeaderMap, uri_authority: Option<&Authority>) -> bool {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST).map(str::to_owned).or_else(|| uri_authority.map(ToString::to_string));
        let Some(host) = host.and_then(|host| host.parse::<Authority>().ok()).filter(|host| self.knows(host)) else { return false };
        match headers.get(header::ORIGIN) {
            None => true,
            Some(_) => text(header::ORIGIN).is_some_and(|origin| {
                let authority = origin.split_once("://").map(|(_, authority)| authority);
                authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()))
            }),
        }
    }

    fn knows(&self, host: &Authority) -> bool {
        let name = host.host().trim_matches(['[', ']']).to_ascii_lowercase();
        // An address cannot be made to point elsewhere.
        name == "localhost"
            || name.parse::<IpAddr>().is_ok()
            || self.names.contains(&name)
            || self.certificate.as_ref().is_some_and(|certificate| certificate.is_for(&name))
    }

    /// Who has what a request carries; `None` where nobody has it.
    fn caller(&self, headers: &HeaderMap) -> Answer<Option<Caller>> {
        let Some(token) = &self.token else { return Ok(Some(Caller::Owner)) };
        let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let presented = presented.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((_, presented)) = presented else { return Ok(None) };
        let presented = presented.trim();
        if token.is(presented) {
            return Ok(Some(Caller::Token));
        }
        Ok(self.runtime.holder_of(presented)?.map(Caller::Holder))
    }
}

/// Refuses what was not meant for this server.
pub(crate) async fn addressed(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Result<Response, Problem> {
    if guard.is_addressed_to(request.headers(), request.uri().authority()) {
        return Ok(next.run(request).await);
    }
    let message = "the request names another host, or comes from a page of another origin";
    Err(Problem::with_status(StatusCode::MISDIRECTED_REQUEST, "permission_denied", message)
        .with_hint("use the server's address, or start it with --name NAME for the name it is known by"))
}

/// Finds out who asks, and refuses who has neither the token nor a key.
pub(crate) async fn authorized(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Result<Response, Problem> {
    if let Some(caller) = guard.caller(request.headers())? {
        request.extensions_mut().insert(caller.clone());
        let mut response = next.run(request).await;
        // For the log.
        response.extensions_mut().insert(caller);
        return Ok(response);
    }
    Err(Problem::with_status(StatusCode::UNAUTHORIZED, "permission_denied", "the request has no valid token or key")
        .with_hint("send `Authorization: Bearer TOKEN`; the token is in the file `server-token` of the state folder, and `sandbar key create` makes keys"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use sandbar_runtime::{NewKey, RuntimeConfig, Scope};

    use super::*;

    async fn guard() -> (tempfile::TempDir, Guard) {
        let home = tempfile::tempdir().unwrap();
        let token = Token::of(home.path()).unwrap();
        let runtime = Runtime::open(RuntimeConfig::new(home.path())).await.unwrap();
        (home, Guard::new(Some(token), vec!["Box.example".to_owned()], None, runtime))
    }

    fn headers(list: &[(header::HeaderName, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[tokio::test]
    async fn names_that_anybody_may_point_here_are_not_its_own() {
        let (_home, guard) = guard().await;
        for host in ["127.0.0.1:7700", "localhost", "LOCALHOST:1", "[::1]:7700", "box.example:443", "192.0.2.7:80"] {
            assert!(guard.is_addressed_to(&headers(&[(header::HOST, host)]), None), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:7700", "", "user@evil.example", "a b"] {
            assert!(!guard.is_addressed_to(&headers(&[(header::HOST, host)]), None), "{host}");
        }
        assert!(!guard.is_addressed_to(&HeaderMap::new(), None));
    }

    #[tokio::test]
    async fn pages_of_other_origins_are_refused() {
        let (_home, guard) = guard().await;
        let from = |origin: &str| guard.is_addressed_to(&headers(&[(header::HOST, "127.0.0.1:7700"), (header::ORIGIN, origin)]), None);
        assert!(from("http://127.0.0.1:7700"));
        for origin in ["null", "http://127.0.0.1:7701", "http://evil.example", "http://localhost:7700", "", "file://"] {
            assert!(!from(origin), "{origin}");
        }
    }

    #[tokio::test]
    async fn only_the_token_and_keys_open() {
        let (_home, guard) = guard().await;
        let with = |value: &str| guard.caller(&headers(&[(header::AUTHORIZATION, value)])).unwrap().is_some();
        assert!(with(&format!("Bearer {}", guard.token.as_ref().unwrap().secret())));
        assert!(with(&format!("bearer {}", guard.token.as_ref().unwrap().secret())));
        for value in [
            "",
            "Bearer",
            "Bearer ",
            &format!("Basic {}", guard.token.as_ref().unwrap().secret()),
            guard.token.as_ref().unwrap().secret(),
            "Bearer x",
        ] {
            assert!(!with(value), "{value}");
        }
        assert!(guard.caller(&HeaderMap::new()).unwrap().is_none());
        let new = NewKey { name: "ci".to_owned(), scope: Scope::Use, max_sandboxes: None, ttl: None };
        let (_, secret) = guard.runtime.create_key(&new).unwrap();
        let caller = guard.caller(&headers(&[(header::AUTHORIZATION, &format!("Bearer {secret}"))])).unwrap();
        assert!(matches!(caller, Some(Caller::Holder(holder)) if holder.name == "ci" && holder.scope == Scope::Use));
        assert!(!with(&format!("Bearer {}", &secret[..secret.len() - 1])) && !with(&format!("Bearer {secret}x")));
    }
}
