//! Sets: their items, in the order of the table; nothing is hashed.

use super::layout::StructView;
use super::object::{ObjectError, ObjectReader, offset};
use crate::model::Address;

/// Most slots of a set's table that are looked at.
const MAX_SLOTS: u64 = 262_144;
/// How many slots are read at once.
const BATCH: u64 = 64;
/// Longest key of 2.7 that is looked at, in bytes.
const MAX_KEY: u64 = 32;

impl ObjectReader<'_> {
    /// The first items of a set or frozenset, at most `limit`, and how many it has. The type is not looked at.
    pub(super) fn set_part(
        &self,
        set: Address,
        limit: usize,
    ) -> Result<(Vec<Address>, u64), ObjectError> {
        let garbage = |what| ObjectError::Garbage { address: set, what };
        let layout = self.layout.values.set;
        let length = u64::try_from(self.field(set, layout.used)?)
            .map_err(|_| garbage("number of items of a set"))?;
        let slots = self
            .field(set, layout.mask)?
            .unsigned_abs()
            .saturating_add(1);
        if length > slots {
            return Err(garbage("more items than its table has"));
        }
        let wanted = usize::try_from(length).unwrap_or(limit).min(limit);
        let table = self.pointer(set, layout.table)?;
        let size = u64::from(layout.entry_size);
        let mut keys = Vec::new();
        let mut from = 0;
        while keys.len() < wanted && from < slots.min(MAX_SLOTS) {
            let count = BATCH.min(slots - from);
            let at = offset(table, from * size)?;
            let bytes = self.memory.read_vec(at, count * size, BATCH * size)?;
            for entry in bytes.chunks_exact(size as usize) {
                let entry = StructView::new(entry);
                let key = entry.get(layout.entry_key).unwrap_or(Address::NULL);
                let hash = entry.get(layout.entry_hash).unwrap_or(0);
                if !key.is_null() && !self.is_removed(key, hash) {
                    keys.push(key);
                }
            }
            from += count;
        }
        keys.truncate(wanted);
        Ok((keys, length))
    }

    /// Whether a slot of a set is one whose item was removed: its hash is -1, which no object has (3.x); in 2.7 its key is
    /// a text of the interpreter's own (`Objects/setobject.c::make_new_set`).
    fn is_removed(&self, key: Address, hash: i64) -> bool {
        if self.layout.version.0 != 2 {
            return hash == -1;
        }
        self.text_part(key, MAX_KEY)
            .is_ok_and(|(text, _)| text == "<dummy key>")
    }
}
