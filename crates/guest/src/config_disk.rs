use sandbar_protocol::CONFIG_DISK_MAGIC;

/// Disks are made of these.
const SECTOR: usize = 512;

/// The first disk of a guest, from which its agent reads its configuration (an encoded [`AgentConfig`](sandbar_protocol::AgentConfig)):
/// a mark, the length as a big-endian `u32`, the bytes, and zeros up to a whole sector.
pub fn config_disk(config: &[u8]) -> Vec<u8> {
    let length = u32::try_from(config.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut disk = [CONFIG_DISK_MAGIC.as_slice(), &length, config].concat();
    disk.resize(disk.len().next_multiple_of(SECTOR), 0);
    disk
}
