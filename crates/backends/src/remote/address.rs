use std::{fmt, net::IpAddr, str::FromStr};

use http::Uri;
use sandbar_core::{Error, ErrorKind, Result};

use super::provider::AUTO;

/// How another sandbar is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    /// A server on this machine, in the clear.
    Http,
    /// A server.
    Https,
    /// A login, by the user's own OpenSSH.
    Ssh,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Ssh => "ssh",
        }
    }

    /// The port where none is said; what `ssh` takes is its own configuration's affair.
    fn usual_port(self) -> Option<u16> {
        match self {
            Self::Http => Some(80),
            Self::Https => Some(443),
            Self::Ssh => None,
        }
    }
}

/// Where another sandbar is: `https://HOST[:PORT][/PROVIDER]`, `http://` the same on this machine alone, `ssh://[USER@]HOST[:PORT][/PROVIDER]`.
///
/// Displayed in one form whatever it was written like, since it names the provider in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    pub(super) scheme: Scheme,
    pub(super) user: Option<String>,
    /// Lower case; an IPv6 address without brackets.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// The provider there; its own choice when `None`.
    pub(super) provider: Option<String>,
}

impl Address {
    /// Whether a provider's name is an address.
    pub fn is_one(name: &str) -> bool {
        name.contains("://")
    }

    /// The same without the provider: whom one speaks to.
    #[must_use]
    pub fn origin(&self) -> Self {
        Self { provider: None, ..self.clone() }
    }

    /// Whether it says whom one speaks to and nothing of a provider there, which that host then chooses.
    pub fn leaves_the_choice(&self) -> bool {
        self.provider.as_deref().is_none_or(|name| name == AUTO)
    }

    /// Host and port as in a `Host` header.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// The port to connect to.
    pub(super) fn tcp_port(&self) -> u16 {
        self.port.or(self.scheme.usual_port()).unwrap_or_default()
    }

    /// Whether the name cannot be anybody but this machine.
    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.name())?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.authority())?;
        match &self.provider {
            Some(provider) => write!(f, "/{provider}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |message: &str| {
            Error::new(ErrorKind::InvalidInput, "remote", message)
                .with("value", format!("{text:?}"))
                .with_hint("https://HOST[:PORT][/PROVIDER] or ssh://[USER@]HOST[:PORT][/PROVIDER]")
        };
        let uri: Uri = text.parse().map_err(|error| bad("not an address").with_source(error))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some("ssh") => Scheme::Ssh,
            _ => return Err(bad("an address of another sandbar begins with https:// or ssh://")),
        };
        let authority = uri.authority().ok_or_else(|| bad("the address names no host"))?;
        let user = authority.as_str().rsplit_once('@').map(|(user, _)| user.to_owned());
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let plain = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        // What begins with a dash would be an option to `ssh`.
        if host.starts_with('-') || !(plain(&host) || host.parse::<IpAddr>().is_ok()) {
            return Err(bad("not a host name or address"));
        }
        if user.as_deref().is_some_and(|user| scheme != Scheme::Ssh || user.starts_with('-') || !plain(user)) {
            return Err(bad("a user is of ssh:// alone, and has letters, digits, - _ and ."));
        }
        let has_port = authority.as_str().len() > authority.as_str().rfind(authority.host()).unwrap_or_default() + authority.host().len();
        if has_port && authority.port_u16().is_none_or(|port| port == 0) {
            return Err(bad("not a port"));
        }
        let provider = Some(uri.path().trim_matches('/')).filter(|provider| !provider.is_empty()).map(str::to_owned);
        if uri.query().is_some() || provider.as_deref().is_some_and(|provider| !plain(provider)) {
            return Err(bad("after the host comes the name of a provider, and nothing else"));
        }
        let port = authority.port_u16().filter(|port| scheme.usual_port() != Some(*port));
        let address = Self { scheme, user, host, port, provider };
        if scheme == Scheme::Http && !address.is_loopback() {
            return Err(bad("http:// is for this machine alone: elsewhere the key could be read on its way"));
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_has_one_name() {
        for (text, name) in [
            ("https://Box.Example", "https://box.example"),
            ("https://box.example:443/", "https://box.example"),
            ("https://box:8443/firecracker", "https://box:8443/firecracker"),
            ("http://127.0.0.1:7700/container/", "http://127.0.0.1:7700/container"),
            ("http://[::1]:7700", "http://[::1]:7700"),
            ("ssh://me@box:2222/firecracker", "ssh://me@box:2222/firecracker"),
            ("ssh://box", "ssh://box"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), name, "{text}");
            assert_eq!(name.parse::<Address>().unwrap(), address, "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "box",
            "ftp://box",
            "https://",
            "https://user@box",
            "https://box?x=y",
            "https://box/a/b",
            "https://box:0",
            "https://box:99999",
            "http://box.example",
            "http://127.0.0.1.example",
            "ssh://-oProxyCommand=x",
            "ssh://-l@box",
            "ssh://a:b@box",
            "ssh://box/$(x)",
        ] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()).unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
