//! Files that say that they are checkpoints, and are damaged, or made to do harm.

use std::io::Cursor;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{
    portable::assert_clean,
    support::{Case, Home},
};

pub const CASES: &[Case] = &[
    Case::new("file_of_checkpoint::an_honest_one_made_by_hand_is_taken", honest).of_layers(),
    Case::new("file_of_checkpoint::damage_is_found_wherever_it_is", damaged).of_layers(),
    Case::new("file_of_checkpoint::layers_that_reach_outside_are_refused", hostile).of_layers(),
    Case::new("file_of_checkpoint::it_cannot_say_what_a_sandbox_may_reach", reach).of_layers(),
    Case::new("file_of_checkpoint::what_is_no_checkpoint_is_told", no_checkpoint).of_layers(),
];

fn digest(data: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(data)))
}

fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    // As they are: the names that are wanted here are those that the library refuses.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    if kind == EntryType::Char {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    }
    header.set_cksum();
    builder.append(&header, Cursor::new(content)).unwrap();
}

fn layer(entries: &[(EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, link, content) in entries {
        entry(&mut builder, *kind, name, link, content.as_bytes());
    }
    builder.into_inner().unwrap()
}

fn description() -> Value {
    json!({
        "version": 1, "id": "cp-bbbbbbbbbbbb", "name": "mine", "sandbox": "sb-bbbbbbbbbbbb", "kind": "disk", "provider": "container", "created_ms": 1,
        "spec": {}, "own_layers": 1, "image": { "reference": "tiny" }
    })
}

/// A file with an image of one layer, and this one above it.
fn file(own: &[u8], description: &Value) -> Vec<u8> {
    let below = below();
    let layers = [below.as_slice(), own];
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let diff_ids = layers.map(digest);
    let config = json!({ "os": "linux", "architecture": architecture, "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
    let descriptor = |kind: &str, data: &[u8]| json!({ "mediaType": kind, "digest": digest(data), "size": data.len() });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": layers.map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer)),
        "annotations": { "dev.sandbar.checkpoint": description.to_string() }
    })
    .to_string();
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())] });
    let mut builder = Builder::new(Vec::new());
    entry(&mut builder, EntryType::Regular, "oci-layout", "", br#"{"imageLayoutVersion":"1.0.0"}"#);
    entry(&mut builder, EntryType::Regular, "index.json", "", index.to_string().as_bytes());
    for blob in [manifest.as_bytes(), config.as_bytes(), &below, own] {
        entry(&mut builder, EntryType::Regular, &format!("blobs/sha256/{}", &digest(blob)[7..]), "", blob);
    }
    builder.into_inner().unwrap()
}

/// The image's layer.
fn below() -> Vec<u8> {
    layer(&[(EntryType::Regular, "below", "", "of the image")])
}

fn plain() -> Vec<u8> {
    layer(&[(EntryType::Regular, "file", "", "content")])
}

fn import(home: &Home, data: &[u8]) -> crate::support::Finished {
    let path = home.work().join("file.tar");
    std::fs::write(&path, data).unwrap();
    home.sandbar(&["checkpoint", "import", path.to_str().unwrap()])
}

#[track_caller]
fn assert_refused(home: &Home, data: &[u8], why: &str) {
    assert_refused_with(home, data, why, "");
}

#[track_caller]
fn assert_refused_with(home: &Home, data: &[u8], why: &str, told: &str) {
    let refused = import(home, data);
    assert!(refused.stderr.contains(told), "{why}: {refused}");
    assert_eq!(refused.code, 125, "{why}: {refused}");
    assert!(refused.stderr.starts_with("error: ") && !refused.stderr.contains("internal"), "{why}: {refused}");
    for folder in ["images/temporary", "images/layers", "checkpoints"] {
        assert_eq!(std::fs::read_dir(home.state().join(folder)).unwrap().count(), 0, "{why}: {folder}");
    }
}

fn honest(home: &Home) {
    let taken = import(home, &file(&plain(), &description()));
    assert_eq!(taken.code, 0, "{taken}");
    home.ok(&["checkpoint", "rm", "mine"]);
    assert_clean(home);
}

fn damaged(home: &Home) {
    let whole = file(&plain(), &description());
    for (name, layer) in [("the last layer", plain()), ("the layer below", below())] {
        let begin = whole.windows(layer.len()).position(|window| window == layer).unwrap();
        let mut flipped = whole.clone();
        // In the content of the layer's first file, behind its header.
        flipped[begin + 512] ^= 1;
        assert_refused_with(home, &flipped, name, "digest");
    }
    for part in 0..16 {
        assert_refused(home, &whole[..whole.len() * part / 16], "cut off");
    }
    let mut position = 600;
    while position < whole.len() - 2048 {
        let mut flipped = whole.clone();
        flipped[position] ^= 0x10;
        let taken = import(home, &flipped);
        // A byte of padding, or of a header's time, belongs to nothing that has a digest; then it is the same checkpoint.
        if taken.code == 0 {
            home.ok(&["checkpoint", "rm", taken.text().trim()]);
            home.ok(&["gc"]);
        } else {
            assert_eq!(taken.code, 125, "{position}: {taken}");
        }
        assert_clean(home);
        position += 613;
    }
    // The last of the blobs, with its header, is not there.
    let own = plain();
    let begin = whole.windows(own.len()).position(|window| window == own).unwrap() - 512;
    let without = [&whole[..begin], &[0; 1024]].concat();
    assert_refused_with(home, &without, "a blob is missing", "missing");
}

fn hostile(home: &Home) {
    let outside = home.work().join("outside");
    std::fs::create_dir(&outside).unwrap();
    home.wall.hand_over(&outside);
    let place = outside.to_str().unwrap().to_owned();
    let absolute = format!("{place}/absolute");
    for (why, entries) in [
        ("a name with ..", vec![(EntryType::Regular, "../../../../outside", "", "x")]),
        ("an absolute name", vec![(EntryType::Regular, absolute.as_str(), "", "x")]),
        ("a file below a link", vec![(EntryType::Symlink, "link", place.as_str(), ""), (EntryType::Regular, "link/file", "", "x")]),
        ("a hard link outside", vec![(EntryType::Link, "hard", "/etc/passwd", "")]),
        ("a hard link over a link", vec![(EntryType::Symlink, "link", "/etc", ""), (EntryType::Link, "hard", "link/passwd", "")]),
        ("a device", vec![(EntryType::Char, "device", "", "")]),
        ("a device in /dev", vec![(EntryType::Char, "dev/null", "", "")]),
        ("a whiteout of ..", vec![(EntryType::Regular, ".wh...", "", "")]),
    ] {
        assert_refused_with(home, &file(&layer(&entries), &description()), why, "the layer cannot be unpacked");
    }
    // The file itself as well.
    let mut climbing = Builder::new(Vec::new());
    entry(&mut climbing, EntryType::Regular, "../../climbed", "", b"x");
    assert_refused(home, &climbing.into_inner().unwrap(), "a climbing file");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_clean(home);
}

fn reach(home: &Home) {
    let mut wide = description();
    wide["spec"] = json!({
        "network": "open", "runtime": "runc", "volumes": [{ "source": "/", "target": "/host", "read_only": false }], "hostname": "told"
    });
    let taken = import(home, &file(&plain(), &wide));
    assert_eq!(taken.code, 0, "{taken}");
    let again = home.work().join("again.tar");
    home.ok(&["checkpoint", "export", "mine", again.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&std::fs::read(&again).unwrap()).into_owned();
    assert!(text.contains("told") && !text.contains("/host") && !text.contains(r#"\"open\""#), "what may be reached was kept");
    home.ok(&["checkpoint", "rm", "mine"]);
    let mut unwalled = description();
    unwalled["provider"] = "dangerous-host".into();
    let refused = import(home, &file(&plain(), &unwalled));
    assert!(refused.code == 125 && refused.stderr.contains("without a wall"), "{refused}");
    assert_clean(home);
}

fn no_checkpoint(home: &Home) {
    for (why, data) in [("nothing", Vec::new()), ("no archive", b"no archive".repeat(300)), ("a tree", plain())] {
        assert_refused(home, &data, why);
    }
    for (field, value) in [
        ("version", json!(2)),
        ("kind", json!("memory")),
        ("own_layers", json!(3)),
        ("own_layers", json!(2)),
        ("id", json!("../../x")),
        ("sandbox", json!("../../x")),
        ("image", json!({ "reference": "tiny", "left_out": true })),
        ("spec", json!({ "limits": { "pids": 0 } })),
    ] {
        let mut other = description();
        other[field] = value;
        assert_refused(home, &file(&plain(), &other), field);
    }
    assert_clean(home);
}
