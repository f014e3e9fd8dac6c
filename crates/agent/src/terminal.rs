use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Gid, Mode, OFlags, Uid},
    io::Errno,
    process::{Pid, Signal},
    pty::OpenptFlags,
    termios::{LocalModes, SpecialCodeIndex, Winsize},
};
use sandbar_protocol::PtySize;

use crate::failure::{Kind, Result, failure, system, system_as};

/// A terminal: our end (non-blocking), and the command's.
pub(crate) fn open(size: PtySize, owner: u32) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let missing = |errno| match errno {
        Errno::NOSPC | Errno::MFILE | Errno::NFILE => system("cannot make another terminal", errno),
        _ => system_as(Kind::Unavailable, "there are no terminals here (is /dev/pts mounted?)", errno),
    };
    let terminal = rustix::pty::openpt(flags).map_err(missing)?;
    rustix::pty::unlockpt(&terminal).map_err(missing)?;
    // By the terminal itself, where the kernel can: the name may be another file by now.
    let by_name = || {
        let name = rustix::pty::ptsname(&terminal, Vec::new())?;
        rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
    };
    let peer = rustix::pty::ioctl_tiocgptpeer(&terminal, flags).or_else(|_| by_name()).map_err(missing)?;
    rustix::fs::fcntl_setfl(&terminal, OFlags::RDWR | OFlags::NONBLOCK).map_err(missing)?;
    resize(&terminal, size)?;
    // So that the user can open its terminal by name. Where that is not allowed, the descriptors still work.
    let _ = rustix::fs::fchown(&peer, Some(Uid::from_raw(owner)), None::<Gid>);
    let _ = rustix::fs::fchmod(&peer, Mode::RUSR | Mode::WUSR | Mode::WGRP);
    Ok((terminal, peer))
}

/// Tells a terminal its size.
pub(crate) fn resize(terminal: impl AsFd, size: PtySize) -> Result<()> {
    let (Ok(ws_row), Ok(ws_col)) = (u16::try_from(size.rows), u16::try_from(size.columns)) else {
        return Err(failure(Kind::InvalidInput, format!("a terminal of {} × {} characters", size.rows, size.columns)));
    };
    let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).map_err(|errno| system("cannot set the size of the terminal", errno))
}

/// What ends the input of a terminal: its end-of-file character, twice if a line was begun (the first one only hands that over).
/// Nothing in raw mode, where the character has no such meaning but would be read as itself.
pub(crate) fn end_of_input(terminal: impl AsFd, line_begun: bool) -> Vec<u8> {
    match rustix::termios::tcgetattr(terminal) {
        Ok(attributes) if attributes.local_modes.contains(LocalModes::ICANON) => {
            vec![attributes.special_codes[SpecialCodeIndex::VEOF]; if line_begun { 2 } else { 1 }]
        }
        _ => Vec::new(),
    }
}

/// Sends a signal to the foreground group as well: with job control, that is where the user's program is.
pub(crate) fn signal_foreground(terminal: impl AsFd, leader: Pid, signal: Signal) {
    if let Ok(group) = rustix::termios::tcgetpgrp(terminal)
        && group != leader
    {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}
