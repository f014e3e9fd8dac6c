//! Layers of the host's form as an archive that `docker load` takes.
//!
//! The archive's members are read to the end before the engine looks at them, so their order is free; but each needs its size and the
//! configuration needs every digest before the first byte. A layer is therefore packed twice, the first time into nothing: a second reading costs less than
//! a copy on the disk, and layers do not change.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use sandbar_core::{Context, Error, ErrorKind, Result};
use sandbar_tree::{Base, PackOptions, PackWhiteouts, pack};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::error::OPERATION;

const CANNOT_PACK: &str = "a layer cannot be packed";

/// A layer that the archive holds.
struct Member {
    tree: PathBuf,
    digest: String,
    size: u64,
}

/// An image for the engine: layers that it has already, and those that it gets.
pub(super) struct Archive {
    below: Vec<String>,
    members: Vec<Member>,
    tag: String,
    labels: BTreeMap<String, String>,
}

impl Archive {
    /// Weighs the layers `trees` that lie upon those that the engine knows by the digests `below`. Blocks for reading them.
    ///
    /// # Errors
    /// `NotFound` for a layer that is missing.
    pub(super) fn new(below: Vec<String>, trees: &[PathBuf], tag: String, labels: BTreeMap<String, String>) -> Result<Self> {
        let weigh = |tree: &PathBuf| {
            let mut scale = Scale { hasher: Sha256::new(), size: 0 };
            pack_layer(tree, &mut scale)?;
            let digest = hex::encode(scale.hasher.finalize());
            Ok(Member { tree: tree.clone(), digest, size: scale.size })
        };
        Ok(Self { below, members: trees.iter().map(weigh).collect::<Result<_>>()?, tag, labels })
    }

    /// Writes it. Blocks.
    ///
    /// # Errors
    /// Those of the writer, and of layers that changed meanwhile.
    pub(super) fn write(&self, mut into: impl Write) -> Result<()> {
        let cannot = || "cannot send the image to the engine".to_owned();
        for member in &self.members {
            header(&mut into, &member_name(&member.digest), member.size).context(OPERATION, cannot)?;
            let mut exact = Exact { into: &mut into, left: member.size };
            pack_layer(&member.tree, &mut exact)?;
            if exact.left > 0 {
                return Err(changed(&member.tree));
            }
            padding(&mut into, member.size).context(OPERATION, cannot)?;
        }
        let config = self.config().to_string();
        let digest = hex::encode(Sha256::digest(config.as_bytes()));
        let config_name = format!("{digest}.json");
        let layers: Vec<String> = self.digests().map(member_name).collect();
        let manifest = json!([{"Config": config_name, "RepoTags": [self.tag], "Layers": layers}]).to_string();
        for (name, content) in [(config_name.as_str(), &config), ("manifest.json", &manifest)] {
            let size = content.len() as u64;
            let mut put = || {
                header(&mut into, name, size)?;
                into.write_all(content.as_bytes())?;
                padding(&mut into, size)
            };
            put().context(OPERATION, cannot)?;
        }
        into.write_all(&[0; 1024]).and_then(|()| into.flush()).context(OPERATION, cannot)
    }

    fn digests(&self) -> impl Iterator<Item = &str> {
        self.below.iter().chain(self.members.iter().map(|member| &member.digest)).map(String::as_str)
    }

    fn config(&self) -> serde_json::Value {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let layers: Vec<String> = self.digests().map(|digest| format!("sha256:{digest}")).collect();
        json!({
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Labels": self.labels},
            "rootfs": {"type": "layers", "diff_ids": layers},
            "history": [],
        })
    }
}

fn member_name(digest: &str) -> String {
    format!("{digest}/layer.tar")
}

/// A layer as OCI has it.
fn pack_layer(tree: &Path, into: impl Write) -> Result<()> {
    let folder = File::open(tree).context(OPERATION, || format!("cannot open the layer {}", tree.display()))?;
    let base = Base::jail(folder, None);
    let options = PackOptions { whiteouts: PackWhiteouts::Oci, ..PackOptions::default() };
    pack(&base, ".", into, &options).map_err(io::Error::from).context(OPERATION, || format!("{CANNOT_PACK}: {}", tree.display()))?;
    Ok(())
}

fn changed(tree: &Path) -> Error {
    Error::new(ErrorKind::Conflict, OPERATION, "a layer changed while it was sent to the engine").with("layer", tree.display())
}

fn header(mut into: impl Write, name: &str, size: u64) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    into.write_all(header.as_bytes())
}

/// Members begin at multiples of 512 bytes.
fn padding(mut into: impl Write, size: u64) -> io::Result<()> {
    let over = usize::try_from(size % 512).unwrap_or_default();
    if over == 0 { Ok(()) } else { into.write_all(&[0; 512][over..]) }
}

/// Takes bytes for their number and digest.
struct Scale {
    hasher: Sha256,
    size: u64,
}

impl Write for Scale {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes on no more than was announced.
struct Exact<W> {
    into: W,
    left: u64,
}

impl<W: Write> Write for Exact<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("the layer grew while it was sent"));
        }
        let written = self.into.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_sent_is_what_was_announced() {
        let home = tempfile::tempdir().unwrap();
        let layer = home.path().join("layer");
        std::fs::create_dir_all(layer.join("etc")).unwrap();
        std::fs::write(layer.join("etc/file"), "content").unwrap();
        let archive = Archive::new(vec!["0".repeat(64)], &[layer], "sandbar-x:y".to_owned(), BTreeMap::new()).unwrap();
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.insert(name, content);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&found["manifest.json"]).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&found[manifest[0]["Config"].as_str().unwrap()]).unwrap();
        let layers = manifest[0]["Layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2, "the one below is named and not sent");
        assert!(!found.contains_key(layers[0].as_str().unwrap()));
        let sent = &found[layers[1].as_str().unwrap()];
        let digest = hex::encode(Sha256::digest(sent));
        assert_eq!(config["rootfs"]["diff_ids"][1], format!("sha256:{digest}"));
    }

    #[test]
    fn a_missing_layer_is_told() {
        let error = Archive::new(Vec::new(), &["/nonexistent/layer".into()], "x:y".to_owned(), BTreeMap::new()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
