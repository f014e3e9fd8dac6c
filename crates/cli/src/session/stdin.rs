use std::{io, thread};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    stdio::stdin,
};
use sandbar_core::{Context, Result};
use tokio::sync::mpsc;

/// Most bytes of one read.
const CHUNK: usize = 64 << 10;

/// Reads standard input in a thread, no further ahead than the command reads. The end of the channel is the end of the input.
///
/// A thread, since standard input may be anything and shared with others: to wait for it otherwise it would have to be made
/// non-blocking for everyone who has it open.
pub(super) fn start() -> Result<mpsc::Receiver<Bytes>> {
    let (sender, receiver) = mpsc::channel(1);
    let read = move || {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = read(&mut buffer) {
            if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("stdin".to_owned()).spawn(read).context("stdin", || "cannot start a thread".to_owned())?;
    Ok(receiver)
}

fn read(buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(stdin(), &mut *buffer) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let stdin = stdin();
                poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None)?;
            }
            result => return Ok(result?),
        }
    }
}
