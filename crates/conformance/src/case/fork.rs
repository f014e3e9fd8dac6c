use sandbar_core::{
    Feature::{DiskCheckpoint, Fork},
    Isolation, RemoveOptions, SandboxSpec,
};

use crate::{
    Context, Failure,
    Reach::{RealFiles, Shell},
    Sandbox,
    failure::{ensure, ensure_eq},
    suite::cases,
};

cases! { "fork";
    it_begins_where_the_checkpoint_is [.needs(&[DiskCheckpoint, Fork])],
    forks_and_source_do_not_touch_one_another [.needs(&[DiskCheckpoint, Fork])],
    no_process_is_carried_over [.needs(&[DiskCheckpoint, Fork])],
    metadata_is_kept [.needs(&[DiskCheckpoint, Fork]).reach(&[Shell, RealFiles])],
    removals_are_kept [.needs(&[DiskCheckpoint, Fork])],
    a_folder_made_anew_hides_the_old_one [.needs(&[DiskCheckpoint, Fork])],
    a_renamed_folder_stays_whole [.needs(&[DiskCheckpoint, Fork]).reach(&[Shell])],
    forks_of_forks_add_up [.needs(&[DiskCheckpoint, Fork])],
    it_has_an_identity_of_its_own [.needs(&[DiskCheckpoint, Fork]).reach(&[Shell])],
    the_source_may_be_gone [.needs(&[DiskCheckpoint, Fork])],
    many_at_once [.needs(&[DiskCheckpoint, Fork])],
    one_that_fails_leaves_nothing [.needs(&[DiskCheckpoint, Fork])],
}

const TREE: RemoveOptions = RemoveOptions { recursive: true, missing_ok: false };

/// A checkpoint of `of`, and a fork from it.
async fn forked(context: &Context, of: &Sandbox) -> Result<Sandbox, Failure> {
    let (layer, _) = context.checkpoint(of).await?;
    context.fork(of, &layer, SandboxSpec::default()).await
}

async fn it_begins_where_the_checkpoint_is(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("folder", false, None).await?;
    sandbox.put("folder/file", "carried over").await?;
    let fork = forked(context, &sandbox).await?;
    ensure_eq!(fork.get("folder/file").await?, b"carried over", "a file");
    ensure_eq!(fork.text("cat folder/file").await?, "carried over", "inside");
    Ok(())
}

async fn forks_and_source_do_not_touch_one_another(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "source").await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    let one = context.fork(&sandbox, &layer, SandboxSpec::default()).await?;
    let two = context.fork(&sandbox, &layer, SandboxSpec::default()).await?;
    one.put("file", "one").await?;
    two.remove_path("file", RemoveOptions::default()).await?;
    ensure_eq!(sandbox.get("file").await?, b"source", "the source");
    ensure_eq!(one.get("file").await?, b"one", "the first fork");
    ensure!(!two.has("file").await?, "the second fork has what it removed");
    let three = context.fork(&sandbox, &layer, SandboxSpec::default()).await?;
    ensure_eq!(three.get("file").await?, b"source", "a later fork");
    Ok(())
}

async fn no_process_is_carried_over(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let stream = sandbox.start_shell("sleep 1000").await?;
    let fork = forked(context, &sandbox).await?;
    ensure_eq!(fork.processes().await?, [], "processes of the fork");
    ensure_eq!(sandbox.process(stream.pid).await?.status, None, "the source's process");
    sandbox.kill(stream.pid).await
}

async fn metadata_is_kept(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let make = "umask 022; mkdir -p a/b; echo x > a/b/file; chmod 4751 a/b/file; ln a/b/file a/hard; ln -s b/file a/soft; \
        touch -d '2020-02-02 02:02:02' a/b/file; mkdir a/sticky; chmod 1777 a/sticky; mkfifo a/fifo; \
        dd if=/dev/zero of=a/sparse bs=1 count=1 seek=10000000 2>/dev/null";
    sandbox.text(make).await?;
    let look = "cd a; stat -c '%n %f %h %u %g %s' b/file hard soft fifo sparse; stat -c '%n %f %u %g' sticky; stat -c %Y b/file; \
        readlink soft; \
        test b/file -ef hard && echo same";
    // How large a folder is, and how many names it has, is its file system's own business.
    let before = sandbox.text(look).await?;
    let fork = forked(context, &sandbox).await?;
    ensure_eq!(fork.text(look).await?, before, "what stat says in the fork");
    let blocks: u64 = fork.text("stat -c %b a/sparse").await?.parse().unwrap_or(u64::MAX);
    ensure!(blocks < 2000, "a sparse file came as {blocks} blocks");
    Ok(())
}

async fn removals_are_kept(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("folder/below", true, None).await?;
    sandbox.put("folder/below/file", "x").await?;
    sandbox.put("file", "x").await?;
    let child = forked(context, &sandbox).await?;
    child.remove_path("file", RemoveOptions::default()).await?;
    child.remove_path("folder", TREE).await?;
    let grandchild = forked(context, &child).await?;
    ensure!(!grandchild.has("file").await?, "a removed file is back");
    ensure!(!grandchild.has("folder").await?, "a removed folder is back");
    ensure_eq!(sandbox.get("folder/below/file").await?, b"x", "the source's file");
    Ok(())
}

async fn a_folder_made_anew_hides_the_old_one(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("folder", false, None).await?;
    sandbox.put("folder/old", "x").await?;
    let child = forked(context, &sandbox).await?;
    child.remove_path("folder", TREE).await?;
    child.make_dir("folder", false, None).await?;
    child.put("folder/new", "y").await?;
    let grandchild = forked(context, &child).await?;
    let names: Vec<String> = grandchild.read_dir("folder").await?.into_iter().map(|entry| entry.name).collect();
    ensure_eq!(names, ["new"], "entries of the folder that was made anew");
    Ok(())
}

async fn a_renamed_folder_stays_whole(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.text("mkdir -p old/below; echo x > old/below/file").await?;
    let child = forked(context, &sandbox).await?;
    // On an overlay a folder of a lower layer may have to be copied to be renamed; `mv` does that, too.
    child.text("mv old new; echo y > new/below/second").await?;
    let grandchild = forked(context, &child).await?;
    ensure_eq!(grandchild.text("cat new/below/file new/below/second; test ! -e old && echo gone").await?, "x\ny\ngone", "after the move");
    Ok(())
}

async fn forks_of_forks_add_up(context: &Context) -> Result<(), Failure> {
    let mut sandbox = context.sandbox().await?;
    for level in 0..6 {
        sandbox.put(&format!("level-{level}"), level.to_string()).await?;
        sandbox.put("last", level.to_string()).await?;
        sandbox = forked(context, &sandbox).await?;
    }
    for level in 0..6 {
        ensure_eq!(sandbox.get(&format!("level-{level}")).await?, level.to_string().into_bytes(), "level {level}");
    }
    ensure_eq!(sandbox.get("last").await?, b"5", "the file that every level wrote");
    Ok(())
}

async fn it_has_an_identity_of_its_own(context: &Context) -> Result<(), Failure> {
    if context.subject().provider.info().isolation == Isolation::None {
        return Err(Failure::Ignored("without isolation the identity is the host's".to_owned()));
    }
    let sandbox = context.sandbox().await?;
    let fork = forked(context, &sandbox).await?;
    let look = "cat /proc/sys/kernel/hostname; cat /etc/machine-id 2>/dev/null || true";
    let (before, after) = (sandbox.text(look).await?, fork.text(look).await?);
    for (old, new) in before.lines().zip(after.lines()) {
        ensure!(old != new, "the fork has its source's {old:?}");
    }
    ensure_eq!(fork.text("cat /proc/sys/kernel/hostname").await?, fork.id().as_str(), "the host name");
    Ok(())
}

async fn the_source_may_be_gone(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "kept").await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    context.destroy(&sandbox).await?;
    let fork = context.fork(&sandbox, &layer, SandboxSpec::default()).await?;
    ensure_eq!(fork.get("file").await?, b"kept", "a file");
    Ok(())
}

async fn many_at_once(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "shared").await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    let one = || context.fork(&sandbox, &layer, SandboxSpec::default());
    let forks = tokio::try_join!(one(), one(), one(), one(), one(), one())?;
    for fork in [forks.0, forks.1, forks.2, forks.3, forks.4, forks.5] {
        ensure_eq!(fork.text("cat file").await?, "shared", "a fork");
    }
    Ok(())
}

async fn one_that_fails_leaves_nothing(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let nowhere = context.host_folder("nowhere")?.join("not/there");
    let from = Context::restore_request(&sandbox, &nowhere);
    let (mut request, journal) = context.request(SandboxSpec::default())?;
    request.root = from.root.clone();
    let folder = request.folder.clone();
    let outcome = context.subject().provider.restore(request, from).await;
    ensure!(outcome.is_err(), "a fork from nothing succeeded");
    let left: Vec<String> = journal.complaints().into_iter().chain(Context::left_in(&folder)).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
