//! Checkpoints as one file, to be taken to another state folder or another machine.
//!
//! The file is a tar of an OCI image layout with one image: the layers of the checkpoint's image, and above them the checkpoint's own. Every
//! tool for OCI images reads it as the image that the sandbox would be committed to. What only sandbar needs is in one annotation.
//!
//! | module | noun |
//! |---|---|
//! | `description` | what the annotation says: whose checkpoint, on which image, with which specification |
//! | `export` | writing the file |
//! | `import` | reading one that a stranger may have made |
//!
//! A file decides what is in the sandboxes that are made from it, and nothing about what they may reach on this host: volumes, network and
//! runtime are left behind at both ends.

mod description;
mod export;
mod import;

pub use export::{ExportOptions, Exported};
pub use import::Imported;
