use std::{fmt, net::IpAddr, str::FromStr};

use super::{Action, DomainName, NetworkLimits, Protocol, Rule, Target, address::has_special, special_purpose};
use crate::{Error, ErrorKind};

/// Rules in order: the first that matches decides, and what none matches is refused, or with `open` at the end allowed.
///
/// Written `allow=pypi.org:443,*.pythonhosted.org:443,deny=*:25,open`: parts between commas, where one without `allow=` or `deny=` does what the one before it does.
///
/// [`NetworkLimits`] may stand among them, once each: `open,max-bytes=10G,max-connections=100`.
///
/// A rule about names or about everything never reaches an address that is not the internet's ([`special_purpose`]) or that is this machine's own, whatever a
/// name resolves to: that takes a rule that lists it ([`Rule::lists`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    open: bool,
    limits: NetworkLimits,
}

/// What somebody wants to reach.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// The name that was asked for, where it was one.
    pub name: Option<&'a DomainName>,
    /// The address that would be connected to.
    pub address: IpAddr,
    /// Whether that is an address of the machine that would connect.
    pub is_own: bool,
    /// The port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// Yes or no, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be reached.
    pub allowed: bool,
    /// The rule that decided, as written; `open` for what no rule matched and that end allowed, `None` where nothing allowed it.
    pub rule: Option<String>,
    /// The reason, in a few words.
    pub reason: String,
}

const NO_LIMITS: NetworkLimits = NetworkLimits { connections: None, bytes: None, rate: None };

impl Policy {
    /// These rules; what none of them matches is refused, or allowed if `open`.
    pub const fn new(rules: Vec<Rule>, open: bool) -> Self {
        Self { rules, open, limits: NO_LIMITS }
    }

    /// The internet.
    pub const fn open() -> Self {
        Self { rules: Vec::new(), open: true, limits: NO_LIMITS }
    }

    /// The rules, first to last.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether a rule allows datagrams by name of their protocol, so that a sandbox without them would not be what was asked for.
    pub fn names_udp(&self) -> bool {
        self.rules.iter().any(|rule| rule.action == Action::Allow && rule.protocol == Some(Protocol::Udp))
    }

    /// A rule that allows connections by name of ports, none of which is one of these.
    pub fn names_port_beside(&self, only: &[u16]) -> Option<&Rule> {
        self.rules.iter().find(|rule| {
            let is_of_connections = rule.protocol.is_none_or(|protocol| protocol == Protocol::Tcp);
            rule.action == Action::Allow && is_of_connections && !only.iter().any(|port| rule.ports.contains(*port))
        })
    }

    /// How much may pass.
    pub const fn limits(&self) -> NetworkLimits {
        self.limits
    }

    /// Whether something may be reached.
    pub fn decide(&self, destination: &Destination<'_>) -> Decision {
        let Destination { name, address, is_own, port, protocol } = *destination;
        let matching = self.rules.iter().find(|rule| rule.covers(protocol, port) && rule.target.matches(name, Some(address)));
        let deny = |rule: Option<String>, reason: String| Decision { allowed: false, rule, reason };
        let rule = match matching {
            Some(rule) if rule.action == Action::Deny => return deny(Some(rule.to_string()), "a rule refuses it".to_owned()),
            Some(rule) => rule.to_string(),
            None if self.open => "open".to_owned(),
            None => return deny(None, "no rule allows it".to_owned()),
        };
        if let Some(what) = special_purpose(address).or(is_own.then_some("this machine's own"))
            && !self.lists(destination)
        {
            return deny(Some(rule), format!("{address} is {what}, which only a rule with the address allows"));
        }
        Decision { allowed: true, rule: Some(rule), reason: "allowed".to_owned() }
    }

    /// Whether a rule lists the address, and none about addresses refuses it before.
    fn lists(&self, destination: &Destination<'_>) -> bool {
        let Destination { address, port, protocol, .. } = *destination;
        let mut about = self.rules.iter().filter(|rule| {
            matches!(rule.target, Target::Addresses(_)) && rule.covers(protocol, port) && rule.target.matches(None, Some(address))
        });
        about.find(|rule| rule.action == Action::Deny || rule.lists()).is_some_and(|rule| rule.action == Action::Allow)
    }

    /// The first rule that allows addresses which are not the internet's, or `is_own` of a single one that it allows.
    pub fn beyond_the_internet(&self, is_own: impl Fn(IpAddr) -> bool) -> Option<&Rule> {
        self.rules.iter().filter(|rule| rule.action == Action::Allow).find(|rule| match rule.target {
            Target::Addresses(network) => has_special(&network) || (rule.lists() && is_own(network.addr())),
            Target::Any | Target::Name(_) => false,
        })
    }

    /// Whether a name may be looked up at all: whether anything could be allowed that is asked for by it. A name that may not is never asked of anybody, so it
    /// carries nothing out. Rules with addresses allow no questions: for a name of theirs there is `allow=NAME/dns`.
    pub fn decide_name(&self, name: &DomainName) -> Decision {
        for rule in &self.rules {
            if matches!(rule.target, Target::Addresses(_)) || !rule.target.matches(Some(name), None) {
                continue;
            }
            let everything = rule.ports == super::Ports::ALL && rule.protocol.is_none_or(|protocol| protocol == Protocol::Dns);
            match rule.action {
                Action::Allow => return Decision { allowed: true, rule: Some(rule.to_string()), reason: "allowed".to_owned() },
                // One that refuses some ports leaves the others to the rules after it.
                Action::Deny if everything => {
                    return Decision { allowed: false, rule: Some(rule.to_string()), reason: "a rule refuses it".to_owned() };
                }
                Action::Deny => {}
            }
        }
        match self.open {
            true => Decision { allowed: true, rule: Some("open".to_owned()), reason: "allowed".to_owned() },
            false => Decision { allowed: false, rule: None, reason: "no rule allows it".to_owned() },
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = Some(self.limits.to_string()).filter(|limits| !limits.is_empty());
        let rules = self.rules.iter().map(ToString::to_string).chain(self.open.then(|| "open".to_owned()));
        f.write_str(&rules.chain(limits).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = |why: &str| Error::new(ErrorKind::InvalidInput, "network policy", why).with("policy", format!("{text:?}"));
        let mut policy = Self::default();
        let mut action = None;
        for part in text.split(',') {
            if let Some(read) = part.split_once('=').and_then(|(word, value)| policy.limits.read(word, value)) {
                read.map_err(refused)?;
                action = None;
                continue;
            }
            if policy.open {
                return Err(refused("open must be the last of the rules"));
            }
            let (own, rest) = match part.split_once('=') {
                Some(("allow", rest)) => (Some(Action::Allow), rest),
                Some(("deny", rest)) => (Some(Action::Deny), rest),
                Some(_) => return Err(refused("expected none, open, allow=…, deny=…, or max-connections=…, max-bytes=…, max-rate=…")),
                None if part == "open" => {
                    policy.open = true;
                    continue;
                }
                None if matches!(part, "none" | "default") => return Err(refused("none and default stand alone")),
                None => (action, part),
            };
            action = own;
            let Some(own) = own else { return Err(refused("expected none, open, allow=… or deny=…")) };
            policy.rules.push(Rule::parse(own, rest)?);
        }
        if policy.rules.is_empty() && !policy.open {
            return Err(refused("limits alone allow nothing: add open, or rules"));
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        text.parse().unwrap()
    }

    /// What the machine of these tests has.
    const OWN: [&str; 3] = ["93.184.217.1", "2606:4700::9", "10.1.0.1"];

    /// `NAME@ADDRESS:PORT`, or without the name.
    fn decide(policy: &Policy, text: &str) -> Decision {
        let (name, address) = text.split_once('@').map_or((None, text), |(name, address)| (Some(name.parse().unwrap()), address));
        let address: std::net::SocketAddr = address.parse().unwrap();
        let is_own = OWN.contains(&address.ip().to_canonical().to_string().as_str());
        policy.decide(&Destination { name: name.as_ref(), address: address.ip(), is_own, port: address.port(), protocol: Protocol::Tcp })
    }

    fn allows(rules: &str, text: &str) -> bool {
        decide(&policy(rules), text).allowed
    }

    #[test]
    fn a_rule_that_names_none_of_the_only_ports_is_found() {
        let beside = |rules: &str| policy(rules).names_port_beside(&[80, 443]).map(ToString::to_string);
        for rules in ["allow=a.com:5432", "allow=a.com:81-442/tcp", "allow=b.com,allow=a.com:22", "allow=[fd00::/8]:22/tcp"] {
            assert_eq!(beside(rules).as_deref(), rules.rsplit(',').next(), "{rules}");
        }
        for rules in
            ["open", "allow=a.com", "allow=a.com:443", "allow=a.com:400-500", "deny=*:25,open", "allow=a.com:123/udp", "allow=a.com/dns"]
        {
            assert_eq!(beside(rules), None, "{rules}");
        }
    }

    #[test]
    fn a_policy_is_written_as_it_was_read() {
        for text in ["open", "allow=a.com", "allow=a.com:443,allow=*.b.org,deny=10.0.0.0/8,open"] {
            assert_eq!(policy(text).to_string(), text);
        }
        assert_eq!(policy("allow=a.com,b.com:443,deny=c.com").to_string(), "allow=a.com,allow=b.com:443,deny=c.com");
        for text in ["", "a.com", "open,allow=a.com", "allow=a.com,", "allow=a.com,none", "net=a.com", "allow=a.com,open,open"] {
            assert!(text.parse::<Policy>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn limits_stand_among_the_rules() {
        let read = policy("max-rate=2M,allow=a.com,b.com,max-bytes=1G,max-connections=7,deny=c.com,open");
        let limits = NetworkLimits { connections: Some(7), bytes: Some(1 << 30), rate: Some(2 << 20) };
        assert_eq!((read.limits(), read.rules().len()), (limits, 3));
        let written = "allow=a.com,allow=b.com,deny=c.com,open,max-connections=7,max-bytes=1073741824,max-rate=2097152";
        assert_eq!((read.to_string().as_str(), policy(written)), (written, read));
        assert_eq!(policy("open,max-bytes=0").limits().bytes, Some(0));
        for text in [
            "max-bytes=1G",
            "open,max-bytes=",
            "open,max-bytes=1G,max-bytes=2G",
            "open,max-rate=1023",
            "open,max-connections=-1",
            "open,max-connections=1K",
            "allow=a.com,max-bytes=1G,b.com",
            "open,max-speed=1",
        ] {
            assert!(text.parse::<Policy>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn open_is_the_internet_and_nothing_else() {
        for address in ["8.8.8.8:53", "example.com@93.184.215.14:443", "[2606:4700::1111]:443"] {
            assert!(allows("open", address), "{address}");
        }
        for address in ["127.0.0.1:80", "169.254.169.254:80", "10.0.0.1:22", "[::1]:80", "[fd00::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert!(!allows("open", address), "{address}");
        }
        // A name that means such an address does not help.
        let decision = decide(&policy("open"), "rebind.example@169.254.169.254:80");
        assert!(!decision.allowed && decision.reason.contains("link-local"), "{decision:?}");
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = "deny=bad.example.com,allow=*.example.com:443,deny=*:25,open";
        assert!(!allows(rules, "bad.example.com@8.8.8.8:443"));
        assert!(allows(rules, "good.example.com@8.8.8.8:443"));
        assert!(!allows(rules, "mail.test@8.8.8.8:25"));
        let decision = decide(&policy(rules), "other.test@8.8.8.8:80");
        assert_eq!((decision.allowed, decision.rule.as_deref()), (true, Some("open")));
        assert_eq!(decide(&policy("allow=a.com"), "b.com@8.8.8.8:80").rule, None);
    }

    #[test]
    fn a_name_is_needed_where_a_rule_has_one() {
        assert!(!allows("allow=example.com", "93.184.215.14:443"));
        assert!(allows("allow=93.184.215.14", "93.184.215.14:443"));
    }

    #[test]
    fn a_listed_network_is_reached_by_address_and_by_an_allowed_name() {
        assert!(allows("allow=10.1.0.0/16", "10.1.2.3:80"));
        assert!(allows("allow=10.1.0.0/16", "[::ffff:10.1.2.3]:80"));
        assert!(allows("allow=git.corp,10.1.0.0/16", "git.corp@10.1.2.3:80"));
        assert!(!allows("allow=git.corp,10.1.0.0/16", "git.corp@10.2.2.3:80"));
        assert!(!allows("allow=git.corp,deny=10.1.2.0/24,allow=10.1.0.0/16", "git.corp@10.1.2.3:80"));
        assert!(!allows("allow=10.1.0.0/16:443", "10.1.2.3:80"));
    }

    #[test]
    fn a_network_that_has_the_internet_in_it_lists_nothing_else() {
        for rules in ["allow=0.0.0.0/0,::/0", "allow=0.0.0.0/1,128.0.0.0/1,::/1", "allow=::ffff:0:0/96,open", "allow=*"] {
            for address in ["127.0.0.1:80", "169.254.169.254:80", "10.0.0.1:22", "[::1]:80", "[fe80::1]:80", "[fd00:ec2::254]:80"] {
                assert!(!allows(rules, address), "{rules}: {address}");
            }
            assert!(!allows(rules, "93.184.217.1:80"), "{rules}");
        }
        assert!(allows("allow=0.0.0.0/0", "8.8.8.8:53") && allows("allow=::/0", "[2606:4700::1111]:53"));
        // What lists it may come after, and what refuses it in between.
        assert!(allows("allow=0.0.0.0/0,allow=10.0.0.0/8", "10.1.2.3:80"));
        assert!(!allows("allow=0.0.0.0/0,deny=10.1.0.0/16,allow=10.0.0.0/8", "10.1.2.3:80"));
    }

    #[test]
    fn an_address_of_the_machine_is_reached_only_where_it_is_listed() {
        for rules in ["open", "allow=*", "allow=a.com", "allow=93.184.217.0/24,2606:4700::/32,open"] {
            for address in ["a.com@93.184.217.1:80", "a.com@[2606:4700::9]:80", "a.com@[::ffff:93.184.217.1]:80"] {
                assert!(!allows(rules, address), "{rules}: {address}");
            }
            assert!(allows(rules, "a.com@93.184.217.2:80"), "{rules}");
        }
        let decision = decide(&policy("open"), "93.184.217.1:80");
        assert_eq!(decision.reason, "93.184.217.1 is this machine's own, which only a rule with the address allows");
        assert!(allows("allow=93.184.217.1", "93.184.217.1:80") && allows("allow=93.184.217.1,open", "a.com@93.184.217.1:80"));
        assert!(!allows("allow=93.184.217.1:443,open", "93.184.217.1:80"));
        // Private ranges are listed with whatever has an address there.
        assert!(allows("allow=10.1.0.0/16", "10.1.0.1:80"));
    }

    #[test]
    fn what_reaches_beyond_the_internet_is_found() {
        let beyond =
            |rules: &str| policy(rules).beyond_the_internet(|address| OWN.contains(&address.to_string().as_str())).map(ToString::to_string);
        for (rules, rule) in [
            ("open", None),
            ("allow=*,a.com,8.8.8.8,2606:4700::/32", None),
            ("deny=10.0.0.0/8,open", None),
            ("allow=a.com,127.0.0.0/8", Some("allow=127.0.0.0/8")),
            ("allow=169.254.169.254:80", Some("allow=169.254.169.254:80")),
            ("allow=0.0.0.0/0", Some("allow=0.0.0.0/0")),
            ("allow=8.8.8.8,93.184.217.1", Some("allow=93.184.217.1")),
            ("allow=::1", Some("allow=::1")),
        ] {
            assert_eq!(beyond(rules).as_deref(), rule, "{rules}");
        }
    }

    #[test]
    fn a_name_is_asked_only_where_something_could_be_allowed() {
        let asks = |rules: &str, name: &str| policy(rules).decide_name(&name.parse().unwrap()).allowed;
        assert!(
            asks("open", "a.com") && asks("allow=a.com:443", "a.com") && asks("allow=a.com/dns", "a.com") && asks("allow=*:443", "a.com")
        );
        assert!(!asks("allow=a.com", "b.com") && !asks("allow=10.0.0.0/8", "a.com") && !asks("allow=0.0.0.0/0", "secret.evil.com"));
        assert!(!asks("deny=a.com,open", "a.com") && asks("deny=a.com:25,open", "a.com") && asks("deny=10.0.0.0/8,open", "a.com"));
        assert!(!asks("deny=a.com/dns,open", "a.com") && asks("deny=a.com/udp,open", "a.com"));
        // Only asked: a connection needs more.
        assert!(!allows("allow=a.com/dns", "a.com@8.8.8.8:443"));
    }

    #[test]
    fn udp_is_allowed_apart_from_tcp() {
        let name = "a.com".parse().unwrap();
        let over = |rules: &str, protocol| {
            let address = "8.8.8.8".parse().unwrap();
            policy(rules).decide(&Destination { name: Some(&name), address, is_own: false, port: 443, protocol }).allowed
        };
        assert!(over("allow=a.com/udp", Protocol::Udp) && !over("allow=a.com/udp", Protocol::Tcp));
        assert!(over("allow=a.com", Protocol::Udp) && over("allow=a.com", Protocol::Tcp));
        assert!(policy("deny=a.com/udp,allow=b.com:123/udp").names_udp());
        assert!(!policy("deny=a.com/udp,allow=b.com,open").names_udp());
    }
}
