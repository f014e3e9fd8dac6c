use std::{
    fs::File,
    io::{Read, Take},
    os::unix::fs::OpenOptionsExt,
};

use rustix::fs::OFlags;
use sandbar_protocol::{UserRef, user_ref};

use crate::failure::{Kind, Result, failure};

/// Most bytes of `/etc/passwd` and `/etc/group` that are looked at.
const LIMIT: u64 = 1 << 20;
/// Most supplementary groups of one user.
const MAX_GROUPS: usize = 256;

/// A user as the sandbox's own files tell it. Read anew for each command, since commands change them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// What the passwd file says beside the numbers, if it knows the user.
    pub(crate) entry: Option<Entry>,
}

/// The texts of a line of the passwd file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) home: Vec<u8>,
    pub(crate) shell: Vec<u8>,
}

/// The user that a request, or the configuration, names.
///
/// A number need not be in the passwd file; its group is then the one given, or the same number.
pub(crate) fn resolve(user: &UserRef) -> Result<User> {
    let passwd = contents("/etc/passwd");
    match &user.which {
        Some(user_ref::Which::Name(name)) => {
            let (uid, gid, entry) = find(&passwd, |candidate, _| candidate == name.as_bytes())
                .ok_or_else(|| failure(Kind::InvalidInput, format!("user {name:?} does not exist in /etc/passwd")))?;
            let groups = groups_of(&contents("/etc/group"), name.as_bytes());
            Ok(User { uid, gid, groups, entry: Some(entry) })
        }
        Some(user_ref::Which::Uid(uid)) => Ok(numbered(&passwd, *uid, user.gid)),
        None => Err(failure(Kind::InvalidInput, "a user without name or number")),
    }
}

/// The user that this process runs as.
pub(crate) fn own() -> User {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    numbered(&contents("/etc/passwd"), uid, Some(gid))
}

fn numbered(passwd: &[u8], uid: u32, gid: Option<u32>) -> User {
    match find(passwd, |_, candidate| candidate == uid) {
        Some((_, own_gid, entry)) => {
            let groups = if gid.is_none() { groups_of(&contents("/etc/group"), &entry.name) } else { Vec::new() };
            User { uid, gid: gid.unwrap_or(own_gid), groups, entry: Some(entry) }
        }
        None => User { uid, gid: gid.unwrap_or(uid), groups: Vec::new(), entry: None },
    }
}

fn find(passwd: &[u8], wanted: impl Fn(&[u8], u32) -> bool) -> Option<(u32, u32, Entry)> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        let (uid, gid) = (number(fields.nth(1)?)?, number(fields.next()?)?);
        if name.is_empty() || name.starts_with(b"#") || !wanted(name, uid) {
            return None;
        }
        let home = fields.nth(1)?.to_vec();
        let shell = fields.next().unwrap_or_default().to_vec();
        Some((uid, gid, Entry { name: name.to_vec(), home, shell }))
    })
}

fn groups_of(group: &[u8], name: &[u8]) -> Vec<u32> {
    let lines = group.split(|byte| *byte == b'\n');
    let member = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b':');
        let gid = number(fields.nth(2)?)?;
        fields.next()?.split(|byte| *byte == b',').any(|member| member == name).then_some(gid)
    };
    lines.filter_map(member).take(MAX_GROUPS).collect()
}

/// A user or group number; the one that means "unchanged" to the kernel is none.
fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|number| *number != u32::MAX)
}

/// A small regular file, or nothing: what stands at that name is the sandbox's affair and may be a pipe.
fn contents(path: &str) -> Vec<u8> {
    let read = || -> std::io::Result<Vec<u8>> {
        let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY).bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        let mut bytes = Vec::new();
        if metadata.is_file() {
            // One byte more, so that the end is seen without another buffer.
            bytes.reserve_exact(usize::try_from(metadata.len().min(LIMIT)).unwrap_or(0) + 64);
            let mut limited: Take<File> = file.take(LIMIT);
            limited.read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nbroken\n:x:1:1::/:\nme:x:1000:100:,,,:/home/me:/bin/bash\nbad:x:-1:4294967295::/:\nshort:x:7:7:a:/s";

    #[test]
    fn users_are_found_by_name_and_number() {
        let (uid, gid, entry) = find(PASSWD, |name, _| name == b"me").unwrap();
        assert_eq!((uid, gid), (1000, 100));
        assert_eq!((entry.home.as_slice(), entry.shell.as_slice()), (b"/home/me".as_slice(), b"/bin/bash".as_slice()));
        assert_eq!(find(PASSWD, |_, uid| uid == 7).unwrap().2.shell, b"");
        assert!(find(PASSWD, |name, _| name == b"bad" || name == b"broken" || name.is_empty()).is_none());
    }

    #[test]
    fn a_number_without_a_line_is_its_own_group() {
        assert_eq!(numbered(PASSWD, 4242, None), User { uid: 4242, gid: 4242, groups: vec![], entry: None });
        assert_eq!(numbered(PASSWD, 1000, Some(5)).gid, 5);
    }

    #[test]
    fn groups_are_those_that_list_the_user() {
        let group = b"a:x:10:me,you\nb:x:11:you\nc:x:12:me\nbroken:x\n";
        assert_eq!(groups_of(group, b"me"), [10, 12]);
    }
}
