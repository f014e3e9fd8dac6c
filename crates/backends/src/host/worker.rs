//! Threads for work that blocks, which live as long as the process.
//!
//! The kernel ties "my parent is gone" (`PR_SET_PDEATHSIG`) and mount namespaces to threads. So sandboxes are not cloned on a runtime's
//! blocking threads, which end when they have been idle for a while.

use std::{
    collections::VecDeque,
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::{Builder, available_parallelism},
};

use sandbar_core::{Error, ErrorKind, Result};

type Work = Box<dyn FnOnce() + Send>;

static POOL: Pool = Pool { state: Mutex::new(State { queue: VecDeque::new(), idle: 0, threads: 0 }), arrived: Condvar::new() };

struct Pool {
    state: Mutex<State>,
    arrived: Condvar,
}

struct State {
    queue: VecDeque<Work>,
    idle: usize,
    threads: usize,
}

/// Runs work on one of the threads.
///
/// # Errors
/// `ResourceExhausted` when there is no thread and none can be started; `Internal` when the work panics.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    run_and_drop(move || (work(), ())).await
}

/// The same for work that leaves something behind whose end takes time, which nobody needs to wait for.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_and_drop<T: Send + 'static, L: 'static>(work: impl FnOnce() -> (T, L) + Send + 'static) -> Result<T> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    POOL.give(Box::new(move || {
        let (result, left) = work();
        let _ = answer.send(result);
        drop(left);
    }))?;
    answered.await.map_err(|_| Error::new(ErrorKind::Internal, "sandbox", "a worker thread's task panicked"))
}

/// Runs work on files on a thread of the runtime's own.
///
/// # Errors
/// Of the work; `Internal` when it panics.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::new(ErrorKind::Internal, "sandbox", "a blocking task ended early").with_source(error)),
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&'static self, work: Work) -> Result<()> {
        let mut state = self.lock();
        state.queue.push_back(work);
        if state.queue.len() <= state.idle {
            self.arrived.notify_one();
            return Ok(());
        }
        // Some of the work waits for the kernel, so a few more than there are processors.
        if state.threads < available_parallelism().map_or(1, NonZero::get) + 2 {
            match Builder::new().name("sandbar-worker".to_owned()).spawn(|| self.work()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    state.queue.pop_back();
                    return Err(Error::new(ErrorKind::ResourceExhausted, "sandbox", "cannot start a thread").with_source(error));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn work(&self) -> ! {
        super::syscall::block_signals();
        let mut state = self.lock();
        loop {
            if let Some(work) = state.queue.pop_front() {
                drop(state);
                // A panic is the caller's, who hears it as a missing answer.
                let _ = catch_unwind(AssertUnwindSafe(work));
                state = self.lock();
            } else {
                state.idle += 1;
                state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_the_callers_alone() {
        assert!(run(|| panic!("a test's panic")).await.is_err());
        assert_eq!(run(|| 6 * 7).await.unwrap(), 42);
    }

    #[tokio::test]
    async fn more_work_than_threads_is_done_in_time() {
        let tasks: Vec<_> = (0..100).map(|number| tokio::spawn(run(move || number * 2))).collect();
        for (number, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap().unwrap(), number * 2);
        }
    }
}
