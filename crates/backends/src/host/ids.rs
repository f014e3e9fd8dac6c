//! Which host ids a sandbox's users have.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use rustix::process::{getegid, geteuid};
use sandbar_core::{Context, Error, ErrorKind, IdRange, Result};

const OPERATION: &str = "sandbox ids";
/// Fewer subordinate ids than this are no use: images have users up to 65534.
const FEWEST: u32 = 1000;
/// Where distributions put `newuidmap` and `newgidmap`.
const PROGRAM_FOLDERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"];

/// How the ids inside a sandbox map to ids of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ids {
    /// As root: a range that is this sandbox's alone.
    Range(IdRange),
    /// As a plain user: 0 is the user, 1 and above are the user's subordinate ids.
    Subordinate { uid: u32, gid: u32, ranges: Subordinate },
    /// As a plain user without subordinate ids: 0 is the user, and there is nobody else.
    Single { uid: u32, gid: u32 },
}

/// What `/etc/subuid` and `/etc/subgid` give to a user, and the programs that may map it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subordinate {
    uids: IdRange,
    gids: IdRange,
    uid_program: PathBuf,
    gid_program: PathBuf,
}

impl Ids {
    /// For this process: the range is the runtime's, and only root has one.
    ///
    /// # Errors
    /// `Internal` for root without a range: a sandbox's root is never the host's.
    pub(crate) fn of_sandbox(range: Option<IdRange>) -> Result<Self> {
        if is_root() {
            let message = "as root a sandbox needs host ids of its own";
            return range
                .filter(|range| range.first > 0 && range.count > 0)
                .map(Self::Range)
                .ok_or_else(|| Error::new(ErrorKind::Internal, OPERATION, message));
        }
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        Ok(match subordinate() {
            Some(ranges) => Self::Subordinate { uid, gid, ranges: ranges.clone() },
            None => Self::Single { uid, gid },
        })
    }

    /// How many ids there are inside.
    pub(crate) const fn count(&self) -> u32 {
        match self {
            Self::Range(range) => range.count,
            Self::Subordinate { ranges, .. } => {
                1 + if ranges.uids.count < ranges.gids.count { ranges.uids.count } else { ranges.gids.count }
            }
            Self::Single { .. } => 1,
        }
    }

    /// Whether processes inside may change their supplementary groups.
    pub(crate) const fn groups_may_change(&self) -> bool {
        !matches!(self, Self::Single { .. })
    }

    /// Whether the mounter is root, outside of the sandbox's user namespace.
    pub(crate) const fn is_root(&self) -> bool {
        matches!(self, Self::Range(_))
    }

    /// Gives a process that has just entered its user namespace its ids.
    ///
    /// # Errors
    /// Of the kernel, or what `newuidmap` said.
    pub(crate) fn write_maps(&self, pid: u32) -> Result<()> {
        let write = |file: &str, line: String| {
            fs::write(format!("/proc/{pid}/{file}"), line).context(OPERATION, || format!("cannot write the sandbox's {file}"))
        };
        match self {
            Self::Range(range) => {
                let line = format!("0 {} {}", range.first, range.count);
                write("gid_map", line.clone())?;
                write("uid_map", line)
            }
            Self::Single { uid, gid } => {
                write("setgroups", "deny".to_owned())?;
                write("gid_map", format!("0 {gid} 1"))?;
                write("uid_map", format!("0 {uid} 1"))
            }
            Self::Subordinate { uid, gid, ranges } => {
                // Two set-user-id programs, side by side.
                let gids = map_by(&ranges.gid_program, pid, *gid, ranges.gids)?;
                let uids = map_by(&ranges.uid_program, pid, *uid, ranges.uids)?;
                finish(&ranges.gid_program, gids)?;
                finish(&ranges.uid_program, uids)
            }
        }
    }
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

fn map_by(program: &Path, pid: u32, own: u32, range: IdRange) -> Result<std::process::Child> {
    let arguments = [pid, 0, own, 1, 1, range.first, range.count].map(|number| number.to_string());
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context(OPERATION, || format!("cannot run {}", program.display()))
}

fn finish(program: &Path, child: std::process::Child) -> Result<()> {
    let output = child.wait_with_output().context(OPERATION, || format!("cannot wait for {}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let message = format!("{} refused to map the user's subordinate ids", program.display());
    Err(Error::new(ErrorKind::Unavailable, OPERATION, message)
        .with_source(io::Error::other(said))
        .with_hint("the ranges in /etc/subuid and /etc/subgid must belong to this user alone"))
}

/// What this user has, found once.
fn subordinate() -> Option<&'static Subordinate> {
    static FOUND: OnceLock<Option<Subordinate>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let uid = geteuid().as_raw();
            let name = user_name(&fs::read_to_string("/etc/passwd").ok()?, uid);
            let range = |path: &str| largest_range(&fs::read_to_string(path).ok()?, name.as_deref(), uid);
            Some(Subordinate {
                uids: range("/etc/subuid")?,
                gids: range("/etc/subgid")?,
                uid_program: find_privileged("newuidmap")?,
                gid_program: find_privileged("newgidmap")?,
            })
        })
        .as_ref()
}

/// The program, if it may do what it is for: by its set-user-id bit, or by a file capability.
fn find_privileged(name: &str) -> Option<PathBuf> {
    PROGRAM_FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| {
        let privileged_by_mode = fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o4000 != 0);
        privileged_by_mode || rustix::fs::getxattr(path, "security.capability", &mut [0_u8; 64]).is_ok()
    })
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The largest range of `NAME:FIRST:COUNT` lines for a user, by name or number.
fn largest_range(text: &str, name: Option<&str>, uid: u32) -> Option<IdRange> {
    let parse = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (Some(owner) == name || owner.parse() == Ok(uid)).then_some(IdRange { first, count })
    };
    text.lines().filter_map(parse).filter(|range| range.count >= FEWEST && range.first > 0).max_by_key(|range| range.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_or_number_and_the_largest_wins() {
        let text = "other:100000:65536\nme:200000:100\nme:300000:65536\n1234:400000:70000\n# me:1:99999999\nbroken";
        assert_eq!(largest_range(text, Some("me"), 1), Some(IdRange { first: 300_000, count: 65536 }));
        assert_eq!(largest_range(text, Some("me"), 1234), Some(IdRange { first: 400_000, count: 70000 }));
        assert_eq!(largest_range("me:200000:100", Some("me"), 1), None, "too few");
        assert_eq!(largest_range("me:0:65536", Some("me"), 1), None, "root's own id is nobody's subordinate");
    }

    #[test]
    fn a_name_comes_from_the_third_field() {
        assert_eq!(user_name("a:x:0:5:::\nb:x:5:0:::", 5).as_deref(), Some("b"));
        assert_eq!(user_name("a:x", 5), None);
    }
}
