//! Descriptors in the event loop that outlive connections: streams of processes, signals. They leave it while the agent is quiet.
//!
//! gVisor, which is saved then, brings registrations back that were removed: after a load the loop would hear of descriptors that were closed
//! long ago, by the address of what it knew of them, which is somebody else's memory by now. (An epoll instance there links what became
//! ready at the same time. The links are not taken apart when one is removed, are saved with it, and every registration that is found when
//! all is loaded is told as ready: `epollInterest.afterLoad` in `pkg/sentry/vfs`, from its first version to at least 2024.) Where nothing is registered, nothing
//! leads to what was.
#![expect(unsafe_code, reason = "the event loop cannot know by itself that a descriptor is not closed behind its back")]

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    rc::{Rc, Weak},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    sync::Notify,
};

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    members: RefCell<Vec<Weak<Member>>>,
    /// Whether they are out of the event loop.
    is_out: Cell<bool>,
    /// They leave, or come back.
    turned: Notify,
}

/// A descriptor in the event loop.
#[derive(Debug)]
pub(crate) struct Watched {
    member: Rc<Member>,
    roll: Rc<Roll>,
}

#[derive(Debug)]
struct Member {
    // Dropped before what it refers to.
    registration: RefCell<Option<Rc<AsyncFd<RawFd>>>>,
    fd: OwnedFd,
    interest: Interest,
}

impl Member {
    fn enter(&self) -> io::Result<()> {
        // SAFETY: the descriptor stays open and the same until this member is dropped. Whoever else holds the registration borrows the member.
        let registration = unsafe { AsyncFd::register_with_interest(self.fd.as_raw_fd(), self.interest) };
        self.registration.replace(Some(Rc::new(registration?)));
        Ok(())
    }

    fn registration(&self) -> Option<Rc<AsyncFd<RawFd>>> {
        self.registration.borrow().clone()
    }
}

impl Roll {
    /// Takes a descriptor into the event loop.
    ///
    /// # Errors
    /// Of the event loop.
    pub(crate) fn watch(self: &Rc<Self>, fd: OwnedFd, interest: Interest) -> io::Result<Watched> {
        let member = Rc::new(Member { registration: RefCell::new(None), fd, interest });
        if !self.is_out.get() {
            member.enter()?;
        }
        let mut members = self.members.borrow_mut();
        members.retain(|member| member.strong_count() > 0);
        members.push(Rc::downgrade(&member));
        Ok(Watched { member, roll: Rc::clone(self) })
    }

    /// Takes all of them out of the event loop. Until they come back they are ready for nothing.
    ///
    /// When this returns, the loop must stand still if it is to stay so: nothing may be awaited.
    pub(crate) async fn leave(&self) {
        self.is_out.set(true);
        self.turned.notify_waiters();
        let members: Vec<Rc<Member>> = self.members.borrow().iter().filter_map(Weak::upgrade).collect();
        for member in &members {
            // Those who wait hold it until they have heard.
            while member.registration().is_some_and(|registration| Rc::strong_count(&registration) > 2) {
                tokio::task::yield_now().await;
            }
        }
        for member in members {
            member.registration.take();
        }
        unlink_waker();
    }

    /// Takes them back into the event loop.
    ///
    /// # Errors
    /// Of the event loop.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.is_out.set(false);
        let members: Vec<Rc<Member>> = self.members.borrow().iter().filter_map(Weak::upgrade).collect();
        members.iter().try_for_each(|member| member.enter())?;
        self.turned.notify_waiters();
        Ok(())
    }
}

/// Makes the event loop's own descriptor, by which other threads wake it, ready: so it is linked with what is ready now, which is nothing else.
///
/// A task that another thread gives to the runtime wakes it in any case; a wake from its own thread, or after another one, would not. Where there is no thread
/// to be had, the descriptor keeps the links that it has.
fn unlink_waker() {
    let runtime = Handle::current();
    let woken = std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop(runtime.spawn(async {})));
    let _ = woken.map(std::thread::JoinHandle::join);
}

impl Watched {
    pub(crate) fn get_ref(&self) -> &OwnedFd {
        &self.member.fd
    }

    /// Waits until it may be ready. Says so again until an attempt has failed with `WouldBlock`.
    ///
    /// # Errors
    /// Of the event loop.
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<()> {
        loop {
            let turned = self.roll.turned.notified();
            let Some(registration) = self.member.registration().filter(|_| !self.roll.is_out.get()) else {
                turned.await;
                continue;
            };
            tokio::select! {
                biased;
                () = turned => {}
                ready = registration.ready(interest) => return ready.map(drop),
            }
        }
    }

    /// Attempts something, if it may be ready for that.
    ///
    /// # Errors
    /// `WouldBlock`, or those of the attempt.
    pub(crate) fn try_io<T>(&self, interest: Interest, attempt: impl FnOnce(&OwnedFd) -> io::Result<T>) -> io::Result<T> {
        match &*self.member.registration.borrow() {
            Some(registration) => registration.try_io(interest, |_| attempt(&self.member.fd)),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Attempts something until it does not fail with `WouldBlock`.
    ///
    /// # Errors
    /// Those of the attempt, or of the event loop.
    pub(crate) async fn async_io<T>(&self, interest: Interest, mut attempt: impl FnMut(&OwnedFd) -> io::Result<T>) -> io::Result<T> {
        loop {
            self.ready(interest).await?;
            match self.try_io(interest, &mut attempt) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn run(work: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, work);
    }

    fn read(fd: &OwnedFd) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 64];
        let length = rustix::io::read(fd, &mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// What an event loop watches: numbers, and the files that they had.
    fn watched_by(epoll: &str) -> Vec<(RawFd, u64)> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")).unwrap();
        let entry = |line: &str| {
            let fields: Vec<&str> = line.strip_prefix("tfd:")?.split_ascii_whitespace().collect();
            let inode = fields.iter().find_map(|field| field.strip_prefix("ino:"))?;
            Some((fields.first()?.parse().ok()?, u64::from_str_radix(inode, 16).ok()?))
        };
        text.lines().filter_map(entry).collect()
    }

    #[test]
    fn what_waits_goes_on_after_all_have_left_and_come_back() {
        run(async {
            let roll = Rc::<Roll>::default();
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
            let watched = Rc::new(roll.watch(reader, Interest::READABLE).unwrap());
            let waiting = tokio::task::spawn_local({
                let watched = Rc::clone(&watched);
                async move { watched.async_io(Interest::READABLE, read).await.unwrap() }
            });
            tokio::task::yield_now().await;
            roll.leave().await;
            assert!(watched.member.registration().is_none());
            rustix::io::write(&writer, b"meanwhile").unwrap();
            assert_eq!(watched.try_io(Interest::READABLE, read).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            roll.enter().unwrap();
            assert_eq!(tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap(), b"meanwhile");
        });
    }

    #[test]
    fn what_has_left_is_not_in_the_event_loop_and_the_loop_was_woken() {
        run(async {
            let roll = Rc::<Roll>::default();
            let (reader, _writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
            let number = reader.as_raw_fd();
            let entry = (number, rustix::fs::fstat(&reader).unwrap().st_ino);
            let watched = roll.watch(reader, Interest::READABLE).unwrap();
            let instances = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            // Other tests of this program have event loops of their own; one may still have the number, of a file that a child on its way has open.
            let own: Vec<String> = instances
                .filter(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|to| to.ends_with("anon_inode:[eventpoll]")))
                .filter(|fd| watched_by(fd).contains(&entry))
                .collect();
            // The runtime's own: its waker, and, where another crate of the build asks for that part of it, what hears signals.
            let runtimes: Vec<_> = watched_by(&own[0]).into_iter().filter(|watched| *watched != entry).collect();
            let count = || {
                let text = |fd: RawFd| fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
                let count = |text: String| text.lines().find_map(|line| Some(line.strip_prefix("eventfd-count:")?.trim().to_owned()));
                runtimes.iter().find_map(|(fd, _)| count(text(*fd))).unwrap()
            };
            let before = count();
            roll.leave().await;
            assert_eq!(watched_by(&own[0]), runtimes);
            assert_ne!(count(), before, "the waker was not made ready");
            drop(watched);
        });
    }
}
