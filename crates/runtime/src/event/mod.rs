//! What happens to sandboxes, for those who want to be told.
//!
//! | module | noun |
//! |---|---|
//! | `life` | [`Event`], [`EventKind`]: what has become of a sandbox, from the ledger |
//! | `ports` | [`PortChange`], [`PortChanges`]: which ports of many sandboxes something listens on |
//! | `verdicts` | [`Verdicts`]: what was decided about what leaves, of many sandboxes |

mod life;
mod ports;
mod verdicts;

pub use life::{Event, EventKind};
pub use ports::{PortChange, PortChanges};
pub use verdicts::{Verdict, Verdicts};
