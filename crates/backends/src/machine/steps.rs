/// The names of the steps at which the machine calls [`Journal::step`](sandbar_core::Journal::step), in their order within each verb.
/// A test that kills sandbar at each of them has killed it everywhere.
pub const STEPS: [&str; 27] = [
    "provision.begun",
    "provision.folder",
    "provision.booted",
    "provision.answered",
    "provision.committed",
    "checkpoint.begun",
    "checkpoint.frozen",
    "checkpoint.saved",
    "checkpoint.thawed",
    "restore.begun",
    "restore.folder",
    "restore.booted",
    "restore.answered",
    "restore.committed",
    "restore.halted",
    "restore.removed",
    "stop.begun",
    "stop.handed-over",
    "stop.halted",
    "stop.committed",
    "start.begun",
    "start.booted",
    "start.answered",
    "start.committed",
    "destroy.begun",
    "destroy.halted",
    "destroy.removed",
];

/// The further steps of a checkpoint with memory, between `checkpoint.begun` and its end.
pub const MEMORY_STEPS: [&str; 3] = ["checkpoint.quiet", "checkpoint.memory-saved", "checkpoint.awake"];

/// As [`STEPS`], while a template is made.
pub const TEMPLATE_STEPS: [&str; 4] = ["template.begun", "template.booted", "template.saved", "template.kept"];
