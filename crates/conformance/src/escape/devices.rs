use std::{fs, io::Cursor};

use sandbar_core::PutOptions;
use tar::{Builder, EntryType, Header};

use super::canary::{Canary, attack_kernel, prey};
use crate::{Context, Failure, failure::ensure, suite::cases};

cases! { "devices";
    none_is_made_or_opened,
    a_tar_stream_brings_none,
}

/// `MAJOR:MINOR` of the host's disks.
fn disks() -> Vec<String> {
    let table = fs::read_to_string("/proc/partitions").unwrap_or_default();
    table
        .lines()
        .skip(2)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            Some(format!("{}:{}", fields.next()?, fields.next()?))
        })
        .take(6)
        .collect()
}

async fn none_is_made_or_opened(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    let disks = disks();
    let words: Vec<&str> = ["devices"].into_iter().chain(disks.iter().map(String::as_str)).collect();
    // FUSE and TUN of a kernel of its own, and where that shows the agent.
    let own = ["open device 10:229", "open device 10:200", "/dev/net is", "/dev/fuse is", "/dev/.wire is", "/dev/.sandbar is"];
    attack_kernel(context, &sandbox, &words, &own).await?;
    canary.is_untouched()
}

async fn a_tar_stream_brings_none(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    for (kind, major, minor, name) in
        [(EntryType::Block, 254, 0, "disk"), (EntryType::Block, 8, 0, "disk"), (EntryType::Char, 1, 1, "memory")]
    {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o666);
        header.set_size(0);
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        let mut builder = Builder::new(Vec::new());
        builder.append_data(&mut header, name, std::io::empty())?;
        // Refused or left out, as it likes; what it makes must not open.
        let _ = sandbox.put_dir("/tmp/devices", PutOptions::default(), &mut Cursor::new(builder.into_inner()?)).await;
        let opened = sandbox.shell(&format!("head -c 1 /tmp/devices/{name} > /dev/null 2>&1")).await?;
        ensure!(!opened.status.success(), "device {major}:{minor} came by a tar stream and opens");
    }
    Ok(())
}
