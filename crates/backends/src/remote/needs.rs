use sandbar_core::{Feature, Isolation};

use super::{
    client::Ask,
    provider::{NEVER, RUNTIME},
};

/// What another host is to choose one of its providers for.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// The least isolation.
    pub isolation: Isolation,
    /// The image; that host's default when `None`.
    pub image: Option<&'a str>,
    /// What the specification needs.
    pub features: &'a [Feature],
    /// The runtime within the provider, by which its isolation may be another.
    pub runtime: Option<&'a str>,
}

impl Needs<'_> {
    /// The features that a provider of that host is to have: what is this host's own none of them has.
    fn features(&self) -> String {
        let features = self.features.iter().filter(|feature| !NEVER.contains(feature));
        features.map(|feature| feature.name()).collect::<Vec<_>>().join(",")
    }

    /// The question with them. What is not asked for is not said, so that a server of before takes it.
    pub(super) fn put_into(&self, question: Ask) -> Ask {
        let floor = (self.isolation > Isolation::None).then(|| self.isolation.to_string());
        let features = Some(self.features()).filter(|features| !features.is_empty());
        let [image, runtime] = [self.image, self.runtime].map(|word| word.map(str::to_owned));
        let said = [("isolation", floor), ("image", image), ("features", features), (RUNTIME, runtime)];
        said.into_iter().fold(question, |question, (name, value)| match value {
            Some(value) => question.with(name, value),
            None => question,
        })
    }
}
