//! The attributes of instances, wherever a version keeps them: a dict, values beside the object, or values inside it.

use super::dict::DictEntry;
use super::layout::{DictLayout, ManagedDict};
use super::object::{
    FLAG_HEAPTYPE, FLAG_MANAGED_DICT, ObjectError, ObjectReader, TypeFacts, offset, shift,
};
use crate::model::Address;

impl ObjectReader<'_> {
    /// The attribute `name` of an instance, as its own `__dict__` or inline values hold it; classes are not searched.
    pub fn attribute(&self, object: Address, name: &str) -> Result<Option<Address>, ObjectError> {
        Ok(self.find_key(&self.attributes(object)?, name))
    }

    /// All attributes of an instance that [`attribute`](Self::attribute) looks at; entries of none have no value.
    pub fn attributes(&self, object: Address) -> Result<Vec<DictEntry>, ObjectError> {
        let facts = self.type_facts(object)?;
        let has_managed_dict = facts.flags & FLAG_MANAGED_DICT != 0;
        match self.layout.managed_dict {
            ManagedDict::DictAndValues { dict, values } if has_managed_dict => {
                let dict = self.memory.read_address(shift(object, i64::from(dict))?)?;
                if !dict.is_null() {
                    return self.dict_entries(dict);
                }
                let values = self
                    .memory
                    .read_address(shift(object, i64::from(values))?)?;
                self.split_attributes(facts, values)
            }
            ManagedDict::Tagged { pointer } if has_managed_dict => {
                let pointer = self
                    .memory
                    .read_address(shift(object, i64::from(pointer))?)?;
                if pointer.0 & 1 == 0 {
                    return self.dict_entries(pointer);
                }
                // `Include/internal/pycore_object.h::_PyDictOrValues_GetValues` (3.12): the tag is one less than the values.
                self.split_attributes(facts, offset(pointer, 1)?)
            }
            ManagedDict::Inline { dict, valid, flag } if has_managed_dict => {
                let dict = self.memory.read_address(shift(object, i64::from(dict))?)?;
                if !dict.is_null() {
                    return self.dict_entries(dict);
                }
                if facts.flags & flag == 0 {
                    return Ok(Vec::new());
                }
                let basicsize = self.field(facts.address, self.layout.type_object.basicsize)?;
                let inline = shift(object, basicsize)?;
                if self.field(inline, valid)? == 0 {
                    return Ok(Vec::new());
                }
                let DictLayout::Keys { first_value, .. } = self.layout.dict else {
                    return Ok(Vec::new());
                };
                self.split_attributes(facts, offset(inline, u64::from(first_value))?)
            }
            _ => {
                let at = self.field(facts.address, self.layout.type_object.dictoffset)?;
                if at <= 0 {
                    // None at all, or behind items of variable number, as no class in question has it.
                    return Ok(Vec::new());
                }
                match self.memory.read_address(shift(object, at)?)? {
                    Address::NULL => Ok(Vec::new()),
                    dict => self.dict_entries(dict),
                }
            }
        }
    }

    fn split_attributes(
        &self,
        facts: TypeFacts,
        values: Address,
    ) -> Result<Vec<DictEntry>, ObjectError> {
        let (Some(cached_keys), DictLayout::Keys { keys_layout, .. }) =
            (self.layout.type_object.cached_keys, &self.layout.dict)
        else {
            return Ok(Vec::new());
        };
        if facts.flags & FLAG_HEAPTYPE == 0 || values.is_null() {
            return Ok(Vec::new());
        }
        let keys = self.pointer(facts.address, cached_keys)?;
        if keys.is_null() {
            return Ok(Vec::new());
        }
        self.entries_of_keys(keys, *keys_layout, Some(values))
    }
}
