//! What a sandbox may reach over the network.
//!
//! | module | noun |
//! |---|---|
//! | `address` | addresses that are not the internet |
//! | `name` | a domain name, and a pattern of names |
//! | `rule` | one line of a policy |
//! | `limits` | how much may pass |
//! | `policy` | the lines together, and what they decide |
//! | `secret` | what is put into requests outside of the sandbox |

mod address;
mod limits;
mod name;
mod policy;
mod rule;
mod secret;

pub use address::special_purpose;
pub use limits::NetworkLimits;
pub use name::{DomainName, NamePattern};
pub use policy::{Decision, Destination, Policy};
pub use rule::{Action, Ports, Protocol, Rule, Target};
pub use secret::{PLACEHOLDER_PREFIX, Secret, SecretSource, SecretValue, Secrets};

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, ErrorKind, Feature};

/// What a sandbox may reach over the network. Written as on the command line: `none`, `open`, or rules (see [`Policy`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Network {
    /// The provider's own default: `None` everywhere but on `dangerous-host`, which can only be `Open` and says so.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The internet: everything but the host itself, by its public addresses too, link-local and private ranges. On a provider without a wall for the network, the host's
    /// network as it is.
    Open,
    /// What the rules allow.
    Rules(Policy),
}

impl Network {
    /// The features that this choice needs. Datagrams are needed where a rule names them; others are refused where they cannot be had.
    pub fn features(&self) -> impl Iterator<Item = Feature> + use<> {
        let own = match self {
            Self::Default => None,
            Self::None => Some(Feature::NetworkNone),
            Self::Open => Some(Feature::NetworkOpen),
            Self::Rules(_) => Some(Feature::NetworkRules),
        };
        own.into_iter().chain(self.needs_udp().then_some(Feature::NetworkUdp))
    }

    /// Whether a rule names datagrams.
    pub fn needs_udp(&self) -> bool {
        matches!(self, Self::Rules(policy) if policy.names_udp())
    }

    /// A rule that allows connections to ports none of which is among these, which are the only ones that can be reached; none where they are empty, which is all.
    pub fn needs_port_beside(&self, only: &[u16]) -> Option<Rule> {
        match self {
            Self::Rules(policy) if !only.is_empty() => policy.names_port_beside(only).cloned(),
            _ => None,
        }
    }

    /// What decides about connections, where there may be some.
    pub fn policy(&self) -> Option<Policy> {
        match self {
            Self::Default | Self::None => None,
            Self::Open => Some(Policy::open()),
            Self::Rules(policy) => Some(policy.clone()),
        }
    }
}

/// The refusal of rules that name UDP, where the agent has said why there is none.
pub fn no_datagrams_leave(why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "network", "a rule names udp, and datagrams cannot leave the sandbox").with("why", why).with_hint(
        "the kernel must have nft_tproxy: load it on the host (modprobe nft_tproxy), or for a virtual machine take in a kernel that has it (sandbar kernel import), and begin the sandbox anew; rules without /udp need none",
    )
}

/// The refusal of a rule that names a port, where the agent has said that these are the only ones that can be reached.
pub fn only_ports_leave(rule: &Rule, ports: &[u16]) -> Error {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    Error::new(ErrorKind::Unsupported, "network", "a rule names a port that connections cannot leave the sandbox to")
        .with("rule", rule)
        .with("ports", ports.join(" "))
        .with_hint("the sandbox's kernel has no packet filter that could redirect, so these ports are all: take in a kernel with nf_tables, nft_chain_nat and nft_redir (sandbar kernel import), and begin the sandbox anew; rules without a port need none")
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::None => f.write_str("none"),
            Self::Open => f.write_str("open"),
            Self::Rules(policy) => policy.fmt(f),
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "default" => Self::Default,
            "none" => Self::None,
            "open" => Self::Open,
            rules => Self::Rules(rules.parse()?),
        })
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
