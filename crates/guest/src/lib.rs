//! What a virtual machine boots, whichever monitor runs it: any distribution's kernel, a first memory file system with the agent as
//! its `/init`, and read-only root images made from the layers of the image store.
//!
//! | module | noun |
//! |---|---|
//! | `store` | [`KernelStore`]: the kernels of one state folder |
//! | `vmlinux` | the ELF kernel inside a `vmlinuz` |
//! | `package` | a kernel's Debian package |
//! | `modules`, `modinfo` | which modules a guest needs, and in which order they load |
//! | `compression` | the formats that kernels and modules come in |
//! | `initramfs`, `cpio` | the first memory file system |
//! | `root_image` | [`RootImage`]: layers merged into a read-only disk, once for each image |
//! | `scratch` | [`Scratch`]: an empty writable disk |
//! | `staging` | folders that are not finished, and what a killed process left of them |
//!
//! In the guest, the agent reads what to do from the first disk, [`config_disk`]; the disks behind it are told there, in order.

mod compression;
mod config_disk;
mod cpio;
mod initramfs;
mod modinfo;
mod modules;
mod package;
mod root_image;
mod scratch;
mod staging;
mod store;
mod vmlinux;

pub use config_disk::config_disk;
pub use initramfs::initramfs;
pub use root_image::RootImage;
pub use scratch::Scratch;
pub use store::{Kernel, KernelStore, KernelSummary};
