use std::{
    io,
    pin::Pin,
    task::{Context as Poller, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sandbar_core::{ErrorKind, ExecRequest, FileKind, PutOptions};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::timeout,
};

use crate::{
    Context, Failure,
    Reach::{OwnRoot, Shell},
    failure::{ensure, ensure_eq, refused},
    sandbox::{SOON, noise},
    suite::cases,
};

cases! { "file";
    what_is_put_is_got,
    an_empty_file_is_a_file,
    the_shell_sees_what_was_put_and_the_other_way_round,
    a_new_file_has_mode_644_or_the_one_asked_for,
    replacing_keeps_the_mode_unless_asked,
    a_program_that_was_put_can_be_executed_at_once [.reach(&[Shell])],
    odd_names_are_names,
    missing_parents_are_made_only_when_asked,
    no_replace_is_kept,
    a_reader_sees_the_old_or_the_new_content [.reach(&[Shell])],
    a_put_that_fails_replaces_nothing_and_leaves_nothing,
    a_symbolic_link_is_replaced_through,
    a_directory_cannot_be_put_over,
    reading_begins_at_the_offset,
    a_missing_file_is_not_found,
    a_directory_is_no_file,
    a_fifo_or_device_is_no_file_and_does_not_hang [.reach(&[Shell])],
    a_file_that_cannot_be_read_is_told [.reach(&[Shell, OwnRoot])],
    a_file_in_the_way_of_a_path_is_told,
    stat_tells_what_is_there,
    stat_follows_a_link_only_when_asked,
    paths_are_checked,
    many_files_at_once [.heavy()],
    a_file_that_is_removed_while_it_is_read_is_read_to_its_end [.reach(&[Shell])],
    a_reader_that_goes_away_leaves_nothing_behind,
    a_reader_that_rests_before_the_end_misses_nothing,
}

async fn what_is_put_is_got(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for length in [1, 4095, 65536, 65537, 3_000_001] {
        let bytes = noise(length, length as u64);
        sandbox.put("file", &bytes).await?;
        ensure!(sandbox.get("file").await? == bytes, "{length} bytes came back changed");
        ensure_eq!(sandbox.stat("file", true).await?.size, length as u64, "the size");
    }
    Ok(())
}

async fn an_empty_file_is_a_file(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("empty", "").await?;
    ensure_eq!(sandbox.get("empty").await?, b"", "content");
    let stat = sandbox.stat("empty", true).await?;
    ensure_eq!((stat.kind, stat.size), (FileKind::File, 0), "stat");
    Ok(())
}

async fn the_shell_sees_what_was_put_and_the_other_way_round(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("from-host", "hello\n").await?;
    ensure_eq!(sandbox.text("cat from-host").await?, "hello", "inside");
    sandbox.text("echo inside > from-guest").await?;
    ensure_eq!(sandbox.get("from-guest").await?, b"inside\n", "outside");
    let here = sandbox.text("pwd").await?;
    ensure_eq!(sandbox.get(&format!("{here}/from-guest")).await?, b"inside\n", "by its absolute path");
    Ok(())
}

async fn a_new_file_has_mode_644_or_the_one_asked_for(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("plain", "x").await?;
    ensure_eq!(sandbox.stat("plain", true).await?.mode, 0o644, "unless asked");
    for mode in [0o600, 0o755, 0o777, 0o444, 0o000] {
        let path = format!("file-{mode:o}");
        sandbox.put_with(&path, PutOptions { mode: Some(mode), ..PutOptions::default() }, "x").await?;
        ensure_eq!(sandbox.stat(&path, true).await?.mode, mode, "{path}");
    }
    Ok(())
}

async fn replacing_keeps_the_mode_unless_asked(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_with("file", PutOptions { mode: Some(0o750), ..PutOptions::default() }, "old").await?;
    sandbox.put("file", "new").await?;
    ensure_eq!((sandbox.get("file").await?, sandbox.stat("file", true).await?.mode), (b"new".to_vec(), 0o750), "kept");
    sandbox.put_with("file", PutOptions { mode: Some(0o640), ..PutOptions::default() }, "newer").await?;
    ensure_eq!(sandbox.stat("file", true).await?.mode, 0o640, "asked for");
    Ok(())
}

async fn a_program_that_was_put_can_be_executed_at_once(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    // A program that somebody still has open for writing is busy; many at a time, so that one's writing meets another's start.
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..8 {
        let sandbox = sandbox.clone();
        tasks.spawn(async move {
            for round in 0..15 {
                let (path, executable) = (format!("./program-{index}"), PutOptions { mode: Some(0o755), ..PutOptions::default() });
                sandbox.put_with(&path, executable, crate::GUEST_PROGRAM).await?;
                let result = sandbox.exec(ExecRequest::argv([path.as_str(), "noise", "3", "1"])).await;
                let result = result.map_err(|error| Failure::from(error).during(format!("program {index}, round {round}")))?;
                ensure_eq!(result.stdout.len(), 3, "its output");
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome??;
    }
    Ok(())
}

async fn odd_names_are_names(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let names =
        ["with space", "-dash", "new\nline", "ünïcödé-文字", "star*", "quote'\"", "back\\slash", "...", ".hidden", &"n".repeat(255)];
    for name in names {
        sandbox.put(&format!("./{name}"), name).await.map_err(|error| Failure::from(error).during(format!("{name:?}")))?;
        ensure_eq!(sandbox.get(&format!("./{name}")).await?, name.as_bytes(), "{name:?}");
    }
    let listed: Vec<String> = sandbox.read_dir(".").await?.into_iter().map(|entry| entry.name).collect();
    for name in names {
        ensure!(listed.iter().any(|listed| listed == name), "{name:?} is not listed in {listed:?}");
    }
    Ok(())
}

async fn missing_parents_are_made_only_when_asked(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("without", sandbox.put("a/b/file", "x").await, &[ErrorKind::NotFound])?;
    ensure!(!sandbox.has("a").await?, "a refused put made a parent");
    let parents = PutOptions { make_parents: true, ..PutOptions::default() };
    sandbox.put_with("a/b/file", parents.clone(), "x").await?;
    sandbox.put_with("a/b/second", parents, "y").await?;
    ensure_eq!(sandbox.get("a/b/file").await?, b"x", "content");
    Ok(())
}

async fn no_replace_is_kept(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let careful = PutOptions { no_replace: true, ..PutOptions::default() };
    sandbox.make_dir("box", false, None).await?;
    sandbox.put_with("box/file", careful.clone(), "first").await?;
    refused("the second", sandbox.put_with("box/file", careful.clone(), "second").await, &[ErrorKind::AlreadyExists])?;
    ensure_eq!(sandbox.get("box/file").await?, b"first", "content");
    sandbox.symlink("nowhere", "box/link").await?;
    refused("over a dangling link", sandbox.put_with("box/link", careful, "x").await, &[ErrorKind::AlreadyExists])?;
    let names: Vec<String> = sandbox.read_dir("box").await?.into_iter().map(|entry| entry.name).collect();
    ensure_eq!(names, ["file", "link"], "entries");
    Ok(())
}

async fn a_reader_sees_the_old_or_the_new_content(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", vec![b'0'; 300_000]).await?;
    let watcher = sandbox.start_shell("while :; do cksum < file; if [ -e stop ]; then break; fi; done | sort -u > seen").await?;
    for round in 0..40 {
        sandbox.put("file", vec![b'0' + round % 2; 300_000]).await?;
    }
    sandbox.put("stop", "").await?;
    sandbox.ended(watcher.pid).await?;
    let seen = sandbox.text("cat seen").await?;
    let whole = [
        sandbox.text("head -c 300000 /dev/zero | tr '\\0' 0 | cksum").await?,
        sandbox.text("head -c 300000 /dev/zero | tr '\\0' 1 | cksum").await?,
    ];
    let others: Vec<&str> = seen.lines().filter(|line| !whole.iter().any(|whole| whole == line)).collect();
    ensure!(others.is_empty() && !seen.is_empty(), "a reader saw something else: {others:?} in {seen:?}");
    Ok(())
}

/// Gives some bytes, then fails.
struct Breaks(usize);

impl AsyncRead for Breaks {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Poller<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.0 == 0 {
            return Poll::Ready(Err(io::Error::other("the source broke")));
        }
        let length = self.0.min(buffer.remaining());
        buffer.put_slice(&vec![b'n'; length]);
        self.0 -= length;
        Poll::Ready(Ok(()))
    }
}

async fn a_put_that_fails_replaces_nothing_and_leaves_nothing(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("box", false, None).await?;
    sandbox.put("box/file", "old").await?;
    for path in ["box/file", "box/fresh"] {
        for length in [0, 10, 500_000] {
            let outcome = sandbox.put_file(path, PutOptions::default(), &mut Breaks(length)).await;
            ensure!(outcome.is_err(), "a put of a source that broke after {length} bytes succeeded");
        }
    }
    ensure_eq!(sandbox.get("box/file").await?, b"old", "content");
    let quiet = async {
        loop {
            let names: Vec<String> = sandbox.read_dir("box").await?.into_iter().map(|entry| entry.name).collect();
            if names == ["file"] {
                return Ok::<_, Failure>(());
            }
            tokio::time::sleep(crate::sandbox::POLL).await;
        }
    };
    timeout(SOON, quiet).await.map_err(|_| Failure::new("a temporary file is left"))?
}

async fn a_symbolic_link_is_replaced_through(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("folder", false, None).await?;
    sandbox.put("folder/target", "old").await?;
    sandbox.symlink("folder/target", "link").await?;
    sandbox.put("link", "new").await?;
    ensure_eq!(sandbox.stat("link", false).await?.kind, FileKind::Symlink, "the link");
    ensure_eq!(sandbox.get("folder/target").await?, b"new", "the target");
    ensure_eq!(sandbox.read_dir("folder").await?.len(), 1, "entries beside the target");
    Ok(())
}

async fn a_directory_cannot_be_put_over(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("folder", false, None).await?;
    refused("over a directory", sandbox.put("folder", "x").await, &[ErrorKind::InvalidInput])?;
    ensure_eq!(sandbox.stat("folder", false).await?.kind, FileKind::Directory, "the directory");
    Ok(())
}

async fn reading_begins_at_the_offset(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let bytes = noise(200_000, 2);
    sandbox.put("file", &bytes).await?;
    for offset in [0, 1, 65536, 199_999, 200_000] {
        ensure!(sandbox.get_from("file", offset as u64).await? == bytes[offset..], "from {offset}");
    }
    ensure_eq!(sandbox.get_from("file", 1 << 40).await?, b"", "from far behind the end");
    ensure_eq!(sandbox.get_file("file", 100).await?.0.size, 200_000, "the size is the file's");
    Ok(())
}

async fn a_missing_file_is_not_found(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("get", sandbox.get("nothing").await, &[ErrorKind::NotFound])?;
    refused("stat", sandbox.stat("nothing", true).await, &[ErrorKind::NotFound])?;
    refused("get below", sandbox.get("nothing/file").await, &[ErrorKind::NotFound])?;
    sandbox.symlink("nothing", "link").await?;
    refused("get through a dangling link", sandbox.get("link").await, &[ErrorKind::NotFound])?;
    Ok(())
}

async fn a_directory_is_no_file(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("folder", false, None).await?;
    refused("get", sandbox.get("folder").await, &[ErrorKind::InvalidInput])?;
    Ok(())
}

async fn a_fifo_or_device_is_no_file_and_does_not_hang(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.text("mkfifo fifo").await?;
    refused("a fifo", timeout(SOON, sandbox.get("fifo")).await?, &[ErrorKind::InvalidInput])?;
    if context.subject().reach.contains(&crate::Reach::OwnRoot) {
        refused("a device", timeout(SOON, sandbox.get("/dev/zero")).await?, &[ErrorKind::InvalidInput])?;
    }
    ensure_eq!(sandbox.stat("fifo", true).await?.kind, FileKind::Other, "a fifo's kind");
    timeout(SOON, sandbox.put("fifo", "x"))
        .await?
        .or_else(|error| refused("put", Err::<(), _>(error), &[ErrorKind::InvalidInput]).map(drop))
}

async fn a_file_that_cannot_be_read_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    // A regular file that opens, and whose first byte cannot be read.
    let outcome = timeout(SOON, sandbox.get("/proc/self/mem")).await?;
    ensure!(outcome.is_err(), "its stream ended as if it had been read");
    Ok(())
}

async fn a_file_in_the_way_of_a_path_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "x").await?;
    let kinds = [ErrorKind::InvalidInput, ErrorKind::NotFound];
    refused("get", sandbox.get("file/below").await, &kinds)?;
    refused("put", sandbox.put("file/below", "x").await, &kinds)?;
    refused("stat", sandbox.stat("file/below", false).await, &kinds)?;
    Ok(())
}

async fn stat_tells_what_is_there(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_with("file", PutOptions { mode: Some(0o640), ..PutOptions::default() }, "12345").await?;
    let stat = sandbox.stat("file", false).await?;
    ensure_eq!((stat.kind, stat.size, stat.mode, stat.symlink_target), (FileKind::File, 5, 0o640, None), "a file");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let distance = now.abs_diff(Duration::from_nanos(stat.modified_ns.unsigned_abs()));
    ensure!(distance < Duration::from_secs(60), "it was modified {distance:?} from now");
    sandbox.make_dir("folder", false, Some(0o711)).await?;
    let stat = sandbox.stat("folder", false).await?;
    ensure_eq!((stat.kind, stat.mode), (FileKind::Directory, 0o711), "a directory");
    Ok(())
}

async fn stat_follows_a_link_only_when_asked(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "12345").await?;
    sandbox.symlink("file", "link").await?;
    sandbox.symlink("any text at all", "dangling").await?;
    let stat = sandbox.stat("link", false).await?;
    ensure_eq!((stat.kind, stat.symlink_target.as_deref()), (FileKind::Symlink, Some("file")), "the link");
    ensure_eq!(sandbox.stat("link", true).await?.size, 5, "what it points to");
    ensure_eq!(sandbox.stat("dangling", false).await?.symlink_target.as_deref(), Some("any text at all"), "a dangling link");
    refused("a dangling link followed", sandbox.stat("dangling", true).await, &[ErrorKind::NotFound])?;
    sandbox.symlink("loop", "loop").await?;
    ensure!(sandbox.stat("loop", true).await.is_err(), "a link to itself leads somewhere");
    Ok(())
}

async fn paths_are_checked(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for path in ["", "a\0b", &"x/".repeat(2100)] {
        let what = format!("{:?}", path.get(..10).unwrap_or(path));
        refused(&what, sandbox.put(path, "x").await, &[ErrorKind::InvalidInput])?;
        refused(&what, sandbox.get(path).await, &[ErrorKind::InvalidInput])?;
        refused(&what, sandbox.stat(path, true).await, &[ErrorKind::InvalidInput])?;
    }
    refused("a name of 256 bytes", sandbox.put(&"n".repeat(256), "x").await, &[ErrorKind::InvalidInput])?;
    Ok(())
}

async fn many_files_at_once(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..40u64 {
        let sandbox = sandbox.clone();
        tasks.spawn(async move {
            let (path, bytes) = (format!("file-{index}"), noise(100_000, index));
            sandbox.put(&path, &bytes).await?;
            ensure!(sandbox.get(&path).await? == bytes, "{path} came back changed");
            Ok::<_, Failure>(())
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome??;
    }
    Ok(())
}

async fn a_file_that_is_removed_while_it_is_read_is_read_to_its_end(context: &Context) -> Result<(), Failure> {
    use tokio::io::AsyncReadExt;

    let sandbox = context.sandbox().await?;
    let bytes = noise(8 << 20, 4);
    sandbox.put("file", &bytes).await?;
    let (_, mut reader) = sandbox.get_file("file", 0).await?;
    let mut first = vec![0; 1000];
    reader.read_exact(&mut first).await?;
    sandbox.text("rm file").await?;
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).await?;
    ensure!(first == bytes[..1000] && rest == bytes[1000..], "{} bytes of {} came", 1000 + rest.len(), bytes.len());
    Ok(())
}

async fn a_reader_that_goes_away_leaves_nothing_behind(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", noise(16 << 20, 9)).await?;
    for _ in 0..20 {
        let (_, reader) = sandbox.get_file("file", 0).await?;
        drop(reader);
    }
    ensure_eq!(sandbox.get_from("file", (16 << 20) - 5).await?.len(), 5, "afterwards");
    Ok(())
}

async fn a_reader_that_rests_before_the_end_misses_nothing(context: &Context) -> Result<(), Failure> {
    use tokio::io::AsyncReadExt;

    /// Firecracker forgets a connection that its guest has closed after two seconds.
    const REST: Duration = Duration::from_secs(3);
    let sandbox = context.sandbox().await?;
    // Little enough for the buffers on the way: who sends it is done before anybody has read it.
    let bytes = noise(300_000, 6);
    sandbox.put("file", &bytes).await?;
    let (_, mut reader) = sandbox.get_file("file", 0).await?;
    tokio::time::sleep(REST).await;
    let mut read = Vec::new();
    reader.read_to_end(&mut read).await?;
    ensure!(read == bytes, "{} bytes of {} came", read.len(), bytes.len());
    Ok(())
}
