use std::{fmt, marker::PhantomData, ops::Deref};

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use sandbar_core::ErrorKind;
use sandbar_runtime::{Holder, Scope};

use crate::{
    problem::{Answer, Problem},
    service::App,
};

/// Who asks, as the guard has found.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Whoever has the state folder, by the way on which they have come.
    Owner,
    /// Whoever has the token of the state folder.
    Token,
    /// Whoever has one of its keys.
    Holder(Holder),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::Token => f.write_str("token"),
            Self::Holder(holder) => write!(f, "key {}", holder.name),
        }
    }
}

/// What a handler needs of whoever asks.
pub(crate) trait Needs {
    /// The least that a key must have.
    const SCOPE: Scope;
}

/// See [`Scope::Read`].
pub(crate) enum Read {}
/// See [`Scope::Use`].
pub(crate) enum Use {}
/// See [`Scope::Manage`].
pub(crate) enum Manage {}
/// See [`Scope::Admin`].
pub(crate) enum Admin {}

impl Needs for Read {
    const SCOPE: Scope = Scope::Read;
}

impl Needs for Use {
    const SCOPE: Scope = Scope::Use;
}

impl Needs for Manage {
    const SCOPE: Scope = Scope::Manage;
}

impl Needs for Admin {
    const SCOPE: Scope = Scope::Admin;
}

/// The runtime as the caller has it, for a caller who may do what `N` says. There is no other way for a handler to get at the runtime, so none can forget to ask.
pub(crate) struct May<N> {
    app: App,
    needs: PhantomData<N>,
}

impl<N> May<N> {
    /// For what is done elsewhere.
    pub(crate) fn into_app(self) -> App {
        self.app
    }
}

impl<N> Deref for May<N> {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

impl<N: Needs> FromRequestParts<App> for May<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        let app = match parts.extensions.get::<Caller>() {
            Some(Caller::Owner) => app.clone(),
            Some(Caller::Token) => app.as_used_by(app.runtime.by_token()),
            Some(Caller::Holder(holder)) if holder.scope >= N::SCOPE => app.as_used_by(app.runtime.on_behalf_of(holder.clone())),
            Some(Caller::Holder(holder)) => {
                let request = format!("{} {}", parts.method, parts.uri.path());
                app.runtime.on_behalf_of(holder.clone()).audit_refusal(request, ErrorKind::PermissionDenied);
                let message = format!("the key {} has the scope {}, and this needs {}", holder.name, holder.scope, N::SCOPE);
                return Err(Problem::with_status(StatusCode::FORBIDDEN, "permission_denied", message));
            }
            None => return Err(Problem::with_status(StatusCode::UNAUTHORIZED, "permission_denied", "nobody knows who asks")),
        };
        Ok(Self { app, needs: PhantomData })
    }
}
