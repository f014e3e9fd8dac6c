//! A thread that lives as long as the process.

use std::{
    io, panic,
    sync::{
        Mutex, OnceLock, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
};

type Work = Box<dyn FnOnce() + Send>;

/// Runs work on a thread that lives as long as this process, and waits for it.
///
/// The kernel ties "my parent is gone" (`PR_SET_PDEATHSIG`) to the thread that cloned, not to its process. A sandbox that is to end with
/// this process must not be cloned from a pool's thread, which ends when it has been idle for a while.
///
/// # Errors
/// When the thread cannot be started, or the work panics.
pub fn launch<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    static THREAD: OnceLock<Mutex<Sender<Work>>> = OnceLock::new();
    let sender = match THREAD.get() {
        Some(sender) => sender,
        None => {
            let (sender, work) = channel::<Work>();
            thread::Builder::new().name("sandbar-launcher".to_owned()).spawn(move || work.into_iter().for_each(run))?;
            // When two threads come here at once, the thread of the one that loses ends with its sender.
            THREAD.get_or_init(|| Mutex::new(sender))
        }
    };
    let (answer, answered) = channel();
    let work = Box::new(move || {
        let _ = answer.send(work());
    });
    let sent = sender.lock().unwrap_or_else(PoisonError::into_inner).send(work);
    sent.map_err(|_| io::Error::other("the launcher thread has ended"))?;
    answered.recv().map_err(|_| io::Error::other("what the launcher thread ran ended early"))
}

/// A panic is the caller's, who hears it as a missing answer; the thread goes on.
fn run(work: Work) {
    let _ = panic::catch_unwind(panic::AssertUnwindSafe(work));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_thread_whoever_asks() {
        let ids: Vec<_> = (0..4).map(|_| thread::spawn(|| launch(|| thread::current().id()).unwrap()).join().unwrap()).collect();
        assert!(launch(|| panic!("a test's panic, which the thread survives")).is_err());
        assert_eq!(launch(|| thread::current().id()).unwrap(), ids[0]);
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
