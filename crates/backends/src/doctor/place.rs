use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    check::{Check, Health},
    unique_name,
};

const NAME: &str = "disk";
/// Less than this is used up by the first image.
const LITTLE: u64 = 2 << 30;
/// What is written to see that writing works.
const SAMPLE: usize = 1 << 20;

/// Writes below the state folder, or where it would be made, and looks at what is left there.
pub(super) fn check(home: &Path) -> Check {
    let place = existing(home);
    let missing = |error: &dyn std::fmt::Display| {
        Check::new(NAME, Health::Missing, format!("cannot write in {}: {error}", place.display()))
            .with_hint("give another state folder: --home DIR, or SANDBAR_HOME")
    };
    if let Err(error) = write(&place) {
        return missing(&error);
    }
    let left = match rustix::fs::statvfs(&place) {
        Ok(disk) if disk.f_files > 0 && disk.f_favail == 0 => {
            return Check::new(NAME, Health::Limited, format!("no files can be made below {}: it has no inodes left", place.display()));
        }
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => return missing(&error),
    };
    let finding = format!("{:.1} GiB are free in {}", left as f64 / f64::from(1 << 30), place.display());
    if left < LITTLE {
        return Check::new(NAME, Health::Limited, finding)
            .with_hint("free some space, or give another state folder: --home DIR, or SANDBAR_HOME");
    }
    Check::new(NAME, Health::Good, finding)
}

/// The folder, or the nearest one above it that there is.
fn existing(home: &Path) -> PathBuf {
    home.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn write(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".{}", unique_name()));
    let written = fs::File::create_new(&path).and_then(|mut file| file.write_all(&vec![0; SAMPLE]).and_then(|()| file.sync_data()));
    let removed = fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        let check = check(&folder.path().join("a/b"));
        assert!(check.finding.contains(&folder.path().display().to_string()), "{check:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_that_cannot_be_written_is_told() {
        let check = check(Path::new("/proc/sandbar"));
        assert_eq!(check.health, Health::Missing);
        assert!(check.hint.unwrap().contains("SANDBAR_HOME"));
    }
}
