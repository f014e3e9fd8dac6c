use sandbar_core::{ErrorKind, FileKind, RemoveOptions};

use crate::{
    Context, Failure,
    Reach::Shell,
    failure::{ensure, ensure_eq, refused},
    suite::cases,
};

cases! { "folder";
    entries_are_listed_by_name,
    a_missing_one_is_not_found,
    a_file_is_none,
    a_very_large_one_is_listed_whole [.reach(&[Shell]).heavy()],
    making_one_that_exists_is_told_unless_parents_are_made,
    making_one_needs_its_parent,
    its_mode_is_the_one_asked_for,
    renaming_moves_and_replaces,
    renaming_without_replacing_is_kept,
    renaming_moves_whole_folders,
    a_link_is_made_and_never_overwrites,
    removing_takes_a_file,
    removing_what_is_missing_is_told_unless_allowed,
    removing_a_full_one_needs_recursive,
    removing_never_follows_links,
    removing_goes_deeper_than_a_path_can_say [.reach(&[Shell])],
    removing_a_read_only_tree_works [.reach(&[Shell])],
}

const TREE: RemoveOptions = RemoveOptions { recursive: true, missing_ok: false };
const ONE: RemoveOptions = RemoveOptions { recursive: false, missing_ok: false };

async fn entries_are_listed_by_name(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("list", false, None).await?;
    ensure_eq!(sandbox.read_dir("list").await?.len(), 0, "an empty one");
    sandbox.put("list/b", "12").await?;
    sandbox.put("list/a", "1").await?;
    sandbox.make_dir("list/C", false, None).await?;
    sandbox.symlink("C", "list/d").await?;
    let entries = sandbox.read_dir("list").await?;
    let found: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.stat.kind, entry.stat.symlink_target.as_deref())).collect();
    let expected =
        [("C", FileKind::Directory, None), ("a", FileKind::File, None), ("b", FileKind::File, None), ("d", FileKind::Symlink, Some("C"))];
    ensure_eq!(found, expected, "entries");
    ensure_eq!(entries[2].stat.size, 2, "a size");
    Ok(())
}

async fn a_missing_one_is_not_found(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("list", sandbox.read_dir("nowhere").await, &[ErrorKind::NotFound])?;
    Ok(())
}

async fn a_file_is_none(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "x").await?;
    refused("list", sandbox.read_dir("file").await, &[ErrorKind::InvalidInput])?;
    Ok(())
}

async fn a_very_large_one_is_listed_whole(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    ensure_eq!(sandbox.guest(&["inodes", "large", "20000"]).await?.stdout_text(), "made 20000\n", "files");
    let entries = sandbox.read_dir("large").await?;
    ensure_eq!(entries.len(), 20_000, "entries");
    ensure!(entries.is_sorted_by(|left, right| left.name < right.name), "they are not sorted");
    sandbox.remove_path("large", TREE).await?;
    Ok(())
}

async fn making_one_that_exists_is_told_unless_parents_are_made(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("folder", false, None).await?;
    refused("again", sandbox.make_dir("folder", false, None).await, &[ErrorKind::AlreadyExists])?;
    sandbox.make_dir("folder", true, None).await?;
    sandbox.put("file", "x").await?;
    let kinds = [ErrorKind::AlreadyExists, ErrorKind::InvalidInput];
    refused("over a file", sandbox.make_dir("file", true, None).await, &kinds)?;
    Ok(())
}

async fn making_one_needs_its_parent(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("without", sandbox.make_dir("a/b/c", false, None).await, &[ErrorKind::NotFound])?;
    sandbox.make_dir("a/b/c", true, None).await?;
    ensure_eq!(sandbox.stat("a/b/c", false).await?.kind, FileKind::Directory, "made");
    Ok(())
}

async fn its_mode_is_the_one_asked_for(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("plain", false, None).await?;
    ensure_eq!(sandbox.stat("plain", false).await?.mode, 0o755, "unless asked");
    for mode in [0o700, 0o777, 0o1777] {
        let path = format!("folder-{mode:o}");
        sandbox.make_dir(&path, false, Some(mode)).await?;
        ensure_eq!(sandbox.stat(&path, false).await?.mode, mode, "{path}");
    }
    Ok(())
}

async fn renaming_moves_and_replaces(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("old", "1").await?;
    sandbox.put("new", "2").await?;
    sandbox.rename("old", "new", false).await?;
    ensure_eq!(sandbox.get("new").await?, b"1", "content");
    ensure!(!sandbox.has("old").await?, "the old name is still there");
    refused("a missing one", sandbox.rename("old", "newer", false).await, &[ErrorKind::NotFound])?;
    Ok(())
}

async fn renaming_without_replacing_is_kept(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("old", "1").await?;
    sandbox.put("new", "2").await?;
    refused("over another", sandbox.rename("old", "new", true).await, &[ErrorKind::AlreadyExists])?;
    ensure_eq!((sandbox.get("old").await?, sandbox.get("new").await?), (b"1".to_vec(), b"2".to_vec()), "both");
    sandbox.rename("old", "fresh", true).await?;
    ensure_eq!(sandbox.get("fresh").await?, b"1", "a free name");
    Ok(())
}

async fn renaming_moves_whole_folders(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("a/b", true, None).await?;
    sandbox.put("a/b/file", "x").await?;
    sandbox.rename("a", "c", false).await?;
    ensure_eq!(sandbox.get("c/b/file").await?, b"x", "below");
    ensure!(sandbox.rename("c", "c/b/inside", false).await.is_err(), "a folder was moved into itself");
    Ok(())
}

async fn a_link_is_made_and_never_overwrites(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "x").await?;
    sandbox.symlink("file", "link").await?;
    ensure_eq!(sandbox.text("cat link").await?, "x", "through the link");
    refused("over a file", sandbox.symlink("x", "file").await, &[ErrorKind::AlreadyExists])?;
    refused("over a link", sandbox.symlink("x", "link").await, &[ErrorKind::AlreadyExists])?;
    Ok(())
}

async fn removing_takes_a_file(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "x").await?;
    sandbox.remove_path("file", ONE).await?;
    ensure!(!sandbox.has("file").await?, "still there");
    sandbox.make_dir("empty", false, None).await?;
    sandbox.remove_path("empty", ONE).await?;
    ensure!(!sandbox.has("empty").await?, "an empty folder is still there");
    Ok(())
}

async fn removing_what_is_missing_is_told_unless_allowed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for recursive in [false, true] {
        let strict = RemoveOptions { recursive, missing_ok: false };
        refused("a missing path", sandbox.remove_path("nothing", strict).await, &[ErrorKind::NotFound])?;
        sandbox.remove_path("nothing", RemoveOptions { recursive, missing_ok: true }).await?;
        sandbox.remove_path("no/such/folder", RemoveOptions { recursive, missing_ok: true }).await?;
    }
    Ok(())
}

async fn removing_a_full_one_needs_recursive(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("full/below", true, None).await?;
    sandbox.put("full/below/file", "x").await?;
    refused("a full one", sandbox.remove_path("full", ONE).await, &[ErrorKind::InvalidInput])?;
    ensure_eq!(sandbox.get("full/below/file").await?, b"x", "its content");
    sandbox.remove_path("full", TREE).await?;
    ensure!(!sandbox.has("full").await?, "still there");
    Ok(())
}

async fn removing_never_follows_links(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("kept", false, None).await?;
    sandbox.put("kept/file", "x").await?;
    sandbox.make_dir("gone", false, None).await?;
    sandbox.symlink("../kept", "gone/link").await?;
    sandbox.symlink("kept", "direct").await?;
    sandbox.remove_path("gone", TREE).await?;
    sandbox.remove_path("direct", TREE).await?;
    ensure!(!sandbox.has("direct").await?, "the link is still there");
    ensure_eq!(sandbox.get("kept/file").await?, b"x", "what the links pointed to");
    Ok(())
}

async fn removing_goes_deeper_than_a_path_can_say(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let made = sandbox.guest(&["deep", "400"]).await?;
    ensure!(made.status.success(), "{}", made.stderr_text());
    sandbox.remove_path("deep", TREE).await?;
    ensure!(!sandbox.has("deep").await?, "still there");
    Ok(())
}

async fn removing_a_read_only_tree_works(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.text("mkdir -p tree/below && echo x > tree/below/file && chmod 0444 tree/below/file").await?;
    sandbox.remove_path("tree", TREE).await?;
    ensure!(!sandbox.has("tree").await?, "still there");
    Ok(())
}
