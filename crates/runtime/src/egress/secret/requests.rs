use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header::HOST};
use hyper::{body::Incoming, ext::ReasonPhrase};
use sandbar_core::DomainName;

use super::{
    super::{
        exchange::{Objection, Overseer, named},
        log::NetworkEvent,
        shown::Shown,
    },
    interception::Tell,
    keyring::Keyring,
    substitution::{restore, restored, substitute},
};

/// Requests to a secret's host, which the secret is put into.
pub(super) struct Requests {
    keyring: Arc<Keyring>,
    host: DomainName,
    tell: Tell,
    told: Mutex<BTreeSet<(NetworkEvent, String)>>,
}

impl Requests {
    pub(super) fn new(keyring: Arc<Keyring>, host: DomainName, tell: Tell) -> Self {
        Self { keyring, host, tell, told: Mutex::default() }
    }

    /// Refuses a request that is for another host by any of the places where one can be named, or that names none.
    fn require_host(&self, request: &Request<Incoming>) -> Result<(), Objection> {
        let named = named(request.uri(), request.headers())?;
        if named.is_empty() {
            return Err(Objection::of(StatusCode::BAD_REQUEST, "an HTTP request that names no host".to_owned()));
        }
        match named.iter().find(|authority| authority.host().parse::<DomainName>().ok().as_ref() != Some(&self.host)) {
            None => Ok(()),
            Some(other) => {
                let reason = format!("the host of HTTP is {}, and {} was resolved", other.host(), self.host);
                Err(Objection::of(StatusCode::MISDIRECTED_REQUEST, reason))
            }
        }
    }

    /// Tells something once for a connection.
    fn tell_once(&self, event: NetworkEvent, reason: String) {
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert((event, reason.clone())) {
            (self.tell)(event, reason);
        }
    }
}

impl Overseer for Requests {
    const ENDS_EARLY: bool = false;

    fn oversee(&self, request: &mut Request<Incoming>) -> Result<(), Objection> {
        let refused = |reason: &str| Err(Objection::of(StatusCode::METHOD_NOT_ALLOWED, reason.to_owned()));
        if request.method() == Method::CONNECT {
            return refused("a request to be connected through a secret's host");
        }
        // It asks for what was sent, secrets and all.
        if request.method() == Method::TRACE {
            return refused("a request to be told what was sent to a secret's host");
        }
        self.require_host(request)?;
        let text = request.uri().to_string();
        for name in self.keyring.found_in(&text) {
            self.tell_once(
                NetworkEvent::Leak,
                format!("the placeholder of {name} is in the address of a request, where it goes out as it is"),
            );
        }
        if request.version() != Version::HTTP_2 {
            to_origin(request, &self.host)?;
        }
        let found = substitute(request.headers_mut(), &self.keyring, &self.host).map_err(|error| Objection {
            status: StatusCode::BAD_GATEWAY,
            reason: error.chain(),
            // Why it is gone is for this host to know.
            said: Some("a secret cannot be had"),
        })?;
        for name in found.used {
            self.tell_once(NetworkEvent::Secret, format!("the secret {name} is put in"));
        }
        for name in found.foreign {
            self.tell_once(NetworkEvent::Leak, format!("the placeholder of {name} goes out as it is: it is not for this host"));
        }
        Ok(())
    }

    /// Takes secrets out of what stands before an answer.
    fn see_answer(&self, response: &mut Response<Incoming>) {
        let mut found = restore(response.headers_mut(), &self.keyring, &self.host);
        if let Some(reason) = response.extensions().get::<ReasonPhrase>() {
            let said = restored(reason.as_bytes(), &self.keyring, &self.host, &mut found).is_some();
            if said {
                response.extensions_mut().remove::<ReasonPhrase>();
            }
        }
        for name in found {
            self.tell_once(NetworkEvent::Leak, format!("the secret {name} is in the head of an answer, where its placeholder is put back"));
        }
    }

    fn may_follow(&self, shown: &Shown) -> bool {
        !shown.is_request() && !matches!(shown, Shown::Unclear(_))
    }

    fn tell(&self, event: NetworkEvent, reason: String) {
        (self.tell)(event, reason);
    }
}

/// The host stands in its header alone, as a server expects it that is no proxy.
fn to_origin(request: &mut Request<Incoming>, host: &DomainName) -> Result<(), Objection> {
    let bad = || Objection::of(StatusCode::BAD_REQUEST, "an HTTP request for what is no path".to_owned());
    if let Some(authority) = request.uri().authority() {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let named = HeaderValue::try_from(authority.as_str()).map_err(|_| bad())?;
        *request.uri_mut() = path.parse().map_err(|_| bad())?;
        request.headers_mut().entry(HOST).or_insert(named);
    } else if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, HeaderValue::try_from(host.as_str()).map_err(|_| bad())?);
    }
    Ok(())
}
