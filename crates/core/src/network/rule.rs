use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::{DomainName, NamePattern, address::is_special_network};
use crate::{Error, ErrorKind};

/// What a rule does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It may be reached.
    Allow,
    /// It is refused.
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Everything.
    Any,
    /// By the name that is asked for.
    Name(NamePattern),
    /// By the address that is really connected to.
    Addresses(IpNet),
}

/// Which ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Ports {
    /// All of them.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Whether `port` is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// How something is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A TCP connection.
    Tcp,
    /// UDP datagrams.
    Udp,
    /// Nothing but asking whether the name exists and what its addresses are.
    Dns,
}

impl Protocol {
    /// The word in a rule.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Dns => "dns",
        }
    }
}

/// One line of a policy: `allow=example.com:443/tcp`.
///
/// Written `ACTION=TARGET[:PORTS][/PROTOCOL]`. The target is `*`, a name, `*.NAME`, an address or a network (`10.0.0.0/8`; IPv6 in brackets if ports
/// follow). Ports are one (`443`), a range (`8000-8099`) or, without them, all. The protocol is `tcp`, `udp` or `dns`; without one, TCP and UDP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// What it is about.
    pub target: Target,
    /// On which ports.
    pub ports: Ports,
    /// By which protocol; `None` is TCP and UDP.
    pub protocol: Option<Protocol>,
}

impl Rule {
    /// Whether it speaks of this port by this protocol.
    pub fn covers(&self, protocol: Protocol, port: u16) -> bool {
        self.ports.contains(port) && self.protocol.is_none_or(|own| own == protocol)
    }

    /// Whether the addresses that it speaks of are listed by it where they are not the internet's: it is about a single address, or about a network that is
    /// special as a whole. One that has the internet in it speaks of the internet.
    pub fn lists(&self) -> bool {
        match &self.target {
            Target::Addresses(network) => network.prefix_len() == network.max_prefix_len() || is_special_network(network),
            Target::Any | Target::Name(_) => false,
        }
    }

    /// Reads what follows the action.
    pub(super) fn parse(action: Action, text: &str) -> Result<Self, Error> {
        let refused = |why: String| Error::new(ErrorKind::InvalidInput, "network rule", why).with("rule", format!("{text:?}"));
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, Some(Protocol::Tcp)),
            Some((rest, "udp")) => (rest, Some(Protocol::Udp)),
            Some((rest, "dns")) => (rest, Some(Protocol::Dns)),
            Some((_, word)) if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_digit() || b":-]".contains(&byte)) => {
                return Err(refused(format!("expected tcp, udp or dns, not {word:?}")));
            }
            _ => (text, None),
        };
        let (target, ports) = split_ports(rest);
        let ports = match ports {
            Some(ports) => parse_ports(ports).ok_or_else(|| refused(format!("{ports:?} is no port and no range of ports")))?,
            None => Ports::ALL,
        };
        if protocol == Some(Protocol::Dns) && ports != Ports::ALL {
            return Err(refused("a rule about questions has no ports".to_owned()));
        }
        let target = parse_target(target).map_err(|error| refused(error.message().to_owned()))?;
        if protocol == Some(Protocol::Dns) && matches!(target, Target::Addresses(_)) {
            return Err(refused("a rule about questions needs a name".to_owned()));
        }
        Ok(Self { action, target, ports, protocol })
    }
}

/// Parts the target from the ports; an IPv6 address has colons of its own, so there they need brackets.
fn split_ports(text: &str) -> (&str, Option<&str>) {
    if let Some((target, after)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (target, after.strip_prefix(':').or((!after.is_empty()).then_some(after)));
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => (text, None),
        Some((target, ports)) => (target, Some(ports)),
        None => (text, None),
    }
}

fn parse_ports(text: &str) -> Option<Ports> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    // Only digits: `parse` would take a sign as well.
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let ports = Ports { first: number(first)?, last: number(last)? };
    (ports.first <= ports.last).then_some(ports)
}

fn parse_target(text: &str) -> Result<Target, Error> {
    if text == "*" {
        return Ok(Target::Any);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Target::Addresses(canonical(IpNet::from(address))));
    }
    match text.parse::<IpNet>() {
        Ok(network) if network.trunc() == network => Ok(Target::Addresses(canonical(network))),
        Ok(network) => {
            Err(Error::new(ErrorKind::InvalidInput, "network rule", format!("the network of that length is {}", network.trunc())))
        }
        Err(_) => Ok(Target::Name(text.parse()?)),
    }
}

/// An IPv4 network in IPv6's clothes is an IPv4 network: that is how addresses are compared.
fn canonical(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(six) if six.prefix_len() >= 96 => {
            match six.network().to_ipv4_mapped().map(|four| IpNet::new(four.into(), six.prefix_len() - 96)) {
                Some(Ok(four)) => four,
                _ => network,
            }
        }
        _ => network,
    }
}

impl Target {
    /// Whether it speaks of something that was asked for by this name and would be reached at this address.
    pub fn matches(&self, name: Option<&DomainName>, address: Option<IpAddr>) -> bool {
        match self {
            Self::Any => true,
            Self::Name(pattern) => name.is_some_and(|name| pattern.matches(name)),
            Self::Addresses(network) => address.is_some_and(|address| network.contains(&address.to_canonical())),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.ports != Ports::ALL;
        f.write_str(match self.action {
            Action::Allow => "allow=",
            Action::Deny => "deny=",
        })?;
        match &self.target {
            Target::Any => f.write_str("*")?,
            Target::Name(pattern) => pattern.fmt(f)?,
            Target::Addresses(network) => {
                let whole = network.prefix_len() == network.max_prefix_len();
                let text = if whole { network.addr().to_string() } else { network.to_string() };
                if ports && network.addr().is_ipv6() { write!(f, "[{text}]")? } else { f.write_str(&text)? }
            }
        }
        match self.ports {
            Ports::ALL => {}
            Ports { first, last } if first == last => write!(f, ":{first}")?,
            Ports { first, last } => write!(f, ":{first}-{last}")?,
        }
        self.protocol.map_or(Ok(()), |protocol| write!(f, "/{}", protocol.name()))
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(rest) = text.strip_prefix("allow=") {
            return Self::parse(Action::Allow, rest);
        }
        match text.strip_prefix("deny=") {
            Some(rest) => Self::parse(Action::Deny, rest),
            None => {
                Err(Error::new(ErrorKind::InvalidInput, "network rule", "expected allow=… or deny=…").with("rule", format!("{text:?}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_written_as_it_was_read() {
        for text in [
            "allow=*",
            "deny=*:25",
            "allow=example.com",
            "allow=*.example.com:443/tcp",
            "allow=example.com/dns",
            "deny=10.0.0.0/8",
            "allow=10.1.2.3:8000-8099",
            "allow=10.0.0.0/8:53/udp",
            "deny=fd00::/8",
            "allow=[fd00::/8]:22/tcp",
            "allow=[2606:4700::1111]:443",
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        for (text, written) in
            [("allow=[::1]", "allow=::1"), ("allow=::ffff:10.0.0.0/104", "allow=10.0.0.0/8"), ("allow=Example.COM.", "allow=example.com")]
        {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "example.com",
            "allow",
            "allow=",
            "permit=a.com",
            "allow=a.com:",
            "allow=a.com:0x50",
            "allow=a.com:+80",
            "allow=a.com:90-80",
            "allow=a.com:65536",
            "allow=a.com/sctp",
            "allow=a.com/",
            "allow=10.0.0.1/8",
            "allow=10.0.0.0/33",
            "allow=[fd00::1]x",
            "allow=a.com:53/dns",
            "allow=10.0.0.0/8/dns",
            "allow=300.1.1.1",
            "allow=a b",
            "allow=https://a.com",
            "allow=a.com/path",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text:?} was taken");
        }
    }
}
