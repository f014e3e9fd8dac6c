//! Images: what a sandbox's root file system is made of. Stored by digest, shared by all sandboxes, never copied.
//!
//! An image is the [`HOST`] (a read-only view of this host's programs, over a small made-up skeleton), or layers that
//! came from a folder, a tar, an OCI layout or a registry. Whatever the source, a layer is one archive: it is
//! streamed once through decompression, digest and [`sandbar_tree::unpack`], into a folder in the form that overlayfs
//! mounts, and is known by the digest of its archive. The transferred (compressed) form is not kept: it would double
//! the disk used, nobody runs it, and an export packs the tree anew.
//!
//! | module | noun |
//! |---|---|
//! | `store` | [`ImageStore`]: everything callers use |
//! | `host` | the image `host`: allow-list, skeleton, fingerprint |
//! | `import`, `folder`, `archive`, `layout` | images from this machine's files |
//! | `pull`, `registry`, `download`, `credentials` | images from a registry |
//! | `departure`, `arrival`, `unnamed` | images that leave as one tar, that arrive as one, and that only a checkpoint needs |
//! | `owned`, `stop` | work with the owners of layers, and its calling off |
//! | `layer`, `compression`, `limits`, `privilege` | one archive made into one overlay layer |
//! | `manifest`, `config`, `digest`, `name` | the documents and words of OCI |
//! | `index`, `paths`, `lock`, `temporary`, `collect` | what is where, and who may touch it |
//! | `progress`, `summary` | what callers are told |
//!
//! Three things keep the store whole whatever is killed when: content gets its name by one `rename` after it was
//! verified; whatever is not finished lies in a locked folder that a [sweep](ImageStore::sweep) recognises by the
//! missing lock; and layers are collected only under a lock that nobody who needs one holds ([`ImageStore::pin`]).

mod archive;
mod arrival;
mod collect;
mod compression;
mod config;
mod credentials;
mod departure;
mod digest;
mod download;
mod error;
mod folder;
mod host;
mod import;
mod index;
mod layer;
mod layout;
mod limits;
mod lock;
mod manifest;
mod name;
mod owned;
mod paths;
mod privilege;
mod progress;
mod pull;
mod registry;
mod stop;
mod store;
mod summary;
mod temporary;
mod unnamed;

pub(crate) use arrival::{Arrival, Landing, Unpacked};
pub(crate) use departure::{Departure, LayerSource, StagedLayer};
pub use digest::Digest;
pub use limits::ImageLimits;
pub(crate) use manifest::platform_words;
pub use name::{HOST, ImageName};
pub use progress::{Progress, ProgressCallback, Stage};
pub use registry::RegistryOptions;
pub(crate) use store::blocking;
pub use store::{ImageStore, Pin};
pub use summary::{Collected, ImageSummary, Removed};
