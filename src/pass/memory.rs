//! How much of the blobs is held in memory between download and output: `maxMemory` bytes and `cacheSize` records.
//!
//! A download asks for room before it takes it, and waits while there is none. Since every download could then hold a
//! part and wait for the rest, one of them at a time may go beyond the bound: it finishes, the writer takes its blob,
//! and there is room again. So the most that is held is the bound and one blob.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::limits::SPARE_BUFFER_BYTES_MAX;

/// The room that all blobs of a pass share.
#[derive(Debug)]
pub struct Memory {
    bytes_max: usize,
    records_max: usize,
    held: Mutex<Held>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    /// Without the spare ones.
    bytes: usize,
    records: usize,
    /// Whether somebody was let beyond the bound, and still holds that.
    overdrawn: bool,
    /// Buffers of earlier blobs, for the next ones. They are within the bound, and are let go when it is reached.
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
}

/// What one blob holds; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    memory: Arc<Memory>,
    bytes: usize,
    records: usize,
    overdrew: bool,
}

impl Memory {
    /// Room for so many bytes and records.
    pub fn new(bytes_max: usize, records_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, records_max, held: Mutex::default(), freed: Condvar::new() })
    }

    /// An empty share, to be grown.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { memory: Arc::clone(self), bytes: 0, records: 0, overdrew: false }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing that holds the lock can panic; were it so, the counts would still be whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// A buffer to download into: that of an earlier blob, or an empty one.
    pub fn buffer(&mut self) -> Vec<u8> {
        let mut held = self.memory.lock();
        let buffer = held.spare.pop().unwrap_or_default();
        held.spare_bytes -= buffer.capacity();
        held.bytes += buffer.capacity();
        self.bytes += buffer.capacity();
        buffer
    }

    /// Gives everything back, and lets a later blob have the buffer, unless that is a large one.
    pub fn give_back(self, buffer: Vec<u8>) {
        let mut held = self.memory.lock();
        let bytes = held.bytes - self.bytes + held.spare_bytes + buffer.capacity();
        if buffer.capacity() <= SPARE_BUFFER_BYTES_MAX && bytes <= self.memory.bytes_max {
            held.spare_bytes += buffer.capacity();
            held.spare.push(buffer);
        }
    }

    /// Waits until there is room for so many more bytes, and takes it.
    pub fn grow_bytes(&mut self, bytes: usize) {
        self.grow(bytes, 0);
    }

    /// Waits until there is room for so many more records, and takes it.
    pub fn grow_records(&mut self, records: usize) {
        self.grow(0, records);
    }

    fn grow(&mut self, bytes: usize, records: usize) {
        let memory = Arc::clone(&self.memory);
        let is_full = |held: &Held| {
            held.bytes + bytes > memory.bytes_max || held.records + records > memory.records_max
        };
        let mut held = memory.lock();
        if held.bytes + held.spare_bytes + bytes > memory.bytes_max {
            held.spare = Vec::new();
            held.spare_bytes = 0;
        }
        while is_full(&held) && !self.overdrew {
            if held.overdrawn {
                held = memory.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
            } else {
                held.overdrawn = true;
                self.overdrew = true;
            }
        }
        held.bytes += bytes;
        held.records += records;
        self.bytes += bytes;
        self.records += records;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.memory.lock();
        held.bytes -= self.bytes;
        held.records -= self.records;
        held.overdrawn &= !self.overdrew;
        drop(held);
        self.memory.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn many_growing_shares_all_finish_and_stay_within_the_bound_and_one_blob() {
        const BOUND: usize = 1_000;
        const BLOB: usize = 700;
        const STEP: usize = 10;
        let memory = Memory::new(BOUND, usize::MAX);
        let most = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let mut share = memory.share();
                    for _ in 0..BLOB / STEP {
                        share.grow_bytes(STEP);
                        most.fetch_max(memory.lock().bytes, Ordering::Relaxed);
                        thread::yield_now();
                    }
                });
            }
        });
        assert_eq!(memory.lock().bytes, 0);
        assert!(most.into_inner() <= BOUND + BLOB);
    }

    /// Bytes in use, and spare ones.
    fn counts(memory: &Memory) -> (usize, usize) {
        let held = memory.lock();
        (held.bytes, held.spare_bytes)
    }

    #[test]
    fn a_buffer_serves_one_blob_after_the_other_within_the_bound() {
        let memory = Memory::new(1_000, usize::MAX);
        let mut first = memory.share();
        assert!(first.buffer().is_empty());
        first.grow_bytes(400);
        first.give_back(vec![1; 400]);
        let mut second = memory.share();
        assert_eq!(second.buffer().len(), 400);
        assert_eq!(counts(&memory), (400, 0));
        second.give_back(vec![1; 400]);
        let mut third = memory.share();
        third.grow_bytes(700);
        assert_eq!(counts(&memory), (700, 0), "a spare buffer makes room");
        third.give_back(vec![1; SPARE_BUFFER_BYTES_MAX + 1]);
        assert!(memory.share().buffer().is_empty(), "a large one goes back to the system");
        assert_eq!(memory.lock().bytes, 0);
    }

    #[test]
    fn a_blob_of_more_records_than_the_bound_passes_alone() {
        let memory = Memory::new(usize::MAX, 10);
        let mut share = memory.share();
        share.grow_records(1_000);
        drop(share);
        assert_eq!(memory.lock().records, 0);
    }
}
