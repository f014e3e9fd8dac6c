use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Characters of an id: no vowels and no look-alikes, so that ids spell nothing and read well aloud.
const ALPHABET: &[u8; 16] = b"bcdfghjkmnpqrstv";
/// 12 characters of 4 bits: 48 bits.
const LENGTH: usize = 12;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(value_type = String))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// An id made from 8 random bytes, which the caller gets from the operating system (this crate does no I/O).
            pub fn from_random(random: [u8; 8]) -> Self {
                let bits = u64::from_le_bytes(random);
                let text = (0..LENGTH).map(|index| ALPHABET[(bits >> (4 * index) & 15) as usize] as char);
                Self($prefix.chars().chain(text).collect())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let valid = text
                    .strip_prefix($prefix)
                    .is_some_and(|rest| rest.len() == LENGTH && rest.bytes().all(|byte| ALPHABET.contains(&byte)));
                if valid {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Error::new(ErrorKind::InvalidInput, "id", concat!("not a ", stringify!($name))).with("value", format!("{text:?}")))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id! {
    /// Names one sandbox for ever: `sb-` and twelve characters.
    SandboxId, "sb-"
}
id! {
    /// Names one checkpoint for ever: `cp-` and twelve characters.
    CheckpointId, "cp-"
}

/// Accepts a name that a user may give to a sandbox or a checkpoint.
///
/// One to 63 characters of `a-z A-Z 0-9 _ . -`, the first a letter or a digit; not of the form of an id.
///
/// # Errors
/// `InvalidInput`, with the rule.
pub fn check_name(name: &str) -> Result<()> {
    let first_is_plain = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let all_are_allowed = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    let is_like_an_id = name.parse::<SandboxId>().is_ok() || name.parse::<CheckpointId>().is_ok();
    if first_is_plain && all_are_allowed && !is_like_an_id && name.len() <= 63 {
        Ok(())
    } else {
        let rule = "a name has 1 to 63 characters of a-z A-Z 0-9 _ . -, begins with a letter or digit, and is not like an id";
        Err(Error::new(ErrorKind::InvalidInput, "name", rule).with("value", format!("{name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_parse_back() {
        let id = SandboxId::from_random([7; 8]);
        assert_eq!(id.as_str().len(), 15);
        assert_eq!(id.as_str().parse::<SandboxId>().unwrap(), id);
        assert!("sb-../../etc/pas".parse::<SandboxId>().is_err());
        assert!(id.as_str().parse::<CheckpointId>().is_err());
    }

    #[test]
    fn names_that_are_paths_ids_or_empty_are_refused() {
        for bad in ["", ".", "..", "a b", "a/b", "-x", "ä", SandboxId::from_random([1; 8]).as_str(), &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "web-1", "0.x_y"] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }
}
