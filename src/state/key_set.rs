//! An exact set of 128-bit keys in little memory: 16 bytes a key in tables that are at least four fifths full, so at most
//! 20 bytes a key.

/// The maximum number of keys, 32 bytes each, that a [`BulkInsert`] buffers.
const BUFFERED_KEYS_MAX: usize = 1_000_000;

/// A set of keys other than zero. Its shards grow one at a time, so that growing never copies the whole set.
#[derive(Debug)]
pub struct KeySet {
    shards: Vec<Shard>,
}

/// A table with open addressing and linear probing, in which the keys are in the order of their hashes: a search ends at the
/// first key after the wanted one, so that it is short also in a full table, and a larger table is filled from start to
/// end. Zero marks a free slot, and is the last one.
#[derive(Clone, Debug, Default)]
struct Shard {
    slots: Vec<u128>,
    used: usize,
    /// The number of slots among which hashes are spread. Keys that find no free one follow these slots.
    spread: usize,
}

const SHARDS: usize = 256;

/// The number of slots that are allocated at a time for keys that follow the slots of a shard.
const OVERFLOW_SLOTS: usize = 16;

impl Default for KeySet {
    fn default() -> Self {
        Self { shards: vec![Shard::default(); SHARDS] }
    }
}

impl KeySet {
    /// Returns an empty set with room for this number of keys.
    pub fn with_capacity(keys: usize) -> Self {
        let mut set = Self::default();
        set.shards.iter_mut().for_each(|shard| shard.grow(keys / SHARDS));
        set
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.used).sum()
    }

    /// Adds a key other than zero. Returns whether it is new.
    pub fn insert(&mut self, key: u128) -> bool {
        let hash = hash(key);
        self.shards[shard_of(hash)].insert(key, hash)
    }

    /// Returns all keys, sorted by [`order`].
    pub fn sorted(&self) -> impl Iterator<Item = u128> {
        self.shards.iter().flat_map(|shard| shard.slots.iter().copied().filter(|&key| key != 0))
    }

    /// Returns whether the set has the key.
    pub fn contains(&self, key: u128) -> bool {
        let hash = hash(key);
        self.shards[shard_of(hash)].find(key, hash).is_ok()
    }
}

/// Returns what [`KeySet::sorted`] sorts by.
pub fn order(key: u128) -> (u64, u128) {
    (hash(key), key)
}

/// Inserts many keys into a set, shard by shard. A shard fits into the processor's cache and the whole set does not, so
/// this is several times as fast as [`KeySet::insert`]. Each key has a number by which repeated ones are reported.
pub struct BulkInsert<'a> {
    set: &'a mut KeySet,
    buffered: Vec<Vec<(u128, usize)>>,
    count: usize,
    repeated: Vec<usize>,
}

impl<'a> BulkInsert<'a> {
    /// Starts to insert into a set.
    pub fn new(set: &'a mut KeySet) -> Self {
        Self { set, buffered: vec![Vec::new(); SHARDS], count: 0, repeated: Vec::new() }
    }

    /// Adds a key other than zero.
    pub fn add(&mut self, key: u128, number: usize) {
        self.buffered[shard_of(hash(key))].push((key, number));
        self.count += 1;
        if self.count == BUFFERED_KEYS_MAX {
            self.flush();
        }
    }

    /// Inserts the rest. Returns the numbers of the keys that were in the set already or were added before, unordered.
    pub fn finish(mut self) -> Vec<usize> {
        self.flush();
        self.repeated
    }

    fn flush(&mut self) {
        for (shard, buffered) in self.set.shards.iter_mut().zip(&mut self.buffered) {
            for (key, number) in buffered.drain(..) {
                if !shard.insert(key, hash(key)) {
                    self.repeated.push(number);
                }
            }
        }
        self.count = 0;
    }
}

impl Shard {
    fn insert(&mut self, key: u128, hash: u64) -> bool {
        debug_assert_ne!(key, 0, "zero marks a free slot");
        if self.used + 1 > self.spread / 10 * 9 {
            self.grow(self.used + 1);
        }
        let Err(slot) = self.find(key, hash) else { return false };
        let free = slot + self.slots[slot..].iter().take_while(|&&key| key != 0).count();
        if free + 1 == self.slots.len() {
            self.slots.reserve_exact(OVERFLOW_SLOTS); // not twice the memory
            self.slots.push(0);
        }
        self.slots.copy_within(slot..free, slot + 1);
        self.slots[slot] = key;
        self.used += 1;
        true
    }

    /// Returns the key's slot, or else, as an error, the one where it belongs.
    fn find(&self, key: u128, hash: u64) -> Result<usize, usize> {
        let mut slot = self.first_slot(hash);
        loop {
            match self.slots.get(slot) {
                Some(&found) if found == key => return Ok(slot),
                Some(&found) if found != 0 && order(found) < (hash, key) => slot += 1,
                _ => return Err(slot),
            }
        }
    }

    /// Returns the slot of a key with this hash in a table without others.
    fn first_slot(&self, hash: u64) -> usize {
        usize::try_from((u128::from(hash << 8) * self.spread as u128) >> 64).expect("below the length")
    }

    /// Makes room for this number of keys, so that the table is 81 % full with them.
    fn grow(&mut self, keys: usize) {
        let spread = (keys * 100 / 81 + 1).next_multiple_of(10).max(10);
        if spread <= self.spread {
            return;
        }
        let old = std::mem::replace(&mut self.slots, Vec::with_capacity(spread + OVERFLOW_SLOTS));
        self.spread = spread;
        for key in old.into_iter().filter(|&key| key != 0) {
            let slot = self.first_slot(hash(key)).max(self.slots.len());
            self.slots.resize(slot, 0);
            self.slots.push(key);
        }
        let length = self.slots.len().max(spread) + 1;
        self.slots.reserve_exact(length - self.slots.len());
        self.slots.resize(length, 0);
    }
}

/// Spreads similar keys. The upper eight bits choose the shard, the rest the slot.
fn hash(key: u128) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are folded into one")]
    let folded = (key >> 64) as u64 ^ (key as u64).rotate_left(32);
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 29)
}

fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> 56).expect("eight bits")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn set_is_exact_and_uses_at_most_twenty_bytes_a_key() {
        let mut random = fastrand::Rng::with_seed(7);
        for count in [100_000_u128, 1_000_000] {
            let mut set = KeySet::default();
            let mut model = HashSet::new();
            for number in 1..=count {
                // Consecutive keys, and random ones such as GUIDs.
                let key = if number % 2 == 0 { number } else { random.u128(1..) };
                assert_eq!(set.insert(key), model.insert(key));
            }
            assert!(model.iter().all(|&key| set.contains(key)));
            assert!((1..1000).all(|number| !set.contains(random.u128(..) | number << 100)));
            let slots: usize = set.shards.iter().map(|shard| shard.slots.capacity()).sum();
            let bytes = slots * size_of::<u128>();
            assert!(bytes <= 20 * model.len(), "{bytes} bytes for {} keys", model.len());
        }
    }

    #[test]
    fn bulk_insert_equals_single_inserts() {
        let mut random = fastrand::Rng::with_seed(3);
        let keys: Vec<u128> = (0..5_000).map(|_| random.u128(1..3_000)).collect();
        let (mut filled, mut one_by_one) = (KeySet::default(), KeySet::default());
        filled.insert(keys[0]);
        one_by_one.insert(keys[0]);
        let mut bulk = BulkInsert::new(&mut filled);
        keys.iter().enumerate().for_each(|(number, &key)| bulk.add(key, number));
        let mut repeated = bulk.finish();
        repeated.sort_unstable();
        let numbers = keys.iter().enumerate();
        let expected: Vec<_> =
            numbers.filter(|(_, key)| !one_by_one.insert(**key)).map(|(number, _)| number).collect();
        assert_eq!(repeated, expected);
        assert_eq!(filled.len(), one_by_one.len());
        assert!(keys.iter().all(|&key| filled.contains(key)));
    }
}
