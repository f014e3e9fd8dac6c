use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

/// How strong the wall around a sandbox is. The order is the strength: a floor of `Namespaces` accepts `UserKernel` and `Vm`.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// No wall: a process of the host.
    None,
    /// The host's kernel, with namespaces and filters between.
    Namespaces,
    /// A kernel in user space answers the system calls.
    UserKernel,
    /// A kernel of its own, behind a virtual machine monitor.
    Vm,
}

impl Isolation {
    /// The word used on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Namespaces => "namespaces",
            Self::UserKernel => "user-kernel",
            Self::Vm => "vm",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isolation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::None, Self::Namespaces, Self::UserKernel, Self::Vm].into_iter().find(|level| level.name() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "isolation", "expected none, namespaces, user-kernel or vm").with("value", text)
        })
    }
}
