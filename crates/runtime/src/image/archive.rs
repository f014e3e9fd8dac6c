//! A tar as an image: the tree itself, or an archive of images.

use std::{
    fs::File,
    io::{self, Read, Seek as _},
    path::Path,
};

use sandbar_core::{Context as _, Error, ErrorKind, Result};
use sandbar_tree::{Limits, UnpackOptions};

use super::{
    Digest,
    compression::{decompress, explain},
    config::Config,
    error::tree,
    import::refuse_tag,
    layer::Layers,
    layout,
    store::Finished,
    temporary::TemporaryFolder,
};

const OPERATION: &str = "image import";
const BLOCK: usize = 512;

/// Makes an image of a tar.
pub(super) fn import(layers: &Layers, path: &Path, tag: Option<&str>, added: &mut Vec<Digest>) -> Result<Finished> {
    let reading = || format!("cannot read {}", path.display());
    let mut file = File::open(path).context(OPERATION, reading)?;
    let size = file.metadata().context(OPERATION, reading)?.len();
    let first = decompress(&file, u64::MAX).and_then(first_name).map_err(|error| explain(OPERATION, reading(), error))?;
    file.rewind().context(OPERATION, reading)?;
    if begins_image_archive(&first) {
        let folder = TemporaryFolder::new(&layers.paths)?;
        unpack(layers, &file, size, folder.path())?;
        if layout::is_layout(folder.path()) {
            return layout::import(layers, folder.path(), tag, added);
        }
        if layout::is_docker_archive(folder.path()) {
            return layout::import_docker(layers, folder.path(), tag, added);
        }
        // A tree that happens to begin like an archive of images.
        file.rewind().context(OPERATION, reading)?;
    }
    refuse_tag(path, tag)?;
    if first.is_empty() {
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, "this is no tar, or an empty one").with("path", path.display()));
    }
    let diff_id = layers.add(&file, size, None)?;
    added.push(diff_id);
    Ok(Finished::nameless(Config::of_layers(&[diff_id])?))
}

/// Unpacks an archive of images, whose members are data and nothing else.
fn unpack(layers: &Layers, file: &File, size: u64, into: &Path) -> Result<()> {
    let limit = layers.limits.unpacked(size);
    let options = UnpackOptions { limits: Limits { bytes: limit, ..Limits::default() }, ..UnpackOptions::default() };
    let folder = File::open(into).context(OPERATION, || format!("cannot open {}", into.display()))?;
    let stream = decompress(file, limit).map_err(|error| explain(OPERATION, "cannot read the archive", error))?;
    sandbar_tree::unpack(stream, &folder, &options).map_err(|error| tree(OPERATION, "the archive cannot be unpacked", error))?;
    Ok(())
}

/// The name of the first entry that is neither the root nor a header for another one; empty if there is none. Only a
/// look at what it may be: who reads it in earnest judges everything again.
fn first_name(mut stream: impl Read) -> io::Result<Vec<u8>> {
    let mut block = [0; BLOCK];
    for _ in 0..16 {
        match stream.read_exact(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Vec::new()),
            read => read?,
        }
        let name: Vec<u8> = block[..100].iter().copied().take_while(|byte| *byte != 0).collect();
        let name = name.strip_prefix(b"./").unwrap_or(&name);
        if block[257..262] != *b"ustar" && name.is_empty() {
            return Ok(Vec::new());
        }
        if !matches!(block[156], b'x' | b'g' | b'L' | b'K') && !matches!(name, b"" | b".") {
            return Ok(name.to_vec());
        }
        let size = block[124..136].iter().filter(|byte| (b'0'..=b'7').contains(byte));
        let size = size.fold(0_u64, |size, digit| size.saturating_mul(8).saturating_add(u64::from(digit - b'0')));
        let padded = size.min(1 << 20).next_multiple_of(BLOCK as u64);
        io::copy(&mut (&mut stream).take(padded), &mut io::sink())?;
    }
    Ok(Vec::new())
}

/// What the archives of `docker save`, `podman save` and `skopeo copy` begin with, in whatever order they are written.
fn begins_image_archive(name: &[u8]) -> bool {
    let first = name.split(|byte| *byte == b'/').next().unwrap_or_default();
    let stem = first.strip_suffix(b".json").or_else(|| first.strip_suffix(b".tar")).unwrap_or(first);
    matches!(first, b"blobs" | b"index.json" | b"oci-layout" | b"manifest.json" | b"repositories")
        || stem.len() == 64 && stem.iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(names: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
            header.set_size(0);
            builder.append_data(&mut header, name, io::empty()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn the_first_name_that_means_something_is_found() {
        assert_eq!(first_name(&tar(&["./", "bin/"])[..]).unwrap(), b"bin/");
        assert_eq!(first_name(&tar(&[])[..]).unwrap(), b"");
        assert_eq!(first_name(&b"short"[..]).unwrap(), b"");
    }

    #[test]
    fn an_archive_of_images_is_told_from_a_tree() {
        let hex = "0".repeat(64);
        for name in ["blobs/", "blobs/sha256/x", "oci-layout", "manifest.json", &hex, &format!("{hex}/layer.tar"), &format!("{hex}.json")] {
            assert!(begins_image_archive(name.as_bytes()), "{name}");
        }
        for name in ["bin/", "etc/manifest.json", "usr", "index.html"] {
            assert!(!begins_image_archive(name.as_bytes()), "{name}");
        }
    }
}
