use std::{pin::Pin, time::Duration};

use sandbar_core::{Feature, FeatureSet};

use crate::{Context, Failure, Reach, Subject};

/// What a case's function returns.
pub type Run = for<'a> fn(&'a Context) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// One fact of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// `noun::fact`.
    pub name: &'static str,
    /// Features that the case uses; where one is not claimed the case is ignored (and `refusal` sees to it that it is refused).
    pub needs: &'static [Feature],
    /// What else must be true of the subject.
    pub reach: &'static [Reach],
    /// The most that it may take.
    pub deadline: Duration,
    /// Whether nothing else may run beside it, since it measures or fills the machine.
    pub alone: bool,
    /// Whether it mostly sleeps, for many seconds: others are run beside it.
    pub waits: bool,
    /// Whether it is minutes of work behind a slow wall, while what it tests is the agent's alone and tested behind other walls.
    pub heavy: bool,
    /// The case itself.
    pub run: Run,
}

impl Case {
    /// A case that needs nothing and has two minutes: far more than any takes, for it says only when a case hangs.
    pub const fn new(name: &'static str, run: Run) -> Self {
        Self { name, needs: &[], reach: &[], deadline: Duration::from_secs(120), alone: false, waits: false, heavy: false, run }
    }

    pub(crate) const fn needs(mut self, features: &'static [Feature]) -> Self {
        self.needs = features;
        self
    }

    pub(crate) const fn reach(mut self, reach: &'static [Reach]) -> Self {
        self.reach = reach;
        self
    }

    pub(crate) const fn seconds(mut self, seconds: u64) -> Self {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    pub(crate) const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    pub(crate) const fn waits(mut self) -> Self {
        self.waits = true;
        self
    }

    pub(crate) const fn heavy(mut self) -> Self {
        self.heavy = true;
        self
    }

    /// Why the case says nothing about `subject`; `None` when it does.
    pub fn inapplicable(&self, features: &FeatureSet, subject: &Subject) -> Option<String> {
        let noun = self.name.split("::").next().unwrap_or_default();
        if let Some(only) = subject.only.filter(|only| !only.names.iter().any(|name| *name == noun || *name == self.name)) {
            return Some(only.reason.to_owned());
        }
        if let Some(missing) = self.needs.iter().find(|feature| !features.has(**feature)) {
            return Some(format!("{missing} is not claimed"));
        }
        if self.heavy && subject.patience > 2 && std::env::var_os("SANDBAR_LONG").is_none() {
            return Some("it takes minutes behind a wall as slow as this: SANDBAR_LONG=1 asks for it".to_owned());
        }
        self.reach.iter().find(|reach| !subject.reach.contains(reach)).map(|reach| reach.missing().to_owned())
    }
}

/// A table of cases: `cases! { "exec"; name, name [.needs(&[…]).seconds(9)], … }`.
macro_rules! cases {
    ($noun:literal; $($name:ident $([$($mark:tt)*])?,)*) => {
        /// The cases of this file.
        pub(crate) const CASES: &[$crate::Case] = &[$(
            $crate::Case::new(concat!($noun, "::", stringify!($name)), |context| Box::pin($name(context))) $($($mark)*)?,
        )*];
    };
}

pub(crate) use cases;
