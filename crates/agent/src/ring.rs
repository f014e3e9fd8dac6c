use std::{cell::Cell, collections::VecDeque, rc::Rc};

use sandbar_protocol::FrameKind;

/// A ring may always grow to this, whatever the others hold.
const FLOOR: usize = 64 << 10;
/// Most changes between stdout and stderr that one ring remembers; a program that alternates byte by byte is held back, or loses
/// its oldest output, by this instead of by bytes.
const MAX_SEGMENTS: usize = 8192;

/// What all rings together may hold beyond their floors.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: Cell<usize>,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self { limit, used: Cell::new(0) })
    }

    fn left(&self) -> usize {
        self.limit.saturating_sub(self.used.get())
    }
}

/// A run of bytes of one stream, up to an offset.
#[derive(Debug, Clone, Copy)]
struct Segment {
    end: u64,
    kind: FrameKind,
}

/// The newest output of one process. Offsets count the bytes of both streams since its start.
#[derive(Debug)]
pub(crate) struct Ring {
    /// The byte with offset `o` is at `o % buffer.len()`.
    buffer: Box<[u8]>,
    start: u64,
    end: u64,
    segments: VecDeque<Segment>,
    limit: usize,
    budget: Rc<Budget>,
}

impl Ring {
    /// Keeps at most `limit` bytes.
    pub(crate) fn new(limit: usize, budget: Rc<Budget>) -> Self {
        Self { buffer: Box::default(), start: 0, end: 0, segments: VecDeque::new(), limit: limit.max(1), budget }
    }

    /// The oldest offset kept.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The offset of the next byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes of memory held.
    pub(crate) fn held(&self) -> usize {
        self.buffer.len()
    }

    /// How many bytes of `kind` can be taken without losing any from `floor` on; without a floor, anything.
    pub(crate) fn room(&self, kind: FrameKind, floor: Option<u64>) -> usize {
        let Some(floor) = floor else { return usize::MAX };
        let continues = self.segments.back().is_some_and(|last| last.kind == kind);
        let oldest_is_wanted = self.segments.front().is_some_and(|first| first.end > floor);
        if !continues && self.segments.len() >= MAX_SEGMENTS && oldest_is_wanted {
            return 0;
        }
        self.attainable().saturating_sub(self.between(floor, self.end))
    }

    /// Takes bytes, forgetting the oldest where it must.
    pub(crate) fn push(&mut self, kind: FrameKind, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.grow(self.between(self.start, self.end).saturating_add(data.len()));
        let capacity = self.buffer.len();
        self.end += data.len() as u64;
        self.forget(self.end.saturating_sub(capacity as u64));
        let kept = &data[data.len() - data.len().min(capacity)..];
        let position = self.position(self.end - kept.len() as u64);
        let (first, second) = kept.split_at(kept.len().min(capacity - position));
        self.buffer[position..position + first.len()].copy_from_slice(first);
        self.buffer[..second.len()].copy_from_slice(second);
        match self.segments.back_mut() {
            Some(last) if last.kind == kind => last.end = self.end,
            _ => {
                if let (true, Some(oldest)) = (self.segments.len() >= MAX_SEGMENTS, self.segments.front()) {
                    self.forget(oldest.end);
                }
                self.segments.push_back(Segment { end: self.end, kind });
            }
        }
    }

    /// Some bytes of one stream from an offset on; `None` at the end. The offset must be kept.
    pub(crate) fn peek(&self, offset: u64) -> Option<(FrameKind, &[u8])> {
        if offset < self.start || offset >= self.end {
            return None;
        }
        let segment = self.segments.get(self.segments.partition_point(|segment| segment.end <= offset))?;
        let position = self.position(offset);
        let length = self.between(offset, segment.end).min(self.buffer.len() - position);
        Some((segment.kind, &self.buffer[position..position + length]))
    }

    /// Gives the memory back that holds nothing.
    pub(crate) fn shrink(&mut self) {
        self.resize(self.between(self.start, self.end));
    }

    /// Forgets everything, except how much there was.
    pub(crate) fn clear(&mut self) {
        self.forget(self.end);
        self.resize(0);
    }

    fn attainable(&self) -> usize {
        let most = self.buffer.len().saturating_add(self.budget.left()).max(FLOOR);
        most.min(self.limit)
    }

    fn grow(&mut self, wanted: usize) {
        if wanted > self.buffer.len() && self.buffer.len() < self.limit {
            let doubled = wanted.checked_next_power_of_two().unwrap_or(wanted).max(4096);
            let capacity = doubled.min(self.attainable());
            if capacity > self.buffer.len() {
                self.resize(capacity);
            }
        }
    }

    /// Moves what is kept to a buffer of this size, which must hold it.
    fn resize(&mut self, capacity: usize) {
        let mut buffer = vec![0; capacity].into_boxed_slice();
        let mut offset = self.start;
        while offset < self.end {
            let from = self.position(offset);
            let to = (offset % capacity as u64) as usize;
            let length = self.between(offset, self.end).min(self.buffer.len() - from).min(capacity - to);
            buffer[to..to + length].copy_from_slice(&self.buffer[from..from + length]);
            offset += length as u64;
        }
        self.budget.used.set(self.budget.used.get().saturating_sub(self.buffer.len()) + capacity);
        self.buffer = buffer;
        self.segments.shrink_to_fit();
    }

    fn forget(&mut self, until: u64) {
        self.start = self.start.max(until);
        while self.segments.front().is_some_and(|first| first.end <= self.start) {
            self.segments.pop_front();
        }
    }

    fn position(&self, offset: u64) -> usize {
        (offset % self.buffer.len().max(1) as u64) as usize
    }

    /// The distance of two offsets, both kept: never over the limit.
    fn between(&self, from: u64, to: u64) -> usize {
        usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.budget.used.set(self.budget.used.get().saturating_sub(self.buffer.len()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn collect(ring: &Ring, mut offset: u64) -> Vec<(FrameKind, u8)> {
        let mut all = Vec::new();
        while let Some((kind, bytes)) = ring.peek(offset) {
            assert!(!bytes.is_empty());
            all.extend(bytes.iter().map(|byte| (kind, *byte)));
            offset += bytes.len() as u64;
        }
        assert_eq!(offset, ring.end());
        all
    }

    #[test]
    fn a_ring_under_a_spent_budget_still_has_its_floor() {
        let budget = Budget::new(0);
        let mut ring = Ring::new(1 << 20, budget);
        assert_eq!(ring.room(FrameKind::Stdout, Some(0)), FLOOR);
        ring.push(FrameKind::Stdout, &vec![1; FLOOR]);
        assert_eq!(ring.room(FrameKind::Stdout, Some(0)), 0);
        assert_eq!(ring.start(), 0);
        ring.push(FrameKind::Stdout, b"x");
        assert_eq!(ring.start(), 1);
    }

    #[test]
    fn streams_that_alternate_are_bounded_by_changes() {
        let mut ring = Ring::new(1 << 20, Budget::new(1 << 20));
        for index in 0..3 * MAX_SEGMENTS {
            let kind = if index % 2 == 0 { FrameKind::Stdout } else { FrameKind::Stderr };
            ring.push(kind, &[index as u8]);
        }
        assert_eq!(ring.segments.len(), MAX_SEGMENTS);
        assert_eq!(ring.end() - ring.start(), MAX_SEGMENTS as u64);
        assert_eq!(ring.room(FrameKind::Stdout, Some(ring.start())), 0);
        assert!(ring.room(FrameKind::Stdout, Some(ring.end())) > 0);
    }

    #[test]
    fn memory_goes_back_to_the_budget() {
        let budget = Budget::new(1 << 20);
        let mut ring = Ring::new(1 << 20, Rc::clone(&budget));
        ring.push(FrameKind::Stdout, &vec![7; 100_000]);
        assert_eq!(budget.used.get(), 131_072);
        ring.shrink();
        assert_eq!(budget.used.get(), 100_000);
        assert_eq!(collect(&ring, 0).len(), 100_000);
        ring.clear();
        assert_eq!((budget.used.get(), ring.start(), ring.end()), (0, 100_000, 100_000));
        ring.push(FrameKind::Stderr, b"more");
        drop(ring);
        assert_eq!(budget.used.get(), 0);
    }

    proptest! {
        #[test]
        fn it_keeps_the_newest_bytes_of_a_plain_list(
            limit in 1_usize..20_000,
            pushes in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..6000), 0_u8..8), 0..40),
        ) {
            let mut ring = Ring::new(limit, Budget::new(1 << 20));
            let mut model = Vec::new();
            for (stderr, data, step) in pushes {
                let kind = if stderr { FrameKind::Stderr } else { FrameKind::Stdout };
                // With a floor only what has room is taken, and then nothing from the floor on is lost.
                let floor = (step < 4).then(|| ring.start() + (ring.end() - ring.start()) / 2);
                let data = &data[..data.len().min(ring.room(kind, floor))];
                ring.push(kind, data);
                model.extend(data.iter().map(|byte| (kind, *byte)));
                if let Some(floor) = floor {
                    prop_assert!(ring.start() <= floor);
                }
                if step == 7 {
                    ring.shrink();
                }
                prop_assert_eq!(ring.end(), model.len() as u64);
                prop_assert!(ring.end() - ring.start() <= limit as u64);
                prop_assert_eq!(&collect(&ring, ring.start())[..], &model[ring.start() as usize..]);
            }
        }
    }
}
