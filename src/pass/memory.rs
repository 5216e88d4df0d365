//! The bound of the memory for blobs between download and output, and for listings and logins until they are processed:
//! `maxMemory` bytes and `cacheSize` records.
//!
//! A download reserves memory before it allocates it, and waits while there is none. Since every download could then hold a
//! part and wait for the rest, one of them at a time may exceed the bound: it finishes, the writer writes its blob, and
//! there is memory again. So the maximum is the bound and one blob.
//!
//! Listings and logins together get only a part of the bound, [`LISTINGS_FRACTION`], so that large listings of many
//! tenants leave memory to blobs. At most one share of both kinds together may exceed the bound; it never waits.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::limits::FREE_BUFFER_BYTES_MAX;

/// Listings and logins get a fraction of `maxMemory`: one part in this number.
const LISTINGS_FRACTION: usize = 4;

/// The memory that all blobs of a pass share.
#[derive(Debug)]
pub struct Memory {
    bytes_max: usize,
    records_max: usize,
    held: Mutex<Held>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    /// The number of bytes in use, without the free buffers.
    bytes: usize,
    /// The number of them that listings and logins use.
    listing_bytes: usize,
    records: usize,
    /// Whether a share has exceeded the bound and still exists.
    overdrawn: bool,
    /// The number of shares that wait for memory: a wake-up costs a system call, even if none waits.
    waiting: usize,
    /// Buffers of earlier blobs, for the next ones. They are within the bound, and are dropped when it is reached.
    free_buffers: Vec<Vec<u8>>,
    free_bytes: usize,
}

/// The memory of one blob, listing or login. It is returned when this is dropped.
#[derive(Debug)]
pub struct Share {
    memory: Arc<Memory>,
    is_listing: bool,
    bytes: usize,
    records: usize,
    overdrew: bool,
}

impl Memory {
    /// Returns memory for this many bytes and records.
    pub fn new(bytes_max: usize, records_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, records_max, held: Mutex::default(), freed: Condvar::new() })
    }

    /// Returns an empty share for a blob.
    pub fn share(self: &Arc<Self>) -> Share {
        self.share_of(false)
    }

    /// Returns an empty share for a listing or a login.
    pub fn listing_share(self: &Arc<Self>) -> Share {
        self.share_of(true)
    }

    fn share_of(self: &Arc<Self>, is_listing: bool) -> Share {
        Share { memory: Arc::clone(self), is_listing, bytes: 0, records: 0, overdrew: false }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // The counts are consistent even after a panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Returns a buffer to download into: that of an earlier blob, or an empty one.
    pub fn buffer(&mut self) -> Vec<u8> {
        let mut held = self.memory.lock();
        let buffer = held.free_buffers.pop().unwrap_or_default();
        held.free_bytes -= buffer.capacity();
        held.bytes += buffer.capacity();
        self.bytes += buffer.capacity();
        buffer
    }

    /// Returns the memory, and keeps the buffer for a later blob unless it is large.
    pub fn give_back(self, buffer: Vec<u8>) {
        let mut held = self.memory.lock();
        let bytes = held.bytes - self.bytes + held.free_bytes + buffer.capacity();
        if buffer.capacity() <= FREE_BUFFER_BYTES_MAX && bytes <= self.memory.bytes_max {
            held.free_bytes += buffer.capacity();
            held.free_buffers.push(buffer);
        }
    }

    /// Waits until this many more bytes are available, and reserves them.
    pub fn grow_bytes(&mut self, bytes: usize) {
        self.grow(bytes, 0);
    }

    /// Waits until this many more records are available, and reserves them.
    pub fn grow_records(&mut self, records: usize) {
        self.grow(0, records);
    }

    fn grow(&mut self, bytes: usize, records: usize) {
        let memory = Arc::clone(&self.memory);
        let is_listing = self.is_listing;
        let is_full = |held: &Held| {
            held.bytes + bytes > memory.bytes_max
                || held.records + records > memory.records_max
                || is_listing && held.listing_bytes + bytes > memory.bytes_max / LISTINGS_FRACTION
        };
        let mut held = memory.lock();
        if held.bytes + held.free_bytes + bytes > memory.bytes_max {
            held.free_buffers = Vec::new();
            held.free_bytes = 0;
        }
        while is_full(&held) && !self.overdrew {
            if held.overdrawn {
                held.waiting += 1;
                held = memory.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
                held.waiting -= 1;
            } else {
                held.overdrawn = true;
                self.overdrew = true;
            }
        }
        held.bytes += bytes;
        held.listing_bytes += if is_listing { bytes } else { 0 };
        held.records += records;
        self.bytes += bytes;
        self.records += records;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.memory.lock();
        held.bytes -= self.bytes;
        held.listing_bytes -= if self.is_listing { self.bytes } else { 0 };
        held.records -= self.records;
        held.overdrawn &= !self.overdrew;
        let is_awaited = held.waiting > 0;
        drop(held);
        if is_awaited {
            self.memory.freed.notify_all();
        }
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
    fn growing_shares_finish_within_the_bound() {
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

    /// Returns the bytes in use, and those of free buffers.
    fn counts(memory: &Memory) -> (usize, usize) {
        let held = memory.lock();
        (held.bytes, held.free_bytes)
    }

    #[test]
    fn reuses_buffers_within_the_bound() {
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
        assert_eq!(counts(&memory), (700, 0), "a free buffer is dropped to make room");
        third.give_back(vec![1; FREE_BUFFER_BYTES_MAX + 1]);
        assert!(memory.share().buffer().is_empty(), "a large one goes back to the system");
        assert_eq!(memory.lock().bytes, 0);
    }

    #[test]
    fn listings_leave_most_of_the_memory_to_blobs() {
        const BOUND: usize = 1_000;
        const LISTING: usize = 200;
        let memory = Memory::new(BOUND, usize::MAX);
        let most = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let mut share = memory.listing_share();
                    for _ in 0..LISTING / 10 {
                        share.grow_bytes(10);
                        most.fetch_max(memory.lock().listing_bytes, Ordering::Relaxed);
                        thread::yield_now();
                    }
                });
            }
        });
        assert_eq!(counts(&memory), (0, 0));
        assert_eq!(memory.lock().listing_bytes, 0);
        assert!(most.into_inner() <= BOUND / LISTINGS_FRACTION + LISTING);
    }

    #[test]
    fn lets_an_oversized_blob_pass_alone() {
        let memory = Memory::new(usize::MAX, 10);
        let mut share = memory.share();
        share.grow_records(1_000);
        drop(share);
        assert_eq!(memory.lock().records, 0);
    }
}
