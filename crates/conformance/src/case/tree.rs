use std::io::Cursor;

use sandbar_core::{ErrorKind, Feature::User as Users, FileKind, PutOptions, Result as CoreResult};
use tar::EntryType;
use tokio::io::AsyncReadExt;

use crate::{
    Context, Failure,
    Reach::{RealFiles, Shell},
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    sandbox::noise,
    suite::cases,
    tarball::{Entry, pack, unpack},
};

cases! { "tree";
    what_is_put_is_there,
    what_is_got_is_what_was_there,
    a_round_trip_keeps_modes_links_times_and_content [.reach(&[RealFiles])],
    a_round_trip_keeps_xattrs [.reach(&[Shell, RealFiles])],
    owners_are_told_and_not_taken_over [.needs(&[Users]).reach(&[Shell, RealFiles])],
    an_owner_can_be_given_to_all [.needs(&[Users]).reach(&[Shell, RealFiles])],
    the_folder_is_made_if_missing,
    what_is_there_stays_beside_what_comes,
    entries_that_would_lie_outside_are_refused,
    links_lead_no_entry_outside,
    a_hard_link_to_the_outside_is_refused,
    a_stream_that_is_cut_off_is_told,
    garbage_is_told,
    a_file_in_the_place_of_the_folder_is_told,
    getting_a_missing_one_is_not_found,
    getting_a_file_is_refused,
    many_files_come_and_go [.seconds(240)],
    long_names_come_and_go,
    fifos_and_sockets_do_not_hang_it [.reach(&[Shell])],
    a_tree_deeper_than_a_path_can_say_is_got_or_told [.reach(&[Shell])],
}

async fn put_tar(sandbox: &Sandbox, path: &str, bytes: &[u8]) -> CoreResult<()> {
    put_tar_with(sandbox, path, PutOptions::default(), bytes).await
}

async fn put_tar_with(sandbox: &Sandbox, path: &str, options: PutOptions, bytes: &[u8]) -> CoreResult<()> {
    sandbox.put_dir(path, options, &mut Cursor::new(bytes.to_vec())).await
}

async fn get_tar(sandbox: &Sandbox, path: &str) -> Result<Vec<Entry>, Failure> {
    let mut reader = sandbox.get_dir(path).await?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await?;
    // The entry of the folder itself, if there is one, is left out.
    Ok(unpack(&bytes)?.into_iter().filter(|entry| !matches!(entry.name.as_str(), "" | ".")).collect())
}

fn small() -> Vec<Entry> {
    vec![
        Entry::folder("below"),
        Entry::file("below/script", b"#!/bin/sh\n").mode(0o755),
        Entry::file("plain", b"plain text"),
        Entry::link("link", "below/script"),
        Entry::folder("empty").mode(0o700),
    ]
}

async fn what_is_put_is_there(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    put_tar(&sandbox, "tree", &pack(&small())?).await?;
    ensure_eq!(sandbox.get("tree/plain").await?, b"plain text", "a file");
    ensure_eq!(sandbox.stat("tree/below/script", false).await?.mode, 0o755, "a mode");
    let link = sandbox.stat("tree/link", false).await?;
    ensure_eq!((link.kind, link.symlink_target.as_deref()), (FileKind::Symlink, Some("below/script")), "a link");
    ensure_eq!(sandbox.stat("tree/empty", false).await?.mode, 0o700, "an empty folder");
    Ok(())
}

async fn what_is_got_is_what_was_there(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("tree/below", true, None).await?;
    sandbox.put("tree/below/file", "content").await?;
    sandbox.symlink("file", "tree/below/link").await?;
    let entries = get_tar(&sandbox, "tree").await?;
    let mut found: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.kind, entry.link.as_deref())).collect();
    found.sort_by_key(|entry| entry.0);
    let expected =
        [("below", EntryType::Directory, None), ("below/file", EntryType::Regular, None), ("below/link", EntryType::Symlink, Some("file"))];
    ensure_eq!(found, expected, "entries relative to the folder");
    Ok(())
}

async fn a_round_trip_keeps_modes_links_times_and_content(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut entries = small();
    entries.push(Entry::file("large", &noise(300_000, 6)));
    entries.push(Entry::hard_link("twin", "plain"));
    put_tar(&sandbox, "tree", &pack(&entries)?).await?;
    let found = get_tar(&sandbox, "tree").await?;
    for entry in &entries {
        let came = found.iter().find(|came| came.name == entry.name).ok_or_else(|| Failure::new(format!("{} is missing", entry.name)))?;
        if matches!(entry.name.as_str(), "twin" | "plain") {
            // Either of the two may be the one with the content.
            continue;
        }
        ensure_eq!((came.kind, &came.link), (entry.kind, &entry.link), "{}", entry.name);
        ensure!(came.content == entry.content, "the content of {} changed", entry.name);
        if entry.kind != EntryType::Symlink {
            ensure_eq!((came.mode, came.modified), (entry.mode, entry.modified), "mode and time of {}", entry.name);
        }
    }
    let twins: Vec<_> = found.iter().filter(|entry| matches!(entry.name.as_str(), "twin" | "plain")).map(|entry| entry.kind).collect();
    ensure!(twins.contains(&EntryType::Link) && twins.contains(&EntryType::Regular), "hard links came as {twins:?}");
    Ok(())
}

async fn a_round_trip_keeps_xattrs(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let mut entry = Entry::file("marked", b"x");
    entry.xattrs = vec![("user.colour".to_owned(), b"green".to_vec())];
    put_tar(&sandbox, "tree", &pack(std::slice::from_ref(&entry))?).await?;
    let inside = sandbox.guest(&["xattr", "tree/marked", "user.colour"]).await?;
    ensure_eq!(inside.stdout_text(), "green\n", "the attribute inside ({})", inside.stderr_text());
    let found = get_tar(&sandbox, "tree").await?;
    ensure!(found.iter().any(|came| came.xattrs == entry.xattrs), "the attribute did not come back: {found:?}");
    Ok(())
}

async fn owners_are_told_and_not_taken_over(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut entry = Entry::file("owned", b"x");
    entry.owner = (1234, 2345);
    // What comes belongs to the sandbox's user unless said otherwise.
    put_tar(&sandbox, "tree", &pack(std::slice::from_ref(&entry))?).await?;
    ensure_eq!(sandbox.text("stat -c '%u %g' tree/owned").await?, "0 0", "inside");
    sandbox.text("chown 1234:2345 tree/owned").await?;
    ensure_eq!(get_tar(&sandbox, "tree").await?[0].owner, (1234, 2345), "in the stream");
    Ok(())
}

async fn an_owner_can_be_given_to_all(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let options = PutOptions { owner: Some((7, 8)), ..PutOptions::default() };
    put_tar_with(&sandbox, "tree", options, &pack(&small())?).await?;
    ensure_eq!(sandbox.text("stat -c '%u %g' tree/plain tree/below/script").await?, "7 8\n7 8", "inside");
    Ok(())
}

async fn the_folder_is_made_if_missing(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    put_tar(&sandbox, "fresh", &pack(&[])?).await?;
    ensure_eq!(sandbox.stat("fresh", false).await?.kind, FileKind::Directory, "of an empty stream");
    let parents = PutOptions { make_parents: true, ..PutOptions::default() };
    put_tar_with(&sandbox, "a/b/c", parents, &pack(&small())?).await?;
    ensure_eq!(sandbox.get("a/b/c/plain").await?, b"plain text", "with parents");
    Ok(())
}

async fn what_is_there_stays_beside_what_comes(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("tree/below", true, None).await?;
    sandbox.put("tree/below/older", "stays").await?;
    sandbox.put("tree/plain", "goes").await?;
    put_tar(&sandbox, "tree", &pack(&small())?).await?;
    ensure_eq!(sandbox.get("tree/below/older").await?, b"stays", "beside");
    ensure_eq!(sandbox.get("tree/plain").await?, b"plain text", "in its place");
    Ok(())
}

const REFUSALS: [ErrorKind; 3] = [ErrorKind::InvalidInput, ErrorKind::Corrupt, ErrorKind::PermissionDenied];

async fn entries_that_would_lie_outside_are_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("tree", false, None).await?;
    let here = sandbox.text("pwd").await?;
    for name in ["../outside", "below/../../outside", &format!("{here}/outside"), "..", "./../outside"] {
        let bytes = pack(&[Entry::folder("below"), Entry::file(name, b"x")])?;
        refused(name, put_tar(&sandbox, "tree", &bytes).await, &REFUSALS)?;
        ensure!(!sandbox.has("outside").await?, "{name} was written outside");
    }
    Ok(())
}

async fn links_lead_no_entry_outside(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("elsewhere", false, None).await?;
    let here = sandbox.text("pwd").await?;
    for (index, target) in ["../elsewhere", "..", &format!("{here}/elsewhere"), "."].iter().enumerate() {
        let path = format!("tree-{index}");
        let bytes = pack(&[Entry::link("link", target), Entry::file("link/file", b"x")])?;
        let outcome = put_tar(&sandbox, &path, &bytes).await;
        ensure!(!sandbox.has("elsewhere/file").await? && !sandbox.has("file").await?, "a link to {target} led outside ({outcome:?})");
    }
    // A link that was there before is no way out either.
    sandbox.make_dir("old", false, None).await?;
    sandbox.symlink("../elsewhere", "old/link").await?;
    let outcome = put_tar(&sandbox, "old", &pack(&[Entry::file("link/file", b"x")])?).await;
    ensure!(!sandbox.has("elsewhere/file").await?, "an older link led outside ({outcome:?})");
    Ok(())
}

async fn a_hard_link_to_the_outside_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("secret", "outside of the tree").await?;
    let here = sandbox.text("pwd").await?;
    for target in ["../secret", &format!("{here}/secret")] {
        let outcome = put_tar(&sandbox, "tree", &pack(&[Entry::hard_link("mine", target), Entry::file("mine", b"changed")])?).await;
        ensure!(outcome.is_err(), "a hard link to {target} was made");
    }
    let through = pack(&[Entry::link("up", ".."), Entry::hard_link("mine", "up/secret")])?;
    ensure!(put_tar(&sandbox, "tree", &through).await.is_err(), "a hard link through a symbolic link was made");
    ensure_eq!(sandbox.get("secret").await?, b"outside of the tree", "the file outside");
    Ok(())
}

async fn a_stream_that_is_cut_off_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let bytes = pack(&[Entry::file("whole", b"x"), Entry::file("cut", &noise(50_000, 1))])?;
    let kinds = [ErrorKind::Corrupt, ErrorKind::InvalidInput, ErrorKind::Unavailable];
    for length in [100, 700, 30_000] {
        refused(&format!("after {length} bytes"), put_tar(&sandbox, "tree", &bytes[..length]).await, &kinds)?;
    }
    Ok(())
}

async fn garbage_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("noise", put_tar(&sandbox, "tree", &noise(10_240, 8)).await, &[ErrorKind::Corrupt, ErrorKind::InvalidInput])?;
    ensure_eq!(sandbox.text("echo well").await?, "well", "afterwards");
    Ok(())
}

async fn a_file_in_the_place_of_the_folder_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "x").await?;
    let kinds = [ErrorKind::InvalidInput, ErrorKind::AlreadyExists];
    refused("put", put_tar(&sandbox, "file", &pack(&small())?).await, &kinds)?;
    ensure_eq!(sandbox.get("file").await?, b"x", "the file");
    Ok(())
}

async fn getting_a_missing_one_is_not_found(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("get", sandbox.get_dir("nowhere").await.map(drop), &[ErrorKind::NotFound])?;
    Ok(())
}

async fn getting_a_file_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "x").await?;
    refused("get", sandbox.get_dir("file").await.map(drop), &[ErrorKind::InvalidInput])?;
    Ok(())
}

async fn many_files_come_and_go(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut entries = Vec::new();
    for folder in 0..20 {
        entries.push(Entry::folder(&format!("f{folder}")));
        entries.extend((0..100u64).map(|file| Entry::file(&format!("f{folder}/{file}"), &noise(500, file))));
    }
    put_tar(&sandbox, "tree", &pack(&entries)?).await?;
    let found = get_tar(&sandbox, "tree").await?;
    ensure_eq!(found.len(), entries.len(), "entries");
    for came in found.iter().filter(|entry| entry.kind == EntryType::Regular) {
        let file = came.name.rsplit('/').next().and_then(|name| name.parse().ok()).unwrap_or_default();
        ensure!(came.content == noise(500, file), "the content of {} changed", came.name);
    }
    Ok(())
}

async fn long_names_come_and_go(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let folder = format!("{}/{}", "d".repeat(200), "e".repeat(200));
    sandbox.make_dir(&format!("tree/{folder}"), true, None).await?;
    sandbox.put(&format!("tree/{folder}/{}", "f".repeat(200)), "far below").await?;
    sandbox.symlink(&"t".repeat(300), &format!("tree/{}", "l".repeat(120))).await?;
    let mut bytes = Vec::new();
    sandbox.get_dir("tree").await?.read_to_end(&mut bytes).await?;
    put_tar(&sandbox, "copy", &bytes).await?;
    ensure_eq!(sandbox.get(&format!("copy/{folder}/{}", "f".repeat(200))).await?, b"far below", "the copy");
    let link = sandbox.stat(&format!("copy/{}", "l".repeat(120)), false).await?;
    ensure_eq!(link.symlink_target, Some("t".repeat(300)), "a long link");
    Ok(())
}

async fn fifos_and_sockets_do_not_hang_it(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.text("mkdir tree && mkfifo tree/fifo && echo x > tree/file").await?;
    let found = tokio::time::timeout(crate::sandbox::SOON, get_tar(&sandbox, "tree")).await??;
    ensure!(found.iter().any(|entry| entry.name == "file" && entry.content == b"x\n"), "the file beside it is missing: {found:?}");
    Ok(())
}

async fn a_tree_deeper_than_a_path_can_say_is_got_or_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    sandbox.guest(&["deep", "300"]).await?;
    let got = async {
        let mut reader = sandbox.get_dir("deep").await?;
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).await?;
        Ok::<_, Failure>(unpack(&bytes)?)
    };
    if let Ok(entries) = got.await {
        ensure!(entries.iter().any(|entry| entry.name.ends_with("/bottom")), "the stream ended well without the deepest file");
    }
    ensure_eq!(sandbox.text("echo well").await?, "well", "afterwards");
    Ok(())
}
