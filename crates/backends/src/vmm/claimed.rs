use sandbar_core::Feature;

/// What every machine has, whatever its monitor.
pub(crate) const FEATURES: [Feature; 24] = [
    Feature::Pty,
    Feature::User,
    Feature::Watch,
    Feature::ExposePort,
    Feature::Pause,
    Feature::StopStart,
    Feature::DiskCheckpoint,
    Feature::MemoryCheckpoint,
    Feature::Restore,
    Feature::Fork,
    Feature::Stats,
    Feature::LayeredImage,
    Feature::VolumeReadOnly,
    Feature::VolumeReadWrite,
    Feature::LimitMemory,
    Feature::LimitCpu,
    Feature::LimitPids,
    Feature::LimitDisk,
    Feature::LimitOpenFiles,
    Feature::LimitDiskRate,
    Feature::NetworkNone,
    Feature::NetworkOpen,
    Feature::NetworkRules,
    Feature::NetworkUdp,
];
/// How volumes come, for a reader of `inspect`.
pub(crate) const VOLUMES: &str =
    "volumes are served to the guest's kernel (FUSE) by a process for each; memory cannot be saved of a sandbox that has some";
/// How limits hold, for a reader of `inspect`.
pub(crate) const LIMITS: &str = "limits of memory, processors and disk are the machine's size; finer ones are the guest kernel's";
