//! How everything that would leave ends at the agent: every address is one of the loopback device's, outbound TCP and DNS are redirected, and other
//! datagrams are diverted.
//!
//! There is no other device, so what is not redirected cannot leave either: it is delivered here, where nobody listens. Numbers are those of
//! linux/rtnetlink.h and linux/netfilter/nf_tables.h.

use std::io;

use super::{
    netlink::{Attributes, Messages},
    tables,
};

/// The name of the table, for whoever looks.
const TABLE: &str = "sandbar";
const NAT: &str = "leaving";
const FILTER: &str = "refused";
const DIVERTED: &str = "diverted";

/// `NFPROTO_INET`, `AF_INET`, `AF_INET6`.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// `NF_INET_PRE_ROUTING` and `NF_INET_LOCAL_OUT`.
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
/// What packets of the agent's own have, which go where they are to.
pub(super) const MARK: u32 = 0x5a4d_4241;
/// `NFT_REG_1` and the verdict's register.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// How far the kernel could be brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Connections and questions are redirected, and other datagrams diverted.
    Diverted,
    /// Connections and questions are redirected.
    Redirected,
    /// Every address is local, and that is all: there is no packet filter.
    Local,
}

/// Where what would leave is sent to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// The listener for connections.
    pub(super) connections: u16,
    /// The DNS server's, for datagrams and connections.
    pub(super) questions: u16,
    /// The socket for other datagrams, where there is one.
    pub(super) datagrams: Option<u16>,
}

/// Makes every address local, and redirects as far as the kernel can. Needs `CAP_NET_ADMIN` over the network namespace, and `CAP_NET_RAW` where the packet filter
/// is the older one.
///
/// # Errors
/// When addresses cannot be made local, or a packet filter that is there refuses its rules.
pub(super) fn install(ports: Ports) -> io::Result<Way> {
    route(IPV4, &[0; 4]).map_err(|error| told("the IPv4 route", error))?;
    match route(IPV6, &[0; 16]) {
        // A kernel without IPv6.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES)) => {}
        other => other.map_err(|error| told("the IPv6 route", error))?,
    }
    if ports.datagrams.is_some() && rules(ports).to_filter().is_ok() {
        return Ok(Way::Diverted);
    }
    // All of them are taken, or none.
    let ports = Ports { datagrams: None, ..ports };
    match rules(ports).to_filter() {
        Err(error) if is_absent(&error) => {}
        other => return other.map(|()| Way::Redirected).map_err(|error| told("the packet rules", error)),
    }
    match tables::install(ports) {
        Err(error) if is_absent(&error) => return Ok(Way::Local),
        other => other.map_err(|error| told("the packet rules", error))?,
    }
    // gVisor, whose routes do not make addresses local either. What a prefix of its loopback device's covers is local, and two cover everything; of IPv6
    // what is redirected is, and the rest is lost.
    for prefix in [[1, 0, 0, 1], [129, 0, 0, 1]] {
        address(prefix).map_err(|error| told("an IPv4 address", error))?;
    }
    Ok(Way::Redirected)
}

/// Lets a kernel of the sandbox's own remember as many redirected connections and questions as a host's does. One with little memory would remember so few of them
/// (one for each 128 KiB, since Linux 5.15) that what comes beyond is dropped, and waits for a minute where it is to be answered at once. A kernel that does not redirect has no such setting.
pub(super) fn remember_many() {
    /// Some 320 bytes each, when they are there: a connection takes one, and a question for up to two minutes.
    const MOST: u32 = 65_536;
    const BUCKETS: u32 = 8192;
    for (name, value) in [("buckets", BUCKETS), ("max", MOST)] {
        let setting = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        let is_less = std::fs::read_to_string(&setting).is_ok_and(|now| now.trim().parse().is_ok_and(|now: u32| now < value));
        if is_less {
            let _ = std::fs::write(setting, value.to_string());
        }
    }
}

/// Whether an error says that the kernel has no such packet filter, or not all of it: the whole, a family or an option of its, a table, a kind of chain or a target. A
/// right that is missing, or rules that it does not understand, are none of these.
fn is_absent(error: &io::Error) -> bool {
    const ABSENT: [i32; 5] = [libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::ENOPROTOOPT, libc::ENOENT];
    error.raw_os_error().is_some_and(|number| ABSENT.contains(&number))
}

fn told(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} cannot be set: {error}"))
}

/// The loopback device is always the first of its namespace.
const LOOPBACK: u32 = 1;

/// `ip route add local default dev lo`.
fn route(family: u8, everything: &[u8]) -> io::Result<()> {
    const NEW_ROUTE: u16 = 24;
    /// `RTA_DST`, which gVisor wants, and `RTA_OIF`.
    const DESTINATION: u16 = 1;
    const DEVICE: u16 = 4;
    // `struct rtmsg`: family, lengths of destination and source, tos, table main (254), protocol boot (3), scope host (254), type local (2), flags.
    let fixed = [family, 0, 0, 0, 254, 3, 254, 2, 0, 0, 0, 0];
    let mut messages = Messages::default();
    messages.add(NEW_ROUTE, &fixed, |attributes| {
        attributes.bytes(DESTINATION, everything).bytes(DEVICE, &LOOPBACK.to_ne_bytes());
    });
    messages.to_routes()
}

/// `ip address add …/1 dev lo`.
fn address(address: [u8; 4]) -> io::Result<()> {
    const NEW_ADDRESS: u16 = 20;
    // `struct ifaddrmsg`: family, length of the prefix, flags, scope, device.
    let mut fixed = vec![IPV4, 1, 0, 0];
    fixed.extend(LOOPBACK.to_ne_bytes());
    let mut messages = Messages::default();
    messages.add(NEW_ADDRESS, &fixed, |attributes| {
        // `IFA_LOCAL` and `IFA_ADDRESS`.
        attributes.bytes(2, &address).bytes(1, &address);
    });
    messages.to_routes()
}

fn rules(ports: Ports) -> Messages {
    const BATCH_BEGIN: u16 = 0x10;
    const BATCH_END: u16 = 0x11;
    const NEW_TABLE: u16 = 10 << 8;
    // `struct nfgenmsg`: family, version, subsystem with the highest byte first.
    let (batch, own) = ([0, 0, 0, 10], [INET, 0, 0, 0]);
    let mut messages = Messages::default();
    messages.bracket(BATCH_BEGIN, &batch);
    messages.add(NEW_TABLE, &own, |attributes| {
        attributes.text(1, TABLE);
    });
    chain(&mut messages, NAT, "nat", OUTPUT, -100);
    chain(&mut messages, FILTER, "filter", OUTPUT, 0);
    let mut chains = vec![NAT, FILTER];
    if ports.datagrams.is_some() {
        // Where what has left comes in again, by the only device that there is.
        chain(&mut messages, DIVERTED, "filter", PREROUTING, -150);
        chains.push(DIVERTED);
    }
    for name in chains {
        rule(&mut messages, name, |expressions| {
            expressions.family(IPV4).load(Header::Network, 16, 4).mask(&[255, 0, 0, 0]).is(&[127, 0, 0, 0]).accept();
        });
        let mut localhost = [0; 16];
        localhost[15] = 1;
        rule(&mut messages, name, |expressions| {
            expressions.family(IPV6).load(Header::Network, 24, 16).is(&localhost).accept();
        });
        // Whoever answers for an address outside answers from it.
        rule(&mut messages, name, |expressions| expressions.marked(MARK).accept());
    }
    if let Some(port) = ports.datagrams {
        rule(&mut messages, DIVERTED, |expressions| expressions.protocol(UDP).divert(port));
    }
    for protocol in [UDP, TCP] {
        rule(&mut messages, NAT, |expressions| {
            expressions.protocol(protocol).load(Header::Transport, 2, 2).is(&53_u16.to_be_bytes()).redirect(ports.questions);
        });
    }
    rule(&mut messages, NAT, |expressions| {
        expressions.protocol(TCP).redirect(ports.connections);
    });
    // The kernel would answer these itself, for every address.
    for (protocol, echo_request) in [(ICMP, 8), (ICMPV6, 128)] {
        rule(&mut messages, FILTER, |expressions| {
            expressions.protocol(protocol).load(Header::Transport, 0, 1).is(&[echo_request]).reject();
        });
    }
    messages.bracket(BATCH_END, &batch);
    messages
}

fn chain(messages: &mut Messages, name: &str, kind: &str, place: u32, priority: i32) {
    const NEW_CHAIN: u16 = 10 << 8 | 3;
    messages.add(NEW_CHAIN, &[INET, 0, 0, 0], |attributes| {
        attributes.text(1, TABLE).text(3, name);
        attributes.nest(4, |hook| {
            hook.number(1, place).number(2, priority.cast_unsigned());
        });
        attributes.text(7, kind);
    });
}

fn rule(messages: &mut Messages, chain: &str, expressions: impl FnOnce(&mut Expressions<'_, '_>)) {
    const NEW_RULE: u16 = 10 << 8 | 6;
    messages.add(NEW_RULE, &[INET, 0, 0, 0], |attributes| {
        attributes.text(1, TABLE).text(2, chain).nest(4, |list| expressions(&mut Expressions(list)));
    });
}

/// A header of a packet, by its number in rules.
#[derive(Clone, Copy)]
enum Header {
    Network = 1,
    Transport = 2,
}

/// The expressions of one rule; each goes on only if the one before it was true.
struct Expressions<'a, 'b>(&'a mut Attributes<'b>);

impl Expressions<'_, '_> {
    fn one(&mut self, name: &str, data: impl FnOnce(&mut Attributes)) -> &mut Self {
        self.0.nest(1, |element| {
            element.text(1, name).nest(2, data);
        });
        self
    }

    fn meta(&mut self, key: u32) -> &mut Self {
        self.one("meta", |data| {
            data.number(1, REGISTER).number(2, key);
        })
    }

    /// Of this family.
    fn family(&mut self, family: u8) -> &mut Self {
        const FAMILY: u32 = 15;
        self.meta(FAMILY).is(&[family])
    }

    /// Of this transport.
    fn protocol(&mut self, protocol: u8) -> &mut Self {
        const PROTOCOL: u32 = 16;
        self.meta(PROTOCOL).is(&[protocol])
    }

    /// With this mark.
    fn marked(&mut self, mark: u32) -> &mut Self {
        const MARKED: u32 = 3;
        self.meta(MARKED).is(&mark.to_ne_bytes())
    }

    fn load(&mut self, header: Header, offset: u32, length: u32) -> &mut Self {
        self.one("payload", |data| {
            data.number(1, REGISTER).number(2, header as u32).number(3, offset).number(4, length);
        })
    }

    fn mask(&mut self, mask: &[u8]) -> &mut Self {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        self.one("bitwise", |data| {
            data.number(1, REGISTER).number(2, REGISTER).number(3, length);
            data.nest(4, |value| {
                value.bytes(1, mask);
            });
            data.nest(5, |value| {
                value.bytes(1, &vec![0; mask.len()]);
            });
        })
    }

    fn is(&mut self, value: &[u8]) -> &mut Self {
        const EQUAL: u32 = 0;
        self.one("cmp", |data| {
            data.number(1, REGISTER).number(2, EQUAL).nest(3, |own| {
                own.bytes(1, value);
            });
        })
    }

    fn accept(&mut self) {
        self.one("immediate", |data| {
            data.number(1, VERDICT).nest(2, |own| {
                own.nest(2, |verdict| {
                    verdict.number(1, ACCEPT);
                });
            });
        });
    }

    fn redirect(&mut self, port: u16) {
        self.one("immediate", |data| {
            data.number(1, REGISTER).nest(2, |own| {
                own.bytes(1, &port.to_be_bytes());
            });
        });
        self.one("redir", |data| {
            // `NF_NAT_RANGE_PROTO_SPECIFIED`.
            data.number(1, REGISTER).number(3, 2);
        });
    }

    /// Gives it as it is to the transparent socket with this port of the loopback address, if there is one.
    fn divert(&mut self, port: u16) {
        self.one("immediate", |data| {
            data.number(1, REGISTER).nest(2, |own| {
                own.bytes(1, &port.to_be_bytes());
            });
        });
        self.one("tproxy", |data| {
            // `NFPROTO_UNSPEC`: whichever family it is of.
            data.number(1, 0).number(3, REGISTER);
        });
    }

    fn reject(&mut self) {
        const ICMPX: u32 = 2;
        const ADMINISTRATIVELY_PROHIBITED: u8 = 3;
        self.one("reject", |data| {
            data.number(1, ICMPX).bytes(2, &[ADMINISTRATIVELY_PROHIBITED]);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_that_is_missing_is_no_packet_filter_that_is_missing() {
        for number in [libc::EPROTONOSUPPORT, libc::EOPNOTSUPP, libc::ENOPROTOOPT, libc::ENOENT] {
            assert!(is_absent(&io::Error::from_raw_os_error(number)), "{number}");
        }
        for number in [libc::EPERM, libc::EACCES, libc::EINVAL, libc::ENOMEM, libc::EBUSY] {
            assert!(!is_absent(&io::Error::from_raw_os_error(number)), "{number}");
        }
        assert!(!is_absent(&io::ErrorKind::NotFound.into()));
    }
}
