//! What makes the walls a product.
//!
//! A [`Runtime`] is one state folder: the sandboxes in it, their checkpoints, images, exposed ports. Any number of processes may have it open;
//! none must be running for a sandbox to live. What a process was doing when it was killed is finished or undone by the next one.
//!
//! | module | noun |
//! |---|---|
//! | `runtime` | [`Runtime`]: opening, listing, what the others are methods of |
//! | `config`, `home` | [`RuntimeConfig`], the state folder |
//! | `choice`, `root` | which provider, which root file system |
//! | `create`, `once`, `destroy`, `fork`, `checkpoint` | the verbs that are more than a call |
//! | `portable` | checkpoints as one file |
//! | `sandbox`, `turn`, `verbs` | [`Sandbox`]: one life-cycle verb from lock to outcome, and the verbs that are only passed on |
//! | `summary` | [`SandboxSummary`], [`Inspect`]: what is told |
//! | `ledger` | what is known, in SQLite |
//! | `key` | [`Holder`], [`Scope`]: who else may use it, and how far |
//! | `audit` | who did what |
//! | `event` | what happens, for those who want to be told |
//! | `lock`, `process_identity`, `clock` | who may, who is alive, when |
//! | `recover`, `crashed`, `gc` | what the dead left |
//! | `doctor`, `lately` | what this machine can do; for those who ask often |
//! | `setup`, `released` | getting what a provider lacks here; programs that distributions do not have |
//! | `egress` | what leaves, decided here |
//! | `ports`, `keeper` | exposed ports, the process that keeps them |
//! | [`image`] | images and their layers |
//! | `kernel`, `template` | what virtual machines boot, and what they begin from instead |
//! | `system` | what the kernels differ in |
//! | `fault` | a hook for crash tests |

mod audit;
mod checkpoint;
mod choice;
mod clock;
mod config;
mod crashed;
mod create;
mod destroy;
mod doctor;
mod egress;
mod event;
mod fault;
mod fork;
mod gc;
mod home;
pub mod image;
mod keeper;
mod kernel;
mod key;
mod lately;
mod ledger;
mod lock;
mod once;
mod portable;
mod ports;
mod process_identity;
mod recover;
mod released;
mod root;
mod runtime;
mod sandbox;
mod setup;
mod summary;
mod system;
mod template;
mod turn;
mod verbs;

pub use audit::{Actor, AuditFilter, AuditLog, AuditPlace, AuditRecord};
pub use checkpoint::{CheckpointSummary, RestoreOptions};
pub use config::RuntimeConfig;
pub use doctor::{Diagnosis, ProviderDiagnosis};
pub use egress::{NetworkEvent, NetworkReader, NetworkRecord};
pub use event::{Event, EventKind, PortChange, PortChanges, Verdict, Verdicts};
pub use fault::STEPS;
pub use fork::ForkOptions;
pub use gc::{GcItem, GcReport};
pub use key::{Holder, KeySummary, NewKey, Scope};
pub use portable::{ExportOptions, Exported, Imported};
pub use runtime::{CreateRequest, Runtime};
pub use sandbar_backends::{
    ProviderOptions, Registry,
    remote::{Address, Contexts, Elsewhere, Place, clean},
};
pub use sandbar_guest::KernelSummary;
pub use sandbox::Sandbox;
pub use setup::{PackageSource, SetupStep};
pub use summary::{Inspect, SandboxSummary};
pub use template::TemplateSummary;
