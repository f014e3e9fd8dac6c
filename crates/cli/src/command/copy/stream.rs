use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::stdio::{stdin, stdout};
use sandbar_core::{Error, ErrorKind, FileKind, PutOptions};
use sandbar_runtime::Sandbox;
use tar::{Archive, Builder, EntryType};

use super::{bridge, destination::Thing, download::Source, single, upload::find};
use crate::{
    error::{Failure, Outcome, usage},
    terminal,
};

/// Unpacks the tar stream of standard input into a directory of a sandbox, which must exist.
pub(super) async fn unpack(sandbox: &Sandbox, to: &str) -> Outcome {
    if terminal::stdin_is_terminal() {
        return Err(usage("standard input is a terminal; `cp -` reads a tar stream from it: tar c . | sandbar cp - ID:/path"));
    }
    match find(sandbox, to).await? {
        Some(stat) if stat.kind == FileKind::Directory => {}
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidInput, "cp", "the destination is not a directory").with("destination", to).into());
        }
        None => return Err(Error::new(ErrorKind::NotFound, "cp", "the destination does not exist").with("destination", to).into()),
    }
    let (mut writer, mut reader) = bridge::to_stream();
    let read = tokio::task::spawn_blocking(move || {
        let copied = io::copy(&mut Stdin, &mut writer);
        writer.finish(copied.err())
    });
    sandbox.put_dir(to, PutOptions::default(), &mut reader).await?;
    drop(reader);
    // It may still be reading what follows the archive's end, which nobody needs.
    read.abort();
    Ok(())
}

/// Writes a path of a sandbox to standard output as a tar stream, under its own name; the contents of `DIR/.` under theirs.
pub(super) async fn pack(sandbox: &Sandbox, from: &str, follow: bool) -> Outcome {
    if rustix::termios::isatty(stdout()) {
        return Err(usage("standard output is a terminal; `cp … -` writes a tar stream to it: sandbar cp ID:/path - | tar t"));
    }
    let Source { stat, thing, name } = Source::find(sandbox, from, follow).await?;
    let name = name.unwrap_or_else(|| "root".to_owned());
    let (reader, carry) = match (thing, stat.kind) {
        (Thing::File, FileKind::Symlink) => bridge::from_stream(Box::new(tokio::io::empty())),
        (Thing::File, _) => bridge::from_stream(sandbox.get_file(from, 0).await?.1),
        (Thing::Directory | Thing::Contents, _) => bridge::from_stream(sandbox.get_dir(from).await?),
    };
    let write = tokio::task::spawn_blocking(move || {
        let out = io::BufWriter::with_capacity(64 << 10, Stdout);
        match thing {
            Thing::File => {
                let entry = single::Entry {
                    mode: stat.mode,
                    modified_ns: i128::from(stat.modified_ns),
                    link: stat.symlink_target.map(String::into_bytes),
                    size: stat.size,
                };
                single::pack(&name, &entry, reader, out)
            }
            Thing::Directory => beneath(&name, reader, out),
            Thing::Contents => copy(reader, out),
        }
    });
    carry.await;
    let written = write.await.map_err(|error| Error::new(ErrorKind::Internal, "cp", "copying failed").with_source(error))?;
    written.map_err(Failure::output)
}

fn copy(mut reader: impl Read, mut out: impl Write) -> io::Result<()> {
    io::copy(&mut reader, &mut out)?;
    out.flush()
}

/// The same archive with every name beneath `name`.
fn beneath(name: &str, reader: impl Read, out: impl Write) -> io::Result<()> {
    let mut archive = Archive::new(reader);
    let mut builder = Builder::new(out);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let mut header = entry.header().clone();
        let path = within(name, &entry.path_bytes());
        let mut extensions = Vec::new();
        if let Some(read) = entry.pax_extensions()? {
            for extension in read {
                let extension = extension?;
                // The builder tells these by itself, as they are now.
                if let Ok(key) = extension.key()
                    && !matches!(key, "path" | "linkpath" | "size")
                {
                    extensions.push((key.to_owned(), extension.value_bytes().to_vec()));
                }
            }
        }
        if !extensions.is_empty() {
            builder.append_pax_extensions(extensions.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
        }
        match (header.entry_type(), entry.link_name_bytes().map(|target| target.into_owned())) {
            (EntryType::Link, Some(target)) => builder.append_link(&mut header, path, within(name, &target))?,
            (EntryType::Symlink, Some(target)) => builder.append_link(&mut header, path, Path::new(OsStr::from_bytes(&target)))?,
            _ => {
                header.set_size(entry.size());
                builder.append_data(&mut header, path, &mut entry)?;
            }
        }
    }
    builder.into_inner()?.flush()
}

fn within(name: &str, path: &[u8]) -> PathBuf {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    if matches!(path, b"" | b".") { PathBuf::from(format!("{name}/")) } else { Path::new(name).join(OsStr::from_bytes(path)) }
}

/// Standard input without `std`'s buffer and lock.
struct Stdin;

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(stdin(), buffer)?)
    }
}

/// Standard output without `std`'s line buffer.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(stdout(), data)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_goes_beneath_and_hard_links_with_it() {
        let mut archive = Builder::new(Vec::new());
        let mut add = |kind: EntryType, path: &str, link: &str, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o640);
            header.set_size(data.len() as u64);
            match kind {
                EntryType::Link | EntryType::Symlink => archive.append_link(&mut header, path, link).unwrap(),
                _ => archive.append_data(&mut header, path, data).unwrap(),
            }
        };
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
        add(EntryType::Directory, "./", "", b"");
        add(EntryType::Regular, &long, "", b"hello");
        add(EntryType::Link, "hard", &long, b"");
        add(EntryType::Symlink, "soft", "../up", b"");
        let packed = archive.into_inner().unwrap();

        let mut out = Vec::new();
        beneath("top", packed.as_slice(), &mut out).unwrap();
        let mut told = Vec::new();
        for entry in Archive::new(out.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut data = String::new();
            entry.read_to_string(&mut data).unwrap();
            let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
            told.push((String::from_utf8_lossy(&entry.path_bytes()).into_owned(), link, data));
        }
        let long = format!("top/{long}");
        assert_eq!(
            told,
            [
                ("top/".to_owned(), None, String::new()),
                (long.clone(), None, "hello".to_owned()),
                ("top/hard".to_owned(), Some(long), String::new()),
                ("top/soft".to_owned(), Some("../up".to_owned()), String::new()),
            ]
        );
    }
}
