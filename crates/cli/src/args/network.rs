use sandbar_core::Network;

/// `none` or `open`. Rules (`allow=…`) are a later piece of work, and are refused rather than widened or narrowed to something else.
pub(crate) fn network(text: &str) -> Result<Network, String> {
    match text {
        "none" => Ok(Network::None),
        "open" => Ok(Network::Open),
        _ if text.starts_with("allow=") => {
            Err("rules for what a sandbox may reach are not supported by this version; use none or open".to_owned())
        }
        _ => Err(format!("expected none or open, not {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_refused_and_not_ignored() {
        assert_eq!(network("none"), Ok(Network::None));
        assert_eq!(network("open"), Ok(Network::Open));
        assert!(network("allow=example.com:443").unwrap_err().contains("not supported"));
        assert!(network("").is_err());
    }
}
