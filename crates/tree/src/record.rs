//! One entry of a tar archive as its headers describe it: ustar, GNU and PAX told together.

use crate::entry_path::shown;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{Kind, Time};
use std::io;
use tar::Header;

/// What an entry of an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// A thing of its own.
    Thing(Kind),
    /// Another name for an entry before it.
    HardLink,
}

/// One entry. Names are as the archive has them, not yet judged.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: RecordKind,
    /// The target of a symbolic or hard link.
    pub(crate) link: Vec<u8>,
    /// Bytes of content that follow in the archive; zero for all but regular files.
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: Time,
    /// Extended attributes, in the archive's order.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What the records before an entry say about it; a value here goes before the one in the entry's header.
#[derive(Debug, Default)]
pub(crate) struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

impl Extensions {
    /// A GNU long name: the bytes up to the first NUL.
    pub(crate) fn set_gnu_path(&mut self, data: &[u8]) {
        self.gnu_path = Some(until_nul(data).to_vec());
    }

    /// A GNU long link target.
    pub(crate) fn set_gnu_link(&mut self, data: &[u8]) {
        self.gnu_link = Some(until_nul(data).to_vec());
    }

    /// PAX records: `length key=value\n`, where the length counts the whole record. (By length and not by line:
    /// names and attributes may hold newlines.)
    pub(crate) fn add_pax(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let (key, value, rest) = pax_record(data).ok_or_else(|| malformed(b"", "a PAX record is damaged"))?;
            data = rest;
            self.set(key, value)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value, "size")?),
            b"uid" => self.uid = Some(number(value, "uid")?),
            b"gid" => self.gid = Some(number(value, "gid")?),
            b"mtime" => self.mtime = Some(pax_time(value).ok_or_else(|| malformed(b"", "a PAX time is no number"))?),
            _ if key.starts_with(b"GNU.sparse.") => return Err(sparse(b"")),
            _ => {
                if let Some(name) = key.strip_prefix(ATTRIBUTE) {
                    self.attributes.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Whether the header's checksum holds, counted as unsigned bytes or, as ancient programs did, as signed ones.
pub(crate) fn checksum_holds(header: &Header) -> bool {
    let Ok(stated) = header.cksum() else { return false };
    let blank = |(index, byte): (usize, &u8)| if (148..156).contains(&index) { b' ' } else { *byte };
    let bytes = || header.as_bytes().iter().enumerate().map(blank);
    let unsigned: u32 = bytes().map(u32::from).sum();
    let signed: i32 = bytes().map(|byte| i32::from(byte.cast_signed())).sum();
    unsigned == stated || i64::from(signed) == i64::from(stated)
}

/// The size field of a header by itself: of an extension's data.
pub(crate) fn own_size(header: &Header) -> Result<u64> {
    field(header, &header.as_old().size, header.entry_size())
}

/// Puts a header and the extensions before it together.
pub(crate) fn record(header: &Header, extensions: Extensions) -> Result<Record> {
    let path = extensions.path.or(extensions.gnu_path).unwrap_or_else(|| header.path_bytes().into_owned());
    let stated_link = || header.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
    let link = extensions.link.or(extensions.gnu_link).unwrap_or_else(stated_link);
    let old = header.as_old();
    let kind = kind(header, &path)?;
    let size = match kind {
        RecordKind::Thing(Kind::File) => match extensions.size {
            Some(size) => size,
            None => own_size(header)?,
        },
        // Only headers, whatever their size field says; GNU tar and Go read them so too.
        _ => 0,
    };
    let mtime = match extensions.mtime {
        Some(time) => time,
        // A base-256 field may be negative; its low 64 bits are the number.
        None => Time { seconds: field(header, &old.mtime, header.mtime())?.cast_signed(), nanoseconds: 0 },
    };
    let mode = field(header, &old.mode, header.mode().map(u64::from))? & 0o7777;
    Ok(Record {
        kind,
        link,
        size,
        mode: u32::try_from(mode).unwrap_or(0),
        uid: match extensions.uid {
            Some(uid) => uid,
            None => field(header, &old.uid, header.uid())?,
        },
        gid: match extensions.gid {
            Some(gid) => gid,
            None => field(header, &old.gid, header.gid())?,
        },
        mtime,
        attributes: extensions.attributes,
        path,
    })
}

fn kind(header: &Header, path: &[u8]) -> Result<RecordKind> {
    let device = || -> Result<(u32, u32)> {
        let number = |number: io::Result<Option<u32>>| match number {
            Ok(Some(number)) => Ok(number),
            _ => Err(malformed(path, "device numbers are missing or damaged")),
        };
        Ok((number(header.device_major())?, number(header.device_minor())?))
    };
    let thing = match header.as_old().linkflag[0] {
        // Before ustar, a directory was a file whose name ends in a slash.
        b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' => Kind::File,
        b'1' => return Ok(RecordKind::HardLink),
        b'2' => Kind::Symlink,
        b'3' => {
            let (major, minor) = device()?;
            Kind::CharDevice { major, minor }
        }
        b'4' => {
            let (major, minor) = device()?;
            Kind::BlockDevice { major, minor }
        }
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'S' => return Err(sparse(path)),
        other => {
            let reason = format!("entries of type `{}` are not supported", other.escape_ascii());
            return Err(Error::new(ErrorKind::Unsupported, "unpack", shown(path), reason));
        }
    };
    Ok(RecordKind::Thing(thing))
}

/// A numeric field; one that is blank is zero, which the `tar` crate takes for an error.
fn field(header: &Header, bytes: &[u8], parsed: io::Result<u64>) -> Result<u64> {
    if bytes.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    parsed.map_err(|_| malformed(&header.path_bytes(), "a number in the header is damaged"))
}

fn pax_record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length = digits(&data[..blank])?;
    let length = usize::try_from(length).ok().filter(|length| *length <= data.len() && *length > blank + 1)?;
    let (record, rest) = data.split_at(length);
    let body = record[blank + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=').filter(|equals| *equals > 0)?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

/// `-12.5` as half a second before -12.
fn pax_time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    let seconds = i64::try_from(digits(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let place = |index| fraction.get(index).map_or(0, |digit| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |sum, index| sum * 10 + place(index));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn number(value: &[u8], what: &str) -> Result<u64> {
    digits(value).ok_or_else(|| malformed(b"", format!("the PAX {what} is no number")))
}

/// Digits and nothing else: no sign, no blank.
fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn until_nul(data: &[u8]) -> &[u8] {
    data.split(|byte| *byte == 0).next().unwrap_or(data)
}

fn malformed(path: &[u8], reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, "unpack", shown(path), reason)
}

fn sparse(path: &[u8]) -> Error {
    Error::new(ErrorKind::Unsupported, "unpack", shown(path), "sparse entries are not supported")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_values_may_hold_newlines_and_equal_signs() {
        let mut extensions = Extensions::default();
        extensions.add_pax(b"16 path=a\nb=c\n\xff\n28 SCHILY.xattr.user.a=\n\0\n=\n").unwrap();
        assert_eq!(extensions.path.as_deref(), Some(&b"a\nb=c\n\xff"[..]));
        assert_eq!(extensions.attributes, [(b"user.a".to_vec(), b"\n\0\n=".to_vec())]);
    }

    #[test]
    fn damaged_pax_records_are_refused() {
        for data in [
            &b"x"[..],
            b"5 a=b",
            b"99 path=a\n",
            b"3 \n",
            b"0 a=b\n",
            b"6  a=b\n",
            b"+6 a=b\n",
            b"5 ab\n",
            b"99999999999999999999 a=b\n",
            b"5 =b\n\n",
            b"14 size=1e1000\n",
        ] {
            assert!(Extensions::default().add_pax(data).is_err(), "{}", data.escape_ascii());
        }
    }

    #[test]
    fn pax_times_are_read_to_the_nanosecond() {
        let time = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        assert_eq!(pax_time(b"12"), time(12, 0));
        assert_eq!(pax_time(b"12.000000001999"), time(12, 1));
        assert_eq!(pax_time(b"-1.25"), time(-2, 750_000_000));
        assert_eq!(pax_time(b"-1"), time(-1, 0));
        for wrong in [&b""[..], b".5", b"1e5", b"--1", b"1.x", b"99999999999999999999"] {
            assert_eq!(pax_time(wrong), None);
        }
    }
}
