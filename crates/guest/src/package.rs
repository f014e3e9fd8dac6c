//! A kernel's Debian package: an `ar` archive with a tar in it.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use sandbar_core::{Context as _, Error, ErrorKind, Result};
use sandbar_tree::{Limits, UnpackOptions};

use super::compression::{Format, stream};

const OPERATION: &str = "kernel import";
/// `ar(5)`: the first bytes of an archive, and the length of a member's header.
const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER: usize = 60;
/// The most that a package may unpack to. Debian's largest (all drivers) is about 500 MiB.
const LIMITS: Limits = Limits { bytes: 4 << 30, entries: 100_000, name: 255, path: 4096 };

/// Whether a file is a Debian package, by its first bytes.
pub(crate) fn is_package(path: &Path) -> bool {
    let mut begin = [0; MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok() && begin == *MAGIC
}

/// Unpacks a package into an empty folder; the kernel's file, and the folder of its modules.
///
/// # Errors
/// `Corrupt` for what is no package, or none of a kernel; `ResourceExhausted` for more than any kernel holds.
pub(crate) fn unpack(package: &Path, into: &Path) -> Result<(PathBuf, PathBuf)> {
    let file = File::open(package).context(OPERATION, || format!("cannot open {}", package.display()))?;
    let data = data(BufReader::new(file)).map_err(|error| corrupt("the package is damaged").with_source(error))?;
    let (name, mut data) = data.ok_or_else(|| corrupt("the package has no data"))?;
    let mut begin = [0; 6];
    let read = read_begin(&mut data, &mut begin).map_err(|error| corrupt("the package is damaged").with_source(error))?;
    let format = Format::of(&begin[..read]);
    let plain = stream(format, begin[..read].chain(data)).map_err(|error| error.with("member", &name))?;
    let site = File::open(into).context(OPERATION, || format!("cannot open {}", into.display()))?;
    // A kernel's package holds files and folders only; what else one may hold is refused or belongs to us.
    let options = UnpackOptions { limits: LIMITS, ..UnpackOptions::default() };
    sandbar_tree::unpack(BufReader::new(plain), &site, &options)
        .map_err(|error| corrupt("the package cannot be unpacked").with_source(error))?;
    let kernel = only(&into.join("boot"), "vmlinuz-")?;
    let modules = ["usr/lib/modules", "lib/modules"].iter().map(|path| into.join(path)).find(|path| is_folder(path));
    let modules = modules.ok_or_else(|| corrupt("the package has no modules"))?;
    Ok((kernel, only(&modules, "")?))
}

/// The member `data.tar…`, up to its end.
fn data(mut archive: impl Read) -> io::Result<Option<(String, impl Read)>> {
    let mut magic = [0; MAGIC.len()];
    archive.read_exact(&mut magic)?;
    let mut header = [0; HEADER];
    // A package has three members.
    for _ in 0..16 {
        match archive.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().trim_end_matches('/').to_owned();
        let (name, size) = (text(&header[..16]), text(&header[48..58]));
        let size: u64 = size.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a member without a size"))?;
        if name.starts_with("data.tar") {
            return Ok(Some((name, archive.take(size))));
        }
        // Members begin at even offsets.
        io::copy(&mut archive.by_ref().take(size + size % 2), &mut io::sink())?;
    }
    Ok(None)
}

fn read_begin(from: &mut impl Read, begin: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < begin.len() {
        match from.read(&mut begin[read..])? {
            0 => break,
            length => read += length,
        }
    }
    Ok(read)
}

/// The only thing in a folder whose name begins so.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found = names.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path());
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        (None, _) => Err(corrupt("this is not a kernel's package")
            .with("missing", format!("{}/{prefix}…", folder.file_name().unwrap_or_default().display()))
            .with_hint(
                "a name like linux-image-amd64 is an empty package that depends on the kernel's own: apt-cache depends linux-image-amd64",
            )),
        (Some(_), Some(_)) => Err(corrupt("the package holds several kernels")),
    }
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

fn corrupt(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, OPERATION, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = MAGIC.to_vec();
        for (name, bytes) in members {
            archive.extend_from_slice(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, bytes.len()).as_bytes());
            archive.extend_from_slice(bytes);
            archive.resize(archive.len().next_multiple_of(2), b'\n');
        }
        archive
    }

    fn tarball(files: &[&str]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for path in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(1);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, b"x".as_slice()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> Result<(PathBuf, PathBuf)> {
        let home = tempfile::tempdir().unwrap();
        let package = home.path().join("kernel.deb");
        fs::write(&package, bytes).unwrap();
        fs::create_dir(home.path().join("into")).unwrap();
        unpack(&package, &home.path().join("into"))
    }

    #[test]
    fn a_kernel_and_its_modules_are_found_in_a_package() {
        let data = zstd::encode_all(tarball(&["boot/vmlinuz-6.1", "lib/modules/6.1/kernel/a.ko"]).as_slice(), 1).unwrap();
        let (kernel, modules) = unpacked(&archive(&[("debian-binary", b"2.0"), ("control.tar", b""), ("data.tar.zst", &data)])).unwrap();
        assert!(kernel.ends_with("boot/vmlinuz-6.1") && modules.ends_with("lib/modules/6.1"));
    }

    #[test]
    fn other_packages_and_damaged_ones_are_refused() {
        for bytes in [
            archive(&[("debian-binary", b"2.0")]),
            archive(&[("data.tar", &tarball(&["usr/bin/vim"]))]),
            archive(&[("data.tar", &tarball(&["boot/vmlinuz-6.1", "boot/vmlinuz-6.2", "lib/modules/6.1/a.ko"]))]),
            archive(&[("data.tar", b"short")]),
            b"!<arch>\nnonsense".to_vec(),
        ] {
            assert_eq!(unpacked(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
