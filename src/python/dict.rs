//! Dicts: their entries, and the values of text keys; nothing is hashed, tables are read whole and in order.

use super::layout::{DictKeysLayout, DictLayout, Field, UnicodeLayout};
use super::object::{FLAG_DICT_SUBCLASS, ObjectError, ObjectReader, offset};
use crate::model::Address;

/// Most entries of a dict that are looked at.
const MAX_ENTRIES: u64 = 65_536;
/// Most bytes of an index table that lies before the entries of a dict; it is not read.
const MAX_INDICES: u64 = 1 << 36;
/// How many entries are read at once when only some are wanted.
const BATCH: u64 = 64;

/// One entry of a dict: key and value are objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DictEntry {
    /// The key.
    pub key: Address,
    /// The value.
    pub value: Address,
}

/// Where the entries of a dict are.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryTable {
    /// The first entry.
    at: Address,
    /// How many entries there are, also such without a value.
    count: u64,
    /// Bytes of each, which end in key and value.
    size: u64,
    /// Where the values are, when not in the entries.
    values: Option<Address>,
}

impl ObjectReader<'_> {
    /// The entries of a dict in the order of its table, at most 65,536.
    pub fn dict_entries(&self, dict: Address) -> Result<Vec<DictEntry>, ObjectError> {
        self.require(dict, FLAG_DICT_SUBCLASS, "dict")?;
        match self.layout.dict {
            DictLayout::Table { mask, table, .. } => {
                let slots = self.field(dict, mask)?.unsigned_abs().saturating_add(1);
                let bytes = self.entry_bytes(dict, self.pointer(dict, table)?, slots, 24)?;
                Ok(entries(&bytes, 24))
            }
            DictLayout::Keys {
                keys,
                values,
                keys_layout,
                first_value,
                ..
            } => {
                let keys = self.pointer(dict, keys)?;
                let values = self.pointer(dict, values)?;
                let values = if values.is_null() {
                    None
                } else {
                    Some(offset(values, u64::from(first_value))?)
                };
                self.entries_of_keys(keys, keys_layout, values)
            }
        }
    }

    /// The first entries of a dict that have a value, at most `limit`, and how many there are in all.
    pub fn dict_part(
        &self,
        dict: Address,
        limit: usize,
    ) -> Result<(Vec<DictEntry>, u64), ObjectError> {
        self.require(dict, FLAG_DICT_SUBCLASS, "dict")?;
        self.mapping_part(dict, limit)
    }

    /// The same of an object that is laid out as a dict is, whatever its type.
    pub(super) fn mapping_part(
        &self,
        dict: Address,
        limit: usize,
    ) -> Result<(Vec<DictEntry>, u64), ObjectError> {
        let (used, table) = match self.layout.dict {
            DictLayout::Table { used, mask, table } => {
                let slots = self.field(dict, mask)?.unsigned_abs().saturating_add(1);
                let table = EntryTable {
                    at: self.pointer(dict, table)?,
                    count: slots,
                    size: 24,
                    values: None,
                };
                (used, table)
            }
            DictLayout::Keys {
                used,
                keys,
                values,
                keys_layout,
                first_value,
            } => {
                let keys = self.pointer(dict, keys)?;
                let values = match self.pointer(dict, values)? {
                    Address::NULL => None,
                    values => Some(offset(values, u64::from(first_value))?),
                };
                (used, self.find_entries(keys, keys_layout, values)?)
            }
        };
        let used = u64::try_from(self.field(dict, used)?)
            .ok()
            .filter(|used| *used <= table.count)
            .ok_or(ObjectError::Garbage {
                address: dict,
                what: "more entries than its table has",
            })?;
        let wanted = limit.min(usize::try_from(used).unwrap_or(limit));
        Ok((self.first_entries(dict, &table, wanted)?, used))
    }

    /// The first `wanted` entries of a table that have a key and a value; at most 65,536 are looked at.
    pub(super) fn first_entries(
        &self,
        dict: Address,
        table: &EntryTable,
        wanted: usize,
    ) -> Result<Vec<DictEntry>, ObjectError> {
        let mut found = Vec::new();
        let mut from = 0;
        while found.len() < wanted && from < table.count.min(MAX_ENTRIES) {
            let count = BATCH.min(table.count - from);
            let at = offset(table.at, from * table.size)?;
            let mut batch = entries(&self.entry_bytes(dict, at, count, table.size)?, table.size);
            if let Some(values) = table.values {
                let bytes = self.entry_bytes(dict, offset(values, from * 8)?, count, 8)?;
                for (entry, value) in batch.iter_mut().zip(bytes.chunks_exact(8)) {
                    entry.value = address_in(value);
                }
            }
            batch.retain(|entry| !entry.key.is_null() && !entry.value.is_null());
            found.extend(batch);
            from += count;
        }
        found.truncate(wanted);
        Ok(found)
    }

    /// The entries of a keys object, with the values in it, or for a split table at `values`.
    pub(super) fn entries_of_keys(
        &self,
        keys: Address,
        layout: DictKeysLayout,
        values: Option<Address>,
    ) -> Result<Vec<DictEntry>, ObjectError> {
        let table = self.find_entries(keys, layout, values)?;
        let bytes = self.entry_bytes(keys, table.at, table.count, table.size)?;
        let mut entries = entries(&bytes, table.size);
        if let Some(values) = table.values {
            let bytes = self.entry_bytes(keys, values, entries.len() as u64, 8)?;
            for (entry, value) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
                entry.value = address_in(value);
            }
        }
        Ok(entries)
    }

    /// Where the entries of a keys object are; those of a split table have their values at `values`.
    pub(super) fn find_entries(
        &self,
        keys: Address,
        layout: DictKeysLayout,
        values: Option<Address>,
    ) -> Result<EntryTable, ObjectError> {
        let (count, entries_at, unicode_only) = match layout {
            DictKeysLayout::Size {
                size,
                nentries,
                indices,
            } => {
                let slots = self.field(keys, size)?.unsigned_abs();
                // `Objects/dictobject.c::DK_IXSIZE` (3.6-3.10).
                let width = match slots {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    0x1_0000..=0xffff_ffff => 4,
                    _ => 8,
                };
                let table = slots.saturating_mul(width);
                (
                    self.field(keys, nentries)?,
                    self.behind_indices(keys, indices, table)?,
                    false,
                )
            }
            DictKeysLayout::Log2 {
                log2_index_bytes,
                kind,
                nentries,
                indices,
                ..
            } => {
                let table = 1_u64
                    .checked_shl(u32::from(self.field(keys, log2_index_bytes)?))
                    .unwrap_or(u64::MAX);
                let unicode_only = self.field(keys, kind)? != 0;
                (
                    self.field(keys, nentries)?,
                    self.behind_indices(keys, indices, table)?,
                    unicode_only,
                )
            }
        };
        Ok(EntryTable {
            at: entries_at,
            count: count.unsigned_abs(),
            size: if unicode_only { 16 } else { 24 },
            values,
        })
    }

    fn behind_indices(
        &self,
        keys: Address,
        indices: Field<u8>,
        table: u64,
    ) -> Result<Address, ObjectError> {
        if table > MAX_INDICES {
            return Err(ObjectError::Garbage {
                address: keys,
                what: "size of a dict",
            });
        }
        offset(keys, indices.offset() + table)
    }

    fn entry_bytes(
        &self,
        dict: Address,
        at: Address,
        count: u64,
        size: u64,
    ) -> Result<Vec<u8>, ObjectError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if at.is_null() {
            return Err(ObjectError::Garbage {
                address: dict,
                what: "no table",
            });
        }
        let count = count.min(MAX_ENTRIES);
        Ok(self.memory.read_vec(at, count * size, MAX_ENTRIES * 24)?)
    }

    /// The value of the text key `name` in a dict.
    pub fn dict_value(&self, dict: Address, name: &str) -> Result<Option<Address>, ObjectError> {
        Ok(self.find_key(&self.dict_entries(dict)?, name))
    }

    /// The value of the first entry whose key is the text `name` and that has a value; keys that can't be read are others.
    pub(super) fn find_key(&self, entries: &[DictEntry], name: &str) -> Option<Address> {
        let found = entries.iter().find(|entry| {
            !entry.key.is_null() && !entry.value.is_null() && self.is_text(entry.key, name)
        });
        found.map(|entry| entry.value)
    }

    /// Whether `object` is the text `name`; its length is looked at before its content. That is counted in code points,
    /// or in bytes for the `str` of 2.7, which has it at the same place.
    fn is_text(&self, object: Address, name: &str) -> bool {
        let length = match self.layout.unicode {
            UnicodeLayout::Flexible { length, .. } | UnicodeLayout::Legacy { length, .. } => length,
        };
        let lengths = [name.len(), name.chars().count()];
        let could_be = |length: i64| {
            lengths
                .iter()
                .any(|known| i64::try_from(*known) == Ok(length))
        };
        self.field(object, length).is_ok_and(could_be)
            && self.text(object).is_ok_and(|text| text == name)
    }
}

fn address_in(bytes: &[u8]) -> Address {
    bytes
        .first_chunk()
        .map_or(Address::NULL, |bytes| Address(u64::from_le_bytes(*bytes)))
}

/// Entries of `size` bytes that end in key and value.
fn entries(bytes: &[u8], size: u64) -> Vec<DictEntry> {
    let skip = size as usize - 16;
    let entry = |chunk: &[u8]| DictEntry {
        key: address_in(&chunk[skip..]),
        value: address_in(&chunk[skip + 8..]),
    };
    bytes.chunks_exact(size as usize).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::testing::{Builder, all_layouts};

    #[test]
    fn entries_and_values_on_every_version() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let names = ["alpha", "beta", "größe"].map(|name| builder.text(name));
            let values = [1, 2, 3].map(|number| builder.int(number));
            let dict = builder.dict(&names.into_iter().zip(values).collect::<Vec<_>>());
            let reader = ObjectReader {
                memory: &builder,
                layout,
            };
            let found: Vec<_> = reader
                .dict_entries(dict)
                .unwrap()
                .into_iter()
                .filter(|entry| !entry.key.is_null())
                .collect();
            assert_eq!(found.len(), 3, "{:?}", layout.version);
            assert_eq!(reader.dict_value(dict, "beta"), Ok(Some(values[1])));
            assert_eq!(reader.dict_value(dict, "gamma"), Ok(None));
            assert_eq!(reader.dict_value(dict, "größe"), Ok(Some(values[2])));
            assert_eq!(found[2].key, names[2]);
        }
    }

    #[test]
    fn an_empty_dict_has_no_entries() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let dict = builder.dict(&[]);
            let reader = ObjectReader {
                memory: &builder,
                layout,
            };
            assert_eq!(
                reader.dict_value(dict, "x"),
                Ok(None),
                "{:?}",
                layout.version
            );
        }
    }
}
