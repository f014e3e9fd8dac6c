//! Keys: secrets by which somebody else may use a server on this state folder, and what each of them may.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sandbar_core::{Error, ErrorKind, Isolation, Network, Result, SandboxSpec, check_name};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Runtime, clock, create::random, egress::is_own};

const OPERATION: &str = "key";
/// What tells a key of sandbar from other secrets, for people and for scanners of leaked secrets.
const PREFIX: &str = "sandbar_key_";
/// Those below are of services, and of root.
const FIRST_FREE_PORT: u16 = 1024;

/// How much somebody may. Each includes those before it.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// See sandboxes, checkpoints and images, and what sandboxes use.
    Read,
    /// Run commands, read and write files, and reach ports in sandboxes that are there.
    Use,
    /// Make, change, save, fork and remove sandboxes.
    Manage,
    /// Everything, of everybody: also folders of the host inside, sandboxes without a wall, images, and the state folder itself.
    Admin,
}

impl Scope {
    const ALL: [Self; 4] = [Self::Read, Self::Use, Self::Manage, Self::Admin];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Use => "use",
            Self::Manage => "manage",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, OPERATION, "there is no such scope")
                .with("scope", text)
                .with_hint("the scopes are read, use, manage and admin")
        })
    }
}

/// What a new key shall be.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// A name that no other key has.
    pub name: String,
    /// What its holder may.
    pub scope: Scope,
    /// How many sandboxes made with it may be there at once.
    pub max_sandboxes: Option<u32>,
    /// How long it opens.
    pub ttl: Option<Duration>,
}

/// A key, without its secret, which nobody has but its holder.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySummary {
    /// Its name.
    pub name: String,
    /// What its holder may.
    pub scope: Scope,
    /// How many sandboxes made with it may be there at once.
    pub max_sandboxes: Option<u32>,
    /// How many are.
    pub sandboxes: u32,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds; after them it opens nothing.
    pub expires_ms: Option<u64>,
}

/// Whoever has shown a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The key's row, which no other key ever has.
    pub(crate) key: i64,
    /// The key's name.
    pub name: String,
    /// What the holder may.
    pub scope: Scope,
}

impl Holder {
    /// Whose sandboxes alone the holder sees; `None` for those who see all.
    pub(crate) fn own(&self) -> Option<i64> {
        (self.scope < Scope::Admin).then_some(self.key)
    }

    /// Refuses a listener of the host's that others than its own programs reach, or that takes a service's place, to who may not use the host itself.
    pub(crate) fn allow_listening(&self, listen: SocketAddr) -> Result<()> {
        let is_modest = listen.ip().is_loopback() && (listen.port() == 0 || listen.port() >= FIRST_FREE_PORT);
        if self.scope >= Scope::Admin || is_modest {
            return Ok(());
        }
        let message = format!("beyond loopback, and below {FIRST_FREE_PORT}, to listen needs a key with the scope admin");
        Err(Error::new(ErrorKind::PermissionDenied, "expose", message).with("address", listen).with("key", &self.name))
    }

    /// Refuses what reaches around the wall of a sandbox, or to where the owner alone may go, to who may not use the host itself.
    pub(crate) fn allow(&self, spec: &SandboxSpec, isolation: Isolation, is_elsewhere: bool) -> Result<()> {
        let refused = |what: &str| {
            Err(Error::new(ErrorKind::PermissionDenied, "create", format!("{what} need a key with the scope admin"))
                .with("key", &self.name))
        };
        match self.scope {
            Scope::Admin => Ok(()),
            _ if !spec.volumes.is_empty() => refused("folders of the host"),
            _ if !spec.secrets.is_empty() => refused("secrets"),
            _ if is_elsewhere => refused("sandboxes on other hosts"),
            _ if isolation == Isolation::None => refused("sandboxes without a wall"),
            _ => Ok(()),
        }
    }

    /// Refuses a network that reaches the host itself, or what the host alone can reach, to who may not use the host. What its owner has as the default,
    /// `usual`, everybody may have.
    pub(crate) fn allow_network(&self, network: &Network, usual: &Network) -> Result<()> {
        let Some(policy) = network.policy().filter(|_| self.scope < Scope::Admin && network != usual) else { return Ok(()) };
        match policy.beyond_the_internet(is_own) {
            None => Ok(()),
            Some(rule) => {
                let message = "rules about addresses that are not the internet's need a key with the scope admin";
                Err(Error::new(ErrorKind::PermissionDenied, "network", message).with("key", &self.name).with("rule", rule))
            }
        }
    }
}

impl Runtime {
    /// Makes a key. With it comes its secret, which is kept nowhere: the ledger has its SHA-256, which is enough for a secret of 256 random bits.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; `InvalidInput` for a bad one.
    pub fn create_key(&self, new: &NewKey) -> Result<(KeySummary, String)> {
        check_name(&new.name)?;
        let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::<32>()?));
        let now = clock::now_ms();
        let expires_ms = new.ttl.map(|ttl| now.saturating_add(clock::millis(ttl)));
        let NewKey { name, scope, max_sandboxes, .. } = new.clone();
        let summary = KeySummary { name, scope, max_sandboxes, sandboxes: 0, created_ms: now, expires_ms };
        self.deed("key-create")
            .at(format!("{} {}", summary.name, summary.scope))
            .end(self.ledger().insert_key(&summary, &digest(&secret)))?;
        Ok((summary, secret))
    }

    /// The keys, the oldest first; those that have expired too.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn keys(&self) -> Result<Vec<KeySummary>> {
        self.ledger().keys()
    }

    /// Removes a key, which opens nothing from then on. Sandboxes made with it stay, as nobody's in particular.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove_key(&self, name: &str) -> Result<()> {
        self.deed("key-remove").at(name).end(self.ledger().delete_key(name))
    }

    /// Who has this secret; `None` when it is no key's, or that of one that has expired.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn holder_of(&self, secret: &str) -> Result<Option<Holder>> {
        if !secret.starts_with(PREFIX) {
            return Ok(None);
        }
        self.ledger().key_of(&digest(secret), clock::now_ms())
    }

    /// This runtime as a key's holder has it: what is made belongs to the key, counts against its limit, and what belongs to others is not there. What the
    /// holder's scope forbids is for the caller to refuse, but for what reaches around the walls.
    #[must_use]
    pub fn on_behalf_of(&self, holder: Holder) -> Self {
        Self { holder: Some(Arc::new(holder)), ..self.clone() }
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use sandbar_core::Secrets;

    use super::*;

    #[test]
    fn secrets_are_for_those_who_may_use_the_host() {
        let secrets = Secrets { vault: None, list: vec!["T=given@api.test".parse().unwrap()] };
        let spec = SandboxSpec { secrets, ..SandboxSpec::default() };
        let allow = |scope, spec: &SandboxSpec| Holder { key: 1, name: "ci".to_owned(), scope }.allow(spec, Isolation::Namespaces, false);
        for scope in [Scope::Read, Scope::Use, Scope::Manage] {
            assert_eq!(allow(scope, &spec).unwrap_err().kind(), ErrorKind::PermissionDenied, "{scope}");
            allow(scope, &SandboxSpec::default()).unwrap();
        }
        allow(Scope::Admin, &spec).unwrap();
    }
}
