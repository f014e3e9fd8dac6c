use std::fs;

/// A user of this host that a variant is run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name, for messages and `/etc/subuid`.
    pub name: String,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Account {
    /// A user of `/etc/passwd`.
    pub fn named(name: &str) -> Option<Self> {
        let table = fs::read_to_string("/etc/passwd").ok()?;
        table.lines().find_map(|line| {
            let mut fields = line.split(':');
            let found = fields.next()? == name;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            found.then(|| Self { name: name.to_owned(), uid, gid })
        })
    }

    /// The number of a group of `/etc/group`.
    pub fn group(name: &str) -> Option<u32> {
        let table = fs::read_to_string("/etc/group").ok()?;
        table.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split(':').nth(1)?.parse().ok())
    }

    /// The user that owns nothing: `nobody`, 65534 everywhere.
    pub fn nobody() -> Self {
        Self { name: "nobody".to_owned(), uid: 65534, gid: 65534 }
    }

    /// The user of this process.
    pub fn current() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let table = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = table.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        });
        Self { name: name.unwrap_or_else(|| uid.to_string()), uid, gid }
    }

    /// Whether it has ranges of subordinate ids, both for users and for groups.
    pub fn has_ranges(&self) -> bool {
        ["/etc/subuid", "/etc/subgid"].iter().all(|table| {
            fs::read_to_string(table).is_ok_and(|text| {
                text.lines().any(|line| line.split(':').next().is_some_and(|owner| owner == self.name || owner == self.uid.to_string()))
            })
        })
    }
}
