use sandbar_core::Feature;

/// What every machine has, whatever its monitor.
pub(crate) const FEATURES: [Feature; 18] = [
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
    Feature::LimitMemory,
    Feature::LimitCpu,
    Feature::LimitPids,
    Feature::LimitDisk,
    Feature::LimitOpenFiles,
    Feature::NetworkNone,
];
/// How limits hold, for a reader of `inspect`.
pub(crate) const LIMITS: &str = "limits of memory, processors and disk are the machine's size; finer ones are the guest kernel's";
