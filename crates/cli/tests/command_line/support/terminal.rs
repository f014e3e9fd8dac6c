use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use super::{DEADLINE, Home};

/// A client with a terminal of its own.
pub struct Terminal {
    master: File,
    /// Held open, so that the terminal outlives the client and can be looked at afterwards.
    slave: OwnedFd,
    child: Child,
    seen: Arc<(Mutex<Vec<u8>>, Condvar)>,
}

impl Terminal {
    /// Starts a command line in a new session whose terminal this is.
    pub fn start(home: &Home, args: &[&str], rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(
            name.as_c_str(),
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        // util-linux's setsid makes the terminal the controlling one, which safe Rust cannot.
        let client = home.command(args);
        let mut command = Command::new("/usr/bin/setsid");
        command.args(["--ctty", "--wait"]);
        command.arg(client.get_program()).args(client.get_args()).env_clear();
        command.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm").current_dir("/");
        if let Some((uid, gid)) = home.wall.user {
            std::os::unix::fs::chown(std::str::from_utf8(name.as_bytes()).unwrap(), Some(uid), Some(gid)).unwrap();
            std::os::unix::process::CommandExt::gid(std::os::unix::process::CommandExt::uid(&mut command, uid), gid);
        }
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let (mut reader, shared) = (File::from(master.try_clone().unwrap()), Arc::clone(&seen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                shared.0.lock().unwrap().extend_from_slice(&buffer[..count]);
                shared.1.notify_all();
            }
        });
        Self { master: File::from(master), slave, child, seen }
    }

    /// Waits until the screen has shown this.
    pub fn expect(&self, text: &str) {
        let start = Instant::now();
        let mut seen = self.seen.0.lock().unwrap();
        while !String::from_utf8_lossy(&seen).contains(text) {
            assert!(start.elapsed() < DEADLINE, "never shown: {text:?}; shown: {:?}", String::from_utf8_lossy(&seen));
            seen = self.seen.1.wait_timeout(seen, Duration::from_millis(100)).unwrap().0;
        }
    }

    /// What was shown so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.seen.0.lock().unwrap()).into_owned()
    }

    pub fn type_in(&self, keys: &str) {
        (&self.master).write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    /// Whether the terminal passes keys on as they are.
    pub fn is_raw(&self) -> bool {
        !self.settings().local_modes.contains(rustix::termios::LocalModes::ICANON)
    }

    pub fn settings(&self) -> Termios {
        tcgetattr(self.slave.as_fd()).unwrap()
    }

    /// The client: `setsid` did not fork, since a child of ours leads no group.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the client's end; its status as a shell tells it.
    pub fn finish(mut self) -> (i32, String) {
        let status = self.wait();
        (status, self.shown())
    }

    /// Waits for the client's end, and until all that it wrote is shown; the terminal is left to look at.
    pub fn wait(&mut self) -> i32 {
        /// What no client writes.
        const END: &[u8] = b"\x01end\x01";
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > DEADLINE {
                let _ = self.child.kill();
                panic!("the client does not end; shown: {:?}", self.shown());
            }
            thread::sleep(Duration::from_millis(2));
        };
        // The terminal keeps the order, so that this comes after everything else.
        rustix::io::write(&self.slave, END).unwrap();
        let mut seen = self.seen.0.lock().unwrap();
        while !seen.ends_with(END) {
            assert!(start.elapsed() < DEADLINE, "the end is never shown; shown: {:?}", String::from_utf8_lossy(&seen));
            seen = self.seen.1.wait_timeout(seen, Duration::from_millis(100)).unwrap().0;
        }
        let length = seen.len() - END.len();
        seen.truncate(length);
        status.code().unwrap_or_else(|| 128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap())
    }
}
