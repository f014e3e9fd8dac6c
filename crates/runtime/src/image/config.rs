//! An image's configuration: its layers' digests, and what its commands begin with.

use std::collections::BTreeMap;

use oci_spec::image::{Arch, ImageConfiguration, Os};
use sandbar_core::{Error, ErrorKind, Result, User};
use serde::Serialize;

use super::{Digest, manifest};

const OPERATION: &str = "image configuration";

/// Where programs are looked for if the image does not say.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is used of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    /// The digests of the uncompressed layers, lowest first.
    pub(super) diff_ids: Vec<Digest>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: Option<String>,
    pub(super) user: Option<User>,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    /// When the image says that it was made, as it says it.
    pub(super) created: Option<String>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` for another platform's image.
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let config: ImageConfiguration = serde_json::from_slice(text)
            .map_err(|source| Error::new(ErrorKind::Corrupt, OPERATION, "this is not an image configuration").with_source(source))?;
        if config.os() != &Os::Linux || config.architecture() != &Arch::default() {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, "the image is not made for this host's platform")
                .with("host", manifest::platform())
                .with("image", format!("{}/{}", config.os(), config.architecture())));
        }
        let diff_ids = config.rootfs().diff_ids().iter().map(|digest| digest.parse()).collect::<Result<Vec<_>>>();
        let diff_ids = diff_ids.map_err(|error| {
            Error::new(ErrorKind::Corrupt, OPERATION, "a layer's digest in the image configuration is none").with_source(error)
        })?;
        if diff_ids.is_empty() {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, "the image has no layers"));
        }
        let created = config.created().clone();
        let config = config.config().clone().unwrap_or_default();
        let env = config.env().iter().flatten().filter_map(|entry| entry.split_once('='));
        let mut env: BTreeMap<_, _> =
            env.filter(|(name, _)| !name.is_empty()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        env.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
        Ok(Self {
            diff_ids,
            env,
            workdir: config.working_dir().clone().filter(|path| path.starts_with('/')),
            user: config.user().as_deref().filter(|user| !user.is_empty()).map(user).transpose()?,
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            created,
        })
    }

    /// The configuration of an image that came without one: these layers for this host's platform, no date, so that
    /// equal content is an equal image.
    pub(super) fn of_layers(diff_ids: &[Digest]) -> Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Document<'a> {
            architecture: String,
            os: String,
            config: BTreeMap<(), ()>,
            rootfs: RootFs<'a>,
        }
        #[derive(Serialize)]
        struct RootFs<'a> {
            r#type: &'static str,
            diff_ids: &'a [Digest],
        }
        let document = Document {
            architecture: Arch::default().to_string(),
            os: Os::Linux.to_string(),
            config: BTreeMap::new(),
            rootfs: RootFs { r#type: "layers", diff_ids },
        };
        serde_json::to_vec(&document)
            .map_err(|source| Error::new(ErrorKind::Internal, OPERATION, "the configuration cannot be written as JSON").with_source(source))
    }

    /// The layers to stack, lowest first: each digest once, at its highest place.
    ///
    /// overlayfs refuses the same folder twice, and images do repeat layers (an empty one, most often). The highest
    /// occurrence alone gives the same tree: what the lower one adds, the higher one adds again, above everything
    /// that could have hidden it.
    pub(super) fn stack(&self) -> Vec<Digest> {
        let mut stack = Vec::with_capacity(self.diff_ids.len());
        for diff_id in self.diff_ids.iter().rev() {
            if !stack.contains(diff_id) {
                stack.push(*diff_id);
            }
        }
        stack.reverse();
        stack
    }
}

/// `USER`, `UID`, `USER:GROUP`, `UID:GID` … A group by name goes with a user by name or number; it then is the one
/// that `/etc/passwd` gives that user, since only the sandbox can look it up.
fn user(text: &str) -> Result<User> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let numbers = user.parse::<u32>().is_ok() && group.is_some_and(|group| group.parse::<u32>().is_ok());
    if numbers { text } else { user }.parse().map_err(|source: Error| {
        Error::new(ErrorKind::Corrupt, OPERATION, "the user in the image configuration is none").with_source(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(config: &str, diff_ids: &[Digest]) -> Result<Config> {
        let diff_ids: Vec<_> = diff_ids.iter().map(|digest| format!("{:?}", digest.to_string())).collect();
        let text = format!(
            r#"{{"architecture": "{}", "os": "linux", "config": {config}, "rootfs": {{"type": "layers", "diff_ids": [{}]}}}}"#,
            Arch::default(),
            diff_ids.join(",")
        );
        Config::parse(text.as_bytes())
    }

    #[test]
    fn defaults_of_the_image_are_read() {
        let text =
            r#"{"Env": ["A=b=c", "PATH=/x", "bad", "=worse"], "WorkingDir": "/w", "User": "1000:1001", "Entrypoint": ["e"], "Cmd": ["c"]}"#;
        let config = parse(text, &[Digest::of(b"")]).unwrap();
        assert_eq!(config.env, BTreeMap::from([("A".to_owned(), "b=c".to_owned()), ("PATH".to_owned(), "/x".to_owned())]));
        assert_eq!(config.workdir.as_deref(), Some("/w"));
        assert_eq!(config.user, Some(User::Id { uid: 1000, gid: Some(1001) }));
        assert_eq!((config.entrypoint, config.cmd), (vec!["e".to_owned()], vec!["c".to_owned()]));
    }

    #[test]
    fn an_image_that_says_nothing_has_a_path_alone() {
        let config = parse("{}", &[Digest::of(b"")]).unwrap();
        assert_eq!(config.env, BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]));
        assert_eq!((config.workdir, config.user), (None, None));
        let config = parse(r#"{"Env": null, "WorkingDir": "", "User": "", "Entrypoint": null}"#, &[Digest::of(b"")]).unwrap();
        assert_eq!((config.workdir, config.user), (None, None));
    }

    #[test]
    fn users_come_in_all_forms() {
        let name = || Some(User::Name("www".to_owned()));
        for (text, expected) in [
            ("www", name()),
            ("www:data", name()),
            ("www:33", name()),
            ("33", Some(User::Id { uid: 33, gid: None })),
            ("33:data", Some(User::Id { uid: 33, gid: None })),
        ] {
            assert_eq!(user(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_repeated_layer_is_stacked_once_at_its_highest_place() {
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        assert_eq!(parse("{}", &[a, b, a, c, b]).unwrap().stack(), [a, c, b]);
    }

    #[test]
    fn a_made_configuration_reads_back_and_is_the_same_each_time() {
        let layers = [Digest::of(b"a")];
        let text = Config::of_layers(&layers).unwrap();
        assert_eq!(Config::parse(&text).unwrap().diff_ids, layers);
        assert_eq!(text, Config::of_layers(&layers).unwrap());
    }

    #[test]
    fn another_platforms_image_is_refused() {
        let text = r#"{"architecture": "s390x", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}"#;
        assert_eq!(Config::parse(text.as_bytes()).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
