//! Names of images, as people type them and as the index keeps them.

use std::fmt;

use sandbar_core::{Error, ErrorKind, Result};

use super::Digest;

const OPERATION: &str = "image name";

/// The name of the image that is made of the host.
pub const HOST: &str = "host";

/// The name of an image: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`.
///
/// The first component is a registry only if it has a dot or a port, or is `localhost`; a name without one is a local
/// name, and never means some registry that nobody named. A missing tag is `latest`, unless a digest is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    registry: Option<String>,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageName {
    /// Reads a name.
    ///
    /// # Errors
    /// `InvalidInput`, with what is wrong about it.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::new(ErrorKind::InvalidInput, OPERATION, format!("not an image name: {why}")).with("name", format!("{text:?}"))
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|error| bad(error.message()))?)),
            None => (text, None),
        };
        let path = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match rest[path..].split_once(':') {
            Some((last, tag)) => (&rest[..path + last.len()], Some(tag)),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("a tag has up to 128 letters, digits, dots, dashes and underscores, and begins with neither dot nor dash"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => (Some(first), rest),
            _ => (None, path),
        };
        if let Some(registry) = registry
            && !is_registry(registry)
        {
            return Err(bad("the registry is not HOST or HOST:PORT"));
        }
        if repository.is_empty() || repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(bad("expected lower-case letters and digits, separated by dots, dashes, underscores and slashes"));
        }
        let mut name = Self { registry: registry.map(str::to_owned), repository: repository.to_owned(), tag, digest };
        if name.registry.is_some() {
            // A registry may have rules of its own about names; the client library knows them.
            let reference = name.reference()?;
            name.repository = reference.repository().to_owned();
            name.registry = Some(reference.registry().to_owned());
        }
        Ok(name)
    }

    /// The registry, if the name has one.
    pub fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }

    /// The digest, if the name has one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Whether it would be taken for the image [`HOST`].
    pub(super) fn is_host(&self) -> bool {
        self.registry.is_none() && self.repository == HOST
    }

    /// The name under which the index keeps it: without a digest if there is a tag.
    pub(super) fn key(&self) -> String {
        match &self.tag {
            Some(tag) => format!("{}:{tag}", self.path()),
            None => self.to_string(),
        }
    }

    /// The same name in the client library's form.
    pub(super) fn reference(&self) -> Result<oci_client::Reference> {
        self.to_string().parse().map_err(|error| {
            Error::new(ErrorKind::InvalidInput, OPERATION, "not the name of an image in a registry").with("name", self).with_source(error)
        })
    }

    fn path(&self) -> String {
        match &self.registry {
            Some(registry) => format!("{registry}/{}", self.repository),
            None => self.repository.clone(),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// The hexadecimal digits of a text that may be an image's id or the beginning of one: `sha256:…` or bare.
pub(super) fn id_prefix(text: &str) -> Option<&str> {
    let (least, hex) = match text.strip_prefix("sha256:") {
        Some(hex) => (1, hex),
        // Shorter ones are words.
        None => (4, text),
    };
    let digits = hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (digits && (least..=64).contains(&hex.len())).then_some(hex)
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

fn is_component(component: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    component.bytes().next().is_some_and(inner)
        && component.bytes().last().is_some_and(inner)
        && component.bytes().all(|byte| inner(byte) || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> String {
        ImageName::parse(text).unwrap().key()
    }

    #[test]
    fn a_name_without_a_registry_stays_local() {
        let name = ImageName::parse("debian").unwrap();
        assert_eq!((name.registry(), name.key()), (None, "debian:latest".to_owned()));
        assert_eq!(key("team/tools:v1"), "team/tools:v1");
    }

    #[test]
    fn a_registry_has_a_dot_a_port_or_is_localhost() {
        for (text, registry) in [
            ("localhost/a", "localhost"),
            ("localhost:5000/a/b:c", "localhost:5000"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000"),
            ("r.example/a", "r.example"),
        ] {
            assert_eq!(ImageName::parse(text).unwrap().registry(), Some(registry), "{text}");
        }
    }

    #[test]
    fn a_digest_stands_for_the_tag_unless_both_are_given() {
        let digest = Digest::of(b"x");
        assert_eq!(key(&format!("r.example/a@{digest}")), format!("r.example/a@{digest}"));
        let both = ImageName::parse(&format!("r.example/a:t@{digest}")).unwrap();
        assert_eq!((both.key(), both.digest()), ("r.example/a:t".to_owned(), Some(digest)));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in
            ["", "A", "a//b", "/a", "a/", "a:", "a:-x", "a b", "../a", "a@sha256:12", "r.example:0/a", "-a", "a.", "r.example/A", "a:b/c:d"]
        {
            assert_eq!(ImageName::parse(text).unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
    }

    #[test]
    fn an_id_is_hexadecimal() {
        assert_eq!(id_prefix("sha256:a"), Some("a"));
        assert_eq!(id_prefix("beef"), Some("beef"));
        for text in ["abc", "sha256:", "latest", "BEEF", "sha256:xyz"] {
            assert_eq!(id_prefix(text), None, "{text}");
        }
    }
}
