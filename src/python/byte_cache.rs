//! A cache that is bounded by bytes. It drops the entries that were not used for the longest time, in large groups; it must not read
//! anything itself.

use std::borrow::Borrow;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// Values by key, at most `limit` bytes of them.
///
/// Entries are in two generations. A new one is young, and so is an old one that is used again. When the young ones take half of the
/// limit, they become the old ones, and the old ones that nobody has asked for since are dropped. So a hit costs one look-up
/// as long as the cache is not half full, and what is used all the time is never dropped.
///
/// Whether an entry is still true is for its owner to check.
#[derive(Debug)]
pub struct ByteCache<K, V> {
    young: FxHashMap<K, Entry<V>>,
    old: FxHashMap<K, Entry<V>>,
    young_bytes: usize,
    old_bytes: usize,
    limit: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: usize,
}

impl<K: Eq + Hash, V> ByteCache<K, V> {
    /// A hash table has up to about twice as many places as entries.
    const OVERHEAD: usize = 2 * size_of::<(K, Entry<V>)>();

    /// An empty cache.
    pub fn new(limit: usize) -> Self {
        ByteCache {
            young: FxHashMap::default(),
            old: FxHashMap::default(),
            young_bytes: 0,
            old_bytes: 0,
            limit,
        }
    }

    /// The value of `key`, which is young from now on.
    pub fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        if !self.old.is_empty()
            && !self.young.contains_key(key)
            && let Some((key, entry)) = self.old.remove_entry(key)
        {
            self.old_bytes = self.old_bytes.saturating_sub(entry.bytes);
            self.put(key, entry);
        }
        self.young.get(key).map(|entry| &entry.value)
    }

    /// The key as it is kept, which is young from now on.
    pub fn get_key<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
    {
        self.get(key)?;
        self.young.get_key_value(key).map(|(key, _)| key)
    }

    /// Adds or replaces a value that takes `bytes` outside of the table.
    pub fn insert(&mut self, key: K, value: V, bytes: usize) {
        if let Some(replaced) = self.old.remove(&key) {
            self.old_bytes = self.old_bytes.saturating_sub(replaced.bytes);
        }
        let bytes = bytes.saturating_add(Self::OVERHEAD);
        self.put(key, Entry { value, bytes });
    }

    fn put(&mut self, key: K, entry: Entry<V>) {
        if self.young_bytes.saturating_add(entry.bytes) > self.limit / 2 {
            self.age();
        }
        self.young_bytes = self.young_bytes.saturating_add(entry.bytes);
        if let Some(replaced) = self.young.insert(key, entry) {
            self.young_bytes = self.young_bytes.saturating_sub(replaced.bytes);
        }
    }

    /// Drops the old entries; the young ones are old then.
    fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.old_bytes = std::mem::take(&mut self.young_bytes);
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> usize {
        self.young_bytes.saturating_add(self.old_bytes)
    }

    /// Sets another limit; what is above it is dropped.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        while self.bytes() > limit {
            self.age();
        }
    }

    /// Drops all entries.
    pub fn clear(&mut self) {
        self.age();
        self.age();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut cache = ByteCache::new(20_000);
        for number in 0..1000_u32 {
            cache.insert(number, number, 100);
            assert_eq!(cache.get(&0), Some(&0), "{number}");
            assert_eq!(cache.get(&number), Some(&number));
            assert!(cache.bytes() <= 20_000, "{}", cache.bytes());
        }
        assert_eq!(cache.get(&1), None);
        cache.set_limit(0);
        assert_eq!(cache.get(&0), None);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn one_entry_that_is_too_large_alone_is_kept_until_the_next_comes() {
        let mut cache = ByteCache::new(1000);
        cache.insert("large", (), 1 << 20);
        assert!(cache.get("large").is_some());
        cache.insert("a", (), 1);
        cache.insert("b", (), 1 << 20);
        assert!(cache.get("large").is_none());
    }

    proptest! {
        /// Whatever is done, the last value of a key is given or none, and the bytes are those of the entries.
        #[test]
        fn it_is_a_map_that_forgets(
            steps in proptest::collection::vec((any::<bool>(), 0_u8..40, 0_usize..400), 1..300),
            limit in 500_usize..20_000,
        ) {
            let mut cache = ByteCache::new(limit);
            let mut all = FxHashMap::default();
            for (is_insert, key, bytes) in steps {
                if is_insert {
                    cache.insert(key, bytes, bytes);
                    all.insert(key, bytes);
                } else if let Some(found) = cache.get(&key) {
                    prop_assert_eq!(all.get(&key), Some(found));
                }
                let entries = cache.young.values().chain(cache.old.values());
                prop_assert_eq!(entries.map(|entry| entry.bytes).sum::<usize>(), cache.bytes());
                prop_assert!(cache.bytes() <= limit + 2 * (400 + ByteCache::<u8, usize>::OVERHEAD));
            }
        }
    }
}
