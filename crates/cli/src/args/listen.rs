use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// `ADDRESS:PORT`, or only `PORT`: then on 127.0.0.1, so that nothing is open to the network unless it was asked for.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.strip_prefix("localhost:")
        .and_then(|port| port.parse().ok())
        .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
        .or_else(|| text.parse().ok())
        .ok_or_else(|| format!("expected ADDRESS:PORT, such as 127.0.0.1:8080, not {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_port_is_on_loopback() {
        assert_eq!(listen("8080").unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(listen("localhost:1").unwrap().to_string(), "127.0.0.1:1");
        assert_eq!(listen("0.0.0.0:80").unwrap().to_string(), "0.0.0.0:80");
        assert_eq!(listen("[::1]:80").unwrap().to_string(), "[::1]:80");
        for bad in ["", ":80", "80:", "host:80", "1.2.3.4", "65536", "::1"] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }
}
