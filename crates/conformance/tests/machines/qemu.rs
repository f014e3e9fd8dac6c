use sandbar_backends::{
    ProviderOptions,
    qemu::{Accelerator, QemuOptions},
};
use sandbar_conformance::{Availability, Part, Subject, Variant, World};

use super::stock;
use crate::variants::{Found, Preparing};

/// A virtual machine under QEMU, emulated: what works on every machine.
pub const TCG: Variant = Variant { name: "qemu-tcg", prepare };

/// What a machine does to a sandbox. What the agent does in it is tested on other walls, many times as fast as an emulated processor.
const PARTICULAR: Part = Part {
    names: &[
        "egress::a_name_is_connected_to_by_name",
        "egress::addresses_are_asked_for_as_they_are",
        "egress::datagrams_are_asked_for_by_name_and_keep_their_boundaries",
        "egress::datagrams_that_are_not_allowed_any_more_find_nobody",
        "egress::memory_is_saved_without_what_is_open_or_not_at_all",
        "memory",
        "restore",
        "signal",
        "stats",
        "status",
        "stdin",
        "stop_start",
    ],
    reason: "emulation makes it slow, and other walls show it: SANDBAR_LONG=1 asks for it here as well",
};

fn prepare(world: &World) -> Preparing<'_> {
    Box::pin(async {
        match look(world).await {
            Ok(availability) => availability,
            Err(reason) => Availability::Unavailable(reason),
        }
    })
}

async fn look(world: &World) -> Result<Availability, String> {
    let root = stock::root(world, TCG.name).await?;
    let options = |home| ProviderOptions { qemu: QemuOptions { accelerator: Some(Accelerator::Tcg) }, ..ProviderOptions::new(home) };
    let found = Found::find_with(world, TCG.name, "qemu", options).await?;
    Ok(Availability::Here(Box::new(Subject {
        patience: 4,
        only: std::env::var_os("SANDBAR_LONG").is_none().then_some(PARTICULAR),
        ..stock::subject(found.subject(TCG.name, root), "qemu")
    })))
}
