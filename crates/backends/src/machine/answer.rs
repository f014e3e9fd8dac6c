//! The agent's answers as the contract has them. The agent may belong to root inside: everything is checked before it is used.

use sandbar_core::{DirEntry, Error, ErrorKind, ExitStatus, FileKind, FileStat, ProcessInfo, Result, WatchEvent, WatchEventKind};
use sandbar_protocol as wire;
use wire::KindOfFile;

/// Most characters of any text that is only shown to people.
const MAX_TEXT: usize = 1024;
/// Most bytes of a path: `PATH_MAX` of Linux.
const MAX_PATH: usize = 4096;
/// Most bytes of a name: `NAME_MAX` of Linux.
const MAX_NAME: usize = 255;

/// An answer that no honest agent gives.
pub(crate) fn nonsense(verb: &'static str, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, verb, format!("the agent's answer makes no sense: {what}"))
}

/// A failure as an error.
pub(crate) fn failure(verb: &'static str, failure: &wire::Failure) -> Error {
    let kind = ErrorKind::from_name(&failure.kind).unwrap_or(ErrorKind::Internal);
    let error = Error::new(kind, verb, text(&failure.message));
    match failure.errno {
        Some(number @ 1..=4095) => error.with_source(std::io::Error::from_raw_os_error(number)),
        _ => error,
    }
}

/// A text of bounded length that cannot play tricks on a terminal.
pub(super) fn text(untrusted: &str) -> String {
    let printable = untrusted.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character });
    let mut bounded: String = printable.take(MAX_TEXT).collect();
    if untrusted.chars().nth(MAX_TEXT).is_some() {
        bounded.push('…');
    }
    bounded
}

/// A process id.
pub(super) fn pid(verb: &'static str, pid: u32) -> Result<u32> {
    if (1..=i32::MAX as u32).contains(&pid) { Ok(pid) } else { Err(nonsense(verb, "a process id out of range")) }
}

/// How a process ended.
pub(super) fn status(verb: &'static str, status: Option<wire::Status>) -> Result<ExitStatus> {
    match status {
        Some(wire::Status { code: Some(code @ 0..=255), signal: None, timed_out }) => {
            Ok(ExitStatus { timed_out, ..ExitStatus::exited(code) })
        }
        Some(wire::Status { code: None, signal: Some(signal @ 1..=64), timed_out }) => {
            Ok(ExitStatus { timed_out, ..ExitStatus::signaled(signal) })
        }
        _ => Err(nonsense(verb, "a status that is neither a code nor a signal")),
    }
}

/// A process.
pub(super) fn process(verb: &'static str, process: wire::Process) -> Result<ProcessInfo> {
    if process.output_start > process.output_end {
        return Err(nonsense(verb, "output that ends before it begins"));
    }
    Ok(ProcessInfo {
        pid: pid(verb, process.pid)?,
        command: text(&process.command),
        started_ms: process.started_ms,
        ended_ms: process.ended_ms,
        status: process.status.map(|ended| status(verb, Some(ended))).transpose()?,
        pty: process.pty,
        attached: process.attached,
        output_start: process.output_start,
        output_end: process.output_end,
        epoch: process.epoch,
    })
}

/// What a path is.
pub(super) fn stat(verb: &'static str, entry: wire::Entry) -> Result<FileStat> {
    let kind = match KindOfFile::try_from(entry.kind) {
        Ok(KindOfFile::File) => FileKind::File,
        Ok(KindOfFile::Directory) => FileKind::Directory,
        Ok(KindOfFile::Symlink) => FileKind::Symlink,
        // A kind that a later agent knows is neither of the three.
        Ok(KindOfFile::Other) | Err(_) => FileKind::Other,
    };
    let symlink_target = match entry.symlink_target {
        Some(target) if target.len() > MAX_PATH || target.contains(&0) => return Err(nonsense(verb, "a link's target that no link has")),
        target => target.map(|target| String::from_utf8_lossy(&target).into_owned()),
    };
    if entry.mode > 0o7777 {
        return Err(nonsense(verb, "permission bits that do not exist"));
    }
    Ok(FileStat {
        kind,
        size: entry.size,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        modified_ns: entry.modified_ns,
        symlink_target,
    })
}

/// An entry of a directory.
pub(super) fn entry(verb: &'static str, entry: wire::Entry) -> Result<DirEntry> {
    let name = entry.name.as_slice();
    let is_name =
        !name.is_empty() && name.len() <= MAX_NAME && !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b"..";
    if !is_name {
        return Err(nonsense(verb, "an entry whose name is no name"));
    }
    Ok(DirEntry { name: String::from_utf8_lossy(name).into_owned(), stat: stat(verb, entry)? })
}

/// A change under watch.
pub(super) fn watch_event(verb: &'static str, event: wire::WatchEvent) -> Result<WatchEvent> {
    let kind = match event.kind {
        0 => WatchEventKind::Overflow,
        1 => WatchEventKind::Created,
        2 => WatchEventKind::Modified,
        3 => WatchEventKind::Removed,
        4 => WatchEventKind::Attributes,
        _ => return Err(nonsense(verb, "an unknown kind of event")),
    };
    let outside = event.path.starts_with(b"/") || event.path.split(|byte| *byte == b'/').any(|name| name == b"..");
    if outside || event.path.len() > MAX_PATH || event.path.contains(&0) {
        return Err(nonsense(verb, "an event outside of the watched path"));
    }
    Ok(WatchEvent { kind, path: String::from_utf8_lossy(&event.path).into_owned(), is_directory: event.is_directory })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let named = |name: &[u8]| entry("test", wire::Entry { name: name.to_vec(), ..wire::Entry::default() });
        for bad in [&b""[..], b".", b"..", b"a/b", b"/etc/passwd", b"a\0b", &[b'x'; 256]] {
            assert_eq!(named(bad).unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
        assert_eq!(named(b"a b").unwrap().name, "a b");
        assert_eq!(named(b"\xff").unwrap().name, "\u{fffd}");
    }

    #[test]
    fn a_status_is_a_code_or_a_signal() {
        let of = |code, signal| status("test", Some(wire::Status { code, signal, timed_out: false }));
        assert_eq!(of(Some(3), None).unwrap(), ExitStatus::exited(3));
        assert_eq!(of(None, Some(9)).unwrap(), ExitStatus::signaled(9));
        for (code, signal) in [(None, None), (Some(1), Some(9)), (Some(-1), None), (Some(256), None), (None, Some(0)), (None, Some(65))] {
            assert!(of(code, signal).is_err(), "{code:?} {signal:?}");
        }
    }

    #[test]
    fn texts_are_bounded_and_have_no_escapes() {
        let shown = text(&"\u{1b}[31m".repeat(10_000));
        assert!(shown.chars().count() == MAX_TEXT + 1 && !shown.contains('\u{1b}'));
        assert_eq!(text("plain ä"), "plain ä");
    }

    #[test]
    fn failures_keep_kind_and_cause() {
        let error = failure("stat", &wire::Failure { kind: "not_found".into(), message: "no such path".into(), errno: Some(2) });
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.chain().contains("No such file"), "{}", error.chain());
        let unknown = failure("stat", &wire::Failure { kind: "new_kind".into(), message: String::new(), errno: Some(-5) });
        assert_eq!(unknown.kind(), ErrorKind::Internal);
    }

    #[test]
    fn events_outside_of_the_watched_path_are_refused() {
        let at = |path: &[u8]| watch_event("watch", wire::WatchEvent { kind: 1, path: path.to_vec(), is_directory: false });
        assert!(at(b"/x").is_err() && at(b"a/../../x").is_err() && at(b"a\0").is_err());
        assert_eq!(at(b"a/..b").unwrap().path, "a/..b");
    }
}
