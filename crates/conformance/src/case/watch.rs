use std::{collections::HashSet, time::Duration};

use sandbar_core::{ErrorKind, Feature::Watch, RemoveOptions, WatchEvent, WatchEventKind, WatchStream};
use tokio::time::timeout;

use crate::{
    Context, Failure,
    Reach::Shell,
    failure::{ensure, ensure_eq, refused},
    sandbox::SOON,
    suite::cases,
};

cases! { "watch";
    a_new_file_is_told [.needs(&[Watch])],
    a_change_is_told [.needs(&[Watch])],
    a_removal_is_told [.needs(&[Watch])],
    a_rename_is_a_removal_and_a_creation [.needs(&[Watch])],
    a_change_of_mode_is_told [.needs(&[Watch]).reach(&[Shell])],
    a_new_folder_is_told_as_one [.needs(&[Watch])],
    below_is_told_only_when_recursive [.needs(&[Watch])],
    folders_made_later_are_watched_too [.needs(&[Watch])],
    nothing_is_told_of_what_was_there_before [.needs(&[Watch])],
    a_single_file_can_be_watched [.needs(&[Watch])],
    the_stream_ends_when_the_watched_path_is_gone [.needs(&[Watch])],
    a_missing_path_is_not_found [.needs(&[Watch])],
    a_burst_is_told_whole_or_as_an_overflow [.needs(&[Watch]).reach(&[Shell]).heavy()],
    a_dropped_watch_costs_nothing [.needs(&[Watch])],
}

type Stream = Box<dyn WatchStream>;

/// Reads until an event of this kind and path comes.
async fn hear(stream: &mut Stream, kind: WatchEventKind, path: &str) -> Result<WatchEvent, Failure> {
    let mut others = Vec::new();
    let hearing = async {
        loop {
            match stream.next().await? {
                Some(event) if event.kind == kind && event.path == path => return Ok(event),
                Some(event) => others.push(event),
                None => return Err(Failure::new("the stream ended")),
            }
        }
    };
    let outcome = timeout(SOON, hearing).await;
    outcome
        .unwrap_or_else(|_| Err(Failure::new("nothing more came")))
        .map_err(|failure| failure.during(format!("waiting for {kind:?} of {path:?} after {others:?}")))
}

async fn a_new_file_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("seen", false, None).await?;
    let mut stream = sandbox.watch("seen", false).await?;
    sandbox.text("echo x > seen/file").await?;
    let event = hear(&mut stream, WatchEventKind::Created, "file").await?;
    ensure!(!event.is_directory, "a file is told as a folder");
    Ok(())
}

async fn a_change_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("seen", false, None).await?;
    sandbox.put("seen/file", "x").await?;
    let mut stream = sandbox.watch("seen", false).await?;
    sandbox.text("echo y > seen/file").await?;
    hear(&mut stream, WatchEventKind::Modified, "file").await?;
    Ok(())
}

async fn a_removal_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("seen", false, None).await?;
    sandbox.put("seen/file", "x").await?;
    let mut stream = sandbox.watch("seen", false).await?;
    sandbox.remove_path("seen/file", RemoveOptions::default()).await?;
    hear(&mut stream, WatchEventKind::Removed, "file").await?;
    Ok(())
}

async fn a_rename_is_a_removal_and_a_creation(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("seen", false, None).await?;
    sandbox.put("seen/old", "x").await?;
    let mut stream = sandbox.watch("seen", false).await?;
    sandbox.rename("seen/old", "seen/new", false).await?;
    hear(&mut stream, WatchEventKind::Removed, "old").await?;
    hear(&mut stream, WatchEventKind::Created, "new").await?;
    Ok(())
}

async fn a_change_of_mode_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("seen", false, None).await?;
    sandbox.put("seen/file", "x").await?;
    let mut stream = sandbox.watch("seen", false).await?;
    sandbox.text("chmod 600 seen/file").await?;
    hear(&mut stream, WatchEventKind::Attributes, "file").await?;
    Ok(())
}

async fn a_new_folder_is_told_as_one(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("seen", false, None).await?;
    let mut stream = sandbox.watch("seen", false).await?;
    sandbox.make_dir("seen/folder", false, None).await?;
    ensure!(hear(&mut stream, WatchEventKind::Created, "folder").await?.is_directory, "a folder is told as a file");
    Ok(())
}

async fn below_is_told_only_when_recursive(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("seen/below", true, None).await?;
    let mut flat = sandbox.watch("seen", false).await?;
    let mut deep = sandbox.watch("seen", true).await?;
    sandbox.put("seen/below/file", "x").await?;
    hear(&mut deep, WatchEventKind::Created, "below/file").await?;
    sandbox.put("seen/last", "x").await?;
    let told = async {
        loop {
            match flat.next().await? {
                Some(event) if event.path.starts_with("below/") => {
                    return Err(Failure::new(format!("told without being asked: {event:?}")));
                }
                Some(event) if event.path == "last" => return Ok(()),
                Some(_) => {}
                None => return Err(Failure::new("the stream ended")),
            }
        }
    };
    timeout(SOON, told).await?
}

async fn folders_made_later_are_watched_too(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("seen", false, None).await?;
    let mut stream = sandbox.watch("seen", true).await?;
    sandbox.make_dir("seen/a/b", true, None).await?;
    hear(&mut stream, WatchEventKind::Created, "a").await?;
    sandbox.put("seen/a/b/file", "x").await?;
    hear(&mut stream, WatchEventKind::Created, "a/b/file").await?;
    sandbox.put("seen/a/b/file", "y").await?;
    Ok(())
}

async fn nothing_is_told_of_what_was_there_before(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("seen", false, None).await?;
    sandbox.put("seen/older", "x").await?;
    let mut stream = sandbox.watch("seen", true).await?;
    let quiet = timeout(Duration::from_millis(300), stream.next()).await;
    ensure!(quiet.is_err(), "told without a change: {quiet:?}");
    sandbox.put("seen/newer", "x").await?;
    hear(&mut stream, WatchEventKind::Created, "newer").await?;
    Ok(())
}

async fn a_single_file_can_be_watched(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "x").await?;
    let mut stream = sandbox.watch("file", false).await?;
    sandbox.text("echo y >> file").await?;
    hear(&mut stream, WatchEventKind::Modified, "").await?;
    Ok(())
}

async fn the_stream_ends_when_the_watched_path_is_gone(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("seen", false, None).await?;
    let mut stream = sandbox.watch("seen", true).await?;
    sandbox.remove_path("seen", RemoveOptions { recursive: true, missing_ok: false }).await?;
    let over = async {
        while stream.next().await?.is_some() {}
        Ok(())
    };
    timeout(SOON, over).await.map_err(|_| Failure::new("the stream does not end"))?
}

async fn a_missing_path_is_not_found(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("watch", sandbox.watch("nowhere", true).await.map(drop), &[ErrorKind::NotFound])?;
    Ok(())
}

async fn a_burst_is_told_whole_or_as_an_overflow(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    sandbox.make_dir("seen", false, None).await?;
    let mut stream = sandbox.watch("seen", true).await?;
    sandbox.guest(&["inodes", "seen", "30000"]).await?;
    sandbox.put("seen/last", "x").await?;
    // One may be told twice.
    let mut created = HashSet::new();
    let whole = async {
        loop {
            match stream.next().await? {
                Some(WatchEvent { kind: WatchEventKind::Overflow, .. }) => return Ok(()),
                Some(WatchEvent { kind: WatchEventKind::Created, path, .. }) if path == "last" => {
                    ensure_eq!(created.len(), 30_000, "files that were told, without an overflow");
                    return Ok(());
                }
                // A file that is put may have another name until it is whole.
                Some(WatchEvent { kind: WatchEventKind::Created, path, .. }) if path.parse::<u32>().is_ok() => drop(created.insert(path)),
                Some(_) => {}
                None => return Err(Failure::new("the stream ended")),
            }
        }
    };
    timeout(SOON, whole).await.map_err(|_| Failure::new("neither the last file nor an overflow was told"))?
}

async fn a_dropped_watch_costs_nothing(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("seen", false, None).await?;
    // More than fs.inotify.max_user_instances, 128 by default.
    for _ in 0..300 {
        drop(sandbox.watch("seen", false).await?);
    }
    let mut stream = sandbox.watch("seen", false).await?;
    sandbox.put("seen/file", "x").await?;
    hear(&mut stream, WatchEventKind::Created, "file").await?;
    Ok(())
}
