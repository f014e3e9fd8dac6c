use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::keyring::Keyring;

/// Looks for placeholders in bytes that leave, and tells of each once.
pub(crate) struct Watch {
    keyring: Arc<Keyring>,
    /// The end of what has passed: a placeholder may be in pieces.
    tail: Vec<u8>,
    told: BTreeSet<String>,
    tell: Box<dyn Fn(&str) + Send + Sync>,
}

impl Watch {
    /// `tell` is given the name of the secret.
    pub(crate) fn new(keyring: Arc<Keyring>, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { keyring, tail: Vec::new(), told: BTreeSet::new(), tell: Box::new(tell) }
    }

    /// Looks at the next bytes.
    pub(in crate::egress) fn see(&mut self, bytes: &[u8]) {
        let kept = self.keyring.longest().saturating_sub(1);
        // What lies across the border, then the rest by itself.
        self.tail.extend_from_slice(&bytes[..bytes.len().min(kept)]);
        for part in [self.tail.as_slice(), bytes] {
            for place in self.keyring.places(part) {
                if self.told.insert(place.secret.name.clone()) {
                    (self.tell)(&place.secret.name);
                }
            }
        }
        if bytes.len() >= kept {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - kept..]);
        } else {
            self.tail.drain(..self.tail.len().saturating_sub(kept));
        }
    }
}

/// What is read, with somebody who looks at it.
pub(crate) struct Watched<R> {
    inner: R,
    watch: Option<Watch>,
}

impl<R> Watched<R> {
    pub(crate) const fn new(inner: R, watch: Option<Watch>) -> Self {
        Self { inner, watch }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<R> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        if let Some(watch) = &mut self.watch {
            watch.see(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::{super::keyring, *};

    #[test]
    fn a_placeholder_is_found_in_whatever_pieces_it_comes_and_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Arc::new(keyring::example(folder.path(), &[("A", "a.test", "one"), ("LONGER", "a.test", "two")]));
        let text = b"GET /?q=sandbar-secret-A HTTP/1.1\r\nX: sandbar-secret-LONGER\r\n\r\nsandbar-secret-A sandbar-secret-B".as_slice();
        for size in 1..text.len() {
            let told = Arc::new(Mutex::new(Vec::new()));
            let list = Arc::clone(&told);
            let mut watch = Watch::new(Arc::clone(&keyring), move |name| list.lock().unwrap().push(name.to_owned()));
            text.chunks(size).for_each(|chunk| watch.see(chunk));
            assert_eq!(*told.lock().unwrap(), ["A", "LONGER"], "in pieces of {size}");
        }
    }
}
