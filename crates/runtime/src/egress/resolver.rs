use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use sandbar_core::DomainName;
use tokio::{sync::Semaphore, time::timeout};

/// How long a name may take to be resolved, with the wait for its turn. Resolvers give up after some five seconds a server.
const RESOLVING: Duration = Duration::from_secs(15);
/// Most names of one sandbox that are looked up at a time: each takes one of this process's threads, which goes on also when nobody waits for it any more.
const MOST: usize = 32;

/// The host's resolver, as far as one sandbox may keep it busy.
pub(super) struct Resolver {
    places: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST)) }
    }
}

impl Resolver {
    /// The addresses of a name, or why there are none.
    pub(super) async fn resolve(&self, name: &DomainName) -> Result<Vec<IpAddr>, String> {
        // The dot at the end keeps the host's search domains out of it.
        let name = format!("{name}.");
        let found = timeout(RESOLVING, self.run(move || Ok((name.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect())));
        let found = found.await.map_err(|_| format!("the name was not resolved within {} s", RESOLVING.as_secs()))?;
        found.map_err(|error| format!("the name cannot be resolved: {error}"))
    }

    /// Runs it when it is its turn. Its place is taken until it has ended.
    async fn run<T: Send + 'static>(&self, look_up: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let found = tokio::task::spawn_blocking(move || {
            let found = look_up();
            drop(place);
            found
        });
        found.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_lookup_keeps_its_place_also_when_nobody_waits_for_it() {
        let resolver = Arc::new(Resolver::default());
        let (begun, end) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(MOST + 1)));
        let asked: Vec<_> = (0..MOST)
            .map(|_| {
                let (resolver, begun, end) = (Arc::clone(&resolver), Arc::clone(&begun), Arc::clone(&end));
                tokio::spawn(async move {
                    let look_up = move || {
                        begun.fetch_add(1, Ordering::SeqCst);
                        end.wait();
                        Ok(())
                    };
                    resolver.run(look_up).await
                })
            })
            .collect();
        while begun.load(Ordering::SeqCst) < MOST {
            tokio::task::yield_now().await;
        }
        asked.iter().for_each(tokio::task::JoinHandle::abort);
        for one in asked {
            assert!(one.await.unwrap_err().is_cancelled());
        }
        assert_eq!(resolver.places.available_permits(), 0);
        let next = tokio::spawn({
            let resolver = Arc::clone(&resolver);
            async move { resolver.run(|| Ok(7)).await }
        });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        tokio::task::spawn_blocking(move || end.wait()).await.unwrap();
        assert_eq!(next.await.unwrap().unwrap(), 7);
    }
}
