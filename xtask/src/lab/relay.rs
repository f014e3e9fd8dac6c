use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

/// How much of a log is kept: its end.
const KEPT: usize = 16 << 10;

/// Everything that comes, as text.
pub fn read(mut from: impl Read) -> String {
    let mut text = Vec::new();
    // A connection that breaks has said what it had to say.
    let _ = from.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Copies until the end, and flushes at once: somebody may be watching.
pub fn copy(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut piece = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            // A reader that is gone does not stop the command; `head` is a fine reader.
            let _ = to.write_all(&piece[..count]).and_then(|()| to.flush());
        }
    })
}

/// The end of a log that may be endless.
#[derive(Clone, Default)]
pub struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// Keeps the end of what comes.
    pub fn of(from: impl Read + Send + 'static) -> Self {
        let tail = Self::default();
        let _ = copy(from, tail.clone());
        tail
    }

    /// What there is now.
    pub fn text(&self) -> String {
        let kept: Vec<u8> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        String::from_utf8_lossy(&kept).into_owned()
    }
}

impl Write for Tail {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(piece);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_end() {
        let mut tail = Tail::default();
        for number in 0..10_000 {
            writeln!(tail, "{number}").unwrap();
        }
        let text = tail.text();
        assert!(text.ends_with("9999\n") && text.len() == KEPT, "{}", text.len());
    }
}
