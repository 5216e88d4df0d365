//! A set of many keys of 128 bits in little memory: 16 bytes a key in a table at least four fifths full, so at most 20.
//! It is exact; all bits are compared.

use crate::limits::FILLING_KEYS_MAX;

/// The set. In shards, each of which grows by itself, so that growing never takes the whole again.
#[derive(Debug)]
pub struct KeySet {
    shards: Vec<Shard>,
}

/// Open addressing with linear probing. Zero, which is no key, marks a free slot.
#[derive(Clone, Debug, Default)]
struct Shard {
    slots: Vec<u128>,
    used: usize,
}

const SHARDS: usize = 256;

impl Default for KeySet {
    fn default() -> Self {
        Self { shards: vec![Shard::default(); SHARDS] }
    }
}

impl KeySet {
    /// A set with room for so many.
    pub fn with_room_for(keys: usize) -> Self {
        let mut set = Self::default();
        set.shards.iter_mut().for_each(|shard| shard.grow(keys / SHARDS));
        set
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.used).sum()
    }

    /// Adds a key other than zero. Whether it was not there before.
    pub fn insert(&mut self, key: u128) -> bool {
        let hash = hash(key);
        self.shards[shard_of(hash)].insert(key, hash)
    }

    /// Whether it is there.
    pub fn contains(&self, key: u128) -> bool {
        let hash = hash(key);
        let shard = &self.shards[shard_of(hash)];
        !shard.slots.is_empty() && shard.slots[shard.place(key, hash)] == key
    }
}

/// Keys on their way into a set, each with a number. They are put into it shard by shard, because a shard fits into the
/// processor's cache and the whole set does not: that is several times as fast as one key after the other.
pub struct Filling<'a> {
    set: &'a mut KeySet,
    waiting: Vec<Vec<(u128, usize)>>,
    count: usize,
    /// Numbers of the keys that were there already.
    repeated: Vec<usize>,
}

impl<'a> Filling<'a> {
    /// Nothing waits yet.
    pub fn new(set: &'a mut KeySet) -> Self {
        Self { set, waiting: vec![Vec::new(); SHARDS], count: 0, repeated: Vec::new() }
    }

    /// Adds a key other than zero.
    pub fn add(&mut self, key: u128, number: usize) {
        self.waiting[shard_of(hash(key))].push((key, number));
        self.count += 1;
        if self.count == FILLING_KEYS_MAX {
            self.flush();
        }
    }

    /// The numbers of the keys that were there before, in the set or among those that were added earlier. In no order.
    pub fn finish(mut self) -> Vec<usize> {
        self.flush();
        self.repeated
    }

    fn flush(&mut self) {
        for (shard, waiting) in self.set.shards.iter_mut().zip(&mut self.waiting) {
            for (key, number) in waiting.drain(..) {
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
        if self.used + 1 > self.slots.len() / 10 * 9 {
            self.grow(self.used + 1);
        }
        let place = self.place(key, hash);
        if self.slots[place] == key {
            return false;
        }
        debug_assert_ne!(key, 0, "zero is no key");
        self.slots[place] = key;
        self.used += 1;
        true
    }

    /// The key's slot, or the free one where it belongs. There is always a free one.
    fn place(&self, key: u128, hash: u64) -> usize {
        let length = self.slots.len();
        let mut place =
            usize::try_from((u128::from(hash << 8) * length as u128) >> 64).expect("below the length");
        while self.slots[place] != key && self.slots[place] != 0 {
            place = if place + 1 == length { 0 } else { place + 1 };
        }
        place
    }

    /// Makes room for so many at four fifths and a little, and moves what is there.
    fn grow(&mut self, for_used: usize) {
        let length = (for_used * 100 / 81 + 1).next_multiple_of(10).max(10);
        if length <= self.slots.len() {
            return;
        }
        let old = std::mem::replace(&mut self.slots, vec![0; length]);
        self.used = 0;
        for key in old.into_iter().filter(|&key| key != 0) {
            let place = self.place(key, hash(key));
            self.slots[place] = key;
            self.used += 1;
        }
    }
}

/// Spreads keys that have much in common. Its upper bits choose the shard, the rest the slot.
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
    fn the_set_is_exact_and_takes_at_most_twenty_bytes_a_key() {
        let mut random = fastrand::Rng::with_seed(7);
        for count in [100_000_u128, 1_000_000] {
            let mut set = KeySet::default();
            let mut model = HashSet::new();
            for number in 1..=count {
                // Keys that count upwards, and keys that are random, as far as GUIDs are.
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
    fn a_filling_leads_to_the_same_as_one_key_after_the_other() {
        let mut random = fastrand::Rng::with_seed(3);
        let keys: Vec<u128> = (0..5_000).map(|_| random.u128(1..3_000)).collect();
        let (mut filled, mut one_by_one) = (KeySet::default(), KeySet::default());
        filled.insert(keys[0]);
        one_by_one.insert(keys[0]);
        let mut filling = Filling::new(&mut filled);
        keys.iter().enumerate().for_each(|(number, &key)| filling.add(key, number));
        let mut repeated = filling.finish();
        repeated.sort_unstable();
        let numbers = keys.iter().enumerate();
        let expected: Vec<_> =
            numbers.filter(|(_, key)| !one_by_one.insert(**key)).map(|(number, _)| number).collect();
        assert_eq!(repeated, expected);
        assert_eq!(filled.len(), one_by_one.len());
        assert!(keys.iter().all(|&key| filled.contains(key)));
    }
}
