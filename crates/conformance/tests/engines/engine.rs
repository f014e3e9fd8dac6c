//! A container engine for one test run: started, and ended with the run, also when that is killed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

/// Waits for the end of whoever started it, which closes its input, and then ends the engine with everything that the engine started. What it
/// works on is in its environment, so that its own command line does not name the folder.
const KEEPER: &str = r#"
trap '' INT TERM HUP
if [ -n "$DISK" ]; then mkdir "$FOLDER/root" && mount -t tmpfs -o "size=$DISK" tmpfs "$FOLDER/root"; fi
"$ENGINE" --data-root "$FOLDER/root" --exec-root "$FOLDER/exec" --host "unix://$FOLDER/docker.sock" --pidfile "$FOLDER/pid" \
    --bridge=none --iptables=false --ip-forward=false --ip-masq=false --shutdown-timeout 5 --experimental "$@" \
    >"$FOLDER/log" 2>&1 </dev/null &
cat >/dev/null
# A test may have started it again.
engine=$(cat "$FOLDER/pid" 2>/dev/null || echo $!)
kill -TERM $engine 2>/dev/null
tries=0
while kill -0 $engine 2>/dev/null && [ $tries -lt 150 ]; do sleep 0.1; tries=$((tries + 1)); done
# What its helpers still do meanwhile makes more to remove.
tries=0
while [ -e "$FOLDER" ] && [ $tries -lt 50 ]; do
    for line in /proc/[0-9]*/cmdline; do
        if grep -qsF "$FOLDER" "$line"; then pid=${line#/proc/}; kill -KILL "${pid%/cmdline}" 2>/dev/null; fi
    done
    grep -F "$FOLDER" /proc/self/mountinfo | cut -d' ' -f5 | sort -r | while read -r mount; do umount -l "$mount"; done
    rm -rf "$FOLDER" 2>/dev/null
    tries=$((tries + 1))
    [ -e "$FOLDER" ] && sleep 0.2
done
"#;

/// Keepers of this process, whose inputs are closed when it ends.
static KEEPERS: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Runs that use gVisor's runtime give it these arguments.
pub const RUNSC: &str = "#!/bin/sh\nexec runsc --network=none --host-uds=all --overlay2=none \"$@\"\n";

/// What kind of engine is wanted.
#[derive(Clone, Copy)]
pub struct Engine<'a> {
    /// The default runtime: `runc`, or `runsc`.
    pub runtime: &'a str,
    /// The size of a disk of its own for its data, as the mount option has it; a folder of this machine's when `None`.
    pub disk: Option<&'a str>,
}

impl<'a> Engine<'a> {
    /// One with this runtime.
    pub const fn of(runtime: &'a str) -> Self {
        Self { runtime, disk: None }
    }
}

/// Where the engine of a variant is: the one that this process, or the process that started it, has started; and the folder in which that is noted. `folder` is
/// the variant's.
///
/// # Errors
/// What is missing.
pub fn of_run(folder: &Path, variant: &str, kind: &Engine<'_>) -> Result<(PathBuf, PathBuf), String> {
    let note = format!("engine-{variant}");
    let known = folder.ancestors().find_map(|path| Some((fs::read_to_string(path.join(&note)).ok()?, path.to_owned())));
    if let Some((socket, noted)) = known {
        return Ok((PathBuf::from(socket), noted));
    }
    let engine = find("dockerd").ok_or("there is no dockerd: cargo xtask setup installs it")?;
    if kind.runtime == "runsc" && find("runsc").is_none() {
        return Err("there is no runsc".to_owned());
    }
    let start = || -> io::Result<PathBuf> {
        let home = tempfile::Builder::new().prefix("sandbar-engine-").tempdir()?.keep();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", KEEPER, "keeper"])
            .env("ENGINE", engine)
            .env("FOLDER", &home)
            .env("DISK", kind.disk.unwrap_or_default())
            .stdin(Stdio::piped());
        if kind.runtime == "runsc" {
            let program = home.join("runsc");
            fs::write(&program, RUNSC)?;
            fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            // What the engine itself knows of, as sandbar does from there.
            let daemon = home.join("daemon.json");
            fs::write(&daemon, format!("{{\"runtimes\":{{\"runsc\":{{\"path\":{program:?},\"runtimeArgs\":[\"--net-raw\"]}}}}}}"))?;
            command.arg("--config-file").arg(daemon).args(["--default-runtime", "runsc"]);
        }
        KEEPERS.lock().unwrap_or_else(PoisonError::into_inner).push(command.spawn()?);
        Ok(home.join("docker.sock"))
    };
    let socket = start().map_err(|error| format!("no engine can be started: {error}"))?;
    fs::write(folder.join(note), socket.display().to_string()).map_err(|error| format!("cannot write the note: {error}"))?;
    Ok((socket, folder.to_owned()))
}

/// What an engine said last.
pub fn last_words(socket: &Path) -> String {
    let log = fs::read_to_string(socket.with_file_name("log")).unwrap_or_default();
    log.lines().rev().take(3).collect::<Vec<_>>().join("; ")
}

fn find(program: &str) -> Option<PathBuf> {
    let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    folders.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists())
}
