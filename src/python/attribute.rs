//! The attributes of instances, wherever a version keeps them: a dict, values beside the object, values inside it, or slots.

use super::dict::{DictEntry, EntryTable};
use super::layout::{DictLayout, ManagedDict};
use super::object::{
    FLAG_HEAPTYPE, FLAG_MANAGED_DICT, ObjectError, ObjectReader, TypeFacts, offset, shift,
};
use crate::model::Address;

/// Most classes that one inherits from, one behind the other, that are looked at.
const MAX_BASES: usize = 64;
/// Most members of one class that are looked at.
const MAX_MEMBERS: u64 = 256;
/// Most code points of the module and of the qualified name of a class.
const MAX_TYPE_TEXT: u64 = 256;
/// `T_OBJECT` and `T_OBJECT_EX` (`Include/structmember.h`, `Include/descrobject.h` from 3.12 on).
const MEMBER_OBJECTS: [i32; 2] = [6, 16];
/// Most attributes that are read of values that are not in a dict: keys that instances share are at most 30
/// (`Objects/dictobject.c::SHARED_KEYS_MAX_SIZE`, 3.11-3.15).
const MAX_SHARED: usize = 1024;

/// Where an instance keeps the attributes that are not in slots.
pub(super) enum Attributes {
    None,
    /// In a dict.
    Dict(Address),
    /// In values whose keys the class has.
    Split(EntryTable),
}

/// A slot of a class: a member that points to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name; that of `__private` names has the class's name before it, as Python has.
    pub name: String,
    /// Offset in bytes from the start of an instance.
    pub at: i64,
}

impl ObjectReader<'_> {
    /// The attribute `name` of an instance, as its own `__dict__`, inline values or slots hold it; what classes define is
    /// not searched.
    pub fn attribute(&self, object: Address, name: &str) -> Result<Option<Address>, ObjectError> {
        let facts = self.type_facts(object)?;
        let found = match self.attributes_at(object, facts)? {
            Attributes::None => None,
            Attributes::Dict(dict) => self.dict_value(dict, name)?,
            Attributes::Split(table) => {
                let entries = self.first_entries(object, &table, MAX_SHARED)?;
                self.find_key(&entries, name)
            }
        };
        if found.is_some() {
            return Ok(found);
        }
        let slots = self.slots(facts.address)?;
        let Some(slot) = slots.iter().find(|slot| slot.name == name) else {
            return Ok(None);
        };
        let value = self.memory.read_address(shift(object, slot.at)?)?;
        Ok((!value.is_null()).then_some(value))
    }

    /// All attributes of an instance that are not in slots; entries of none have no value.
    pub fn attributes(&self, object: Address) -> Result<Vec<DictEntry>, ObjectError> {
        let facts = self.type_facts(object)?;
        match self.attributes_at(object, facts)? {
            Attributes::None => Ok(Vec::new()),
            Attributes::Dict(dict) => self.dict_entries(dict),
            Attributes::Split(table) => self.first_entries(object, &table, MAX_SHARED),
        }
    }

    /// The attributes of an instance that are not in slots, as key and value, at most `limit`, and how many there are.
    pub fn own_attributes(
        &self,
        object: Address,
        limit: usize,
    ) -> Result<(Vec<(Address, Address)>, u64), ObjectError> {
        let facts = self.type_facts(object)?;
        let (entries, count) = match self.attributes_at(object, facts)? {
            Attributes::None => return Ok((Vec::new(), 0)),
            Attributes::Dict(dict) => self.dict_part(dict, limit)?,
            Attributes::Split(table) => {
                let mut entries = self.first_entries(object, &table, MAX_SHARED)?;
                let count = entries.len() as u64;
                entries.truncate(limit);
                (entries, count)
            }
        };
        let pairs = entries.into_iter().map(|entry| (entry.key, entry.value));
        Ok((pairs.collect(), count))
    }

    /// The name of a type as programs write it: `module.Class.Inner`; a builtin type's has no module.
    pub fn type_name_with_module(&self, type_object: Address) -> Result<String, ObjectError> {
        let name = self.type_name(type_object)?;
        let flags = self.field(type_object, self.layout.type_object.flags)?;
        // Types that C code makes have the module in their names (`Objects/typeobject.c::type_module`, 2.7-3.15).
        if flags & FLAG_HEAPTYPE == 0 || name.contains('.') {
            return Ok(name);
        }
        let values = &self.layout.values;
        let qualified = match values.type_qualname {
            Some(field) => {
                let qualname = self.pointer(type_object, field)?;
                self.text_part(qualname, MAX_TYPE_TEXT).ok()
            }
            None => None,
        };
        let name = qualified.map_or(name, |(name, _)| name);
        let dict = self.pointer(type_object, values.type_dict)?;
        if dict.is_null() {
            return Ok(name);
        }
        let module = self.dict_value(dict, "__module__")?;
        let module = module.and_then(|module| self.text_part(module, MAX_TYPE_TEXT).ok());
        Ok(match module {
            Some((module, _)) if module != "builtins" && module != "__builtin__" => {
                format!("{module}.{name}")
            }
            _ => name,
        })
    }

    /// The slots of a class and of those that its instances' layout comes from, outermost last.
    ///
    /// Classes without slots of their own share their base's layout, so that `tp_base` leads to all that have some.
    pub fn slots(&self, type_object: Address) -> Result<Vec<Slot>, ObjectError> {
        let values = &self.layout.values;
        let mut slots = Vec::new();
        let mut class = type_object;
        for _ in 0..MAX_BASES {
            if class.is_null() {
                break;
            }
            let members = self.pointer(class, values.type_members)?;
            if !members.is_null() {
                self.read_slots(members, &mut slots)?;
            }
            class = self.pointer(class, values.type_base)?;
        }
        Ok(slots)
    }

    fn read_slots(&self, members: Address, slots: &mut Vec<Slot>) -> Result<(), ObjectError> {
        let layout = self.layout.values.member;
        for index in 0..MAX_MEMBERS {
            let member = offset(members, index * u64::from(layout.size))?;
            let name = self.field(member, layout.name)?;
            if name.is_null() {
                break;
            }
            if !MEMBER_OBJECTS.contains(&self.field(member, layout.kind)?) {
                continue;
            }
            if let Some(name) = self.c_string(name)? {
                let at = self.field(member, layout.at)?;
                slots.push(Slot { name, at });
            }
        }
        Ok(())
    }

    pub(super) fn attributes_at(
        &self,
        object: Address,
        facts: TypeFacts,
    ) -> Result<Attributes, ObjectError> {
        let has_managed_dict = facts.flags & FLAG_MANAGED_DICT != 0;
        match self.layout.managed_dict {
            ManagedDict::DictAndValues { dict, values } if has_managed_dict => {
                let dict = self.memory.read_address(shift(object, i64::from(dict))?)?;
                if !dict.is_null() {
                    return Ok(Attributes::Dict(dict));
                }
                let values = self
                    .memory
                    .read_address(shift(object, i64::from(values))?)?;
                self.split(facts, values)
            }
            ManagedDict::Tagged { pointer } if has_managed_dict => {
                let pointer = self
                    .memory
                    .read_address(shift(object, i64::from(pointer))?)?;
                if pointer.is_null() {
                    return Ok(Attributes::None);
                }
                if pointer.0 & 1 == 0 {
                    return Ok(Attributes::Dict(pointer));
                }
                // `Include/internal/pycore_object.h::_PyDictOrValues_GetValues` (3.12): the tag is one less than the values.
                self.split(facts, offset(pointer, 1)?)
            }
            ManagedDict::Inline { dict, valid, flag } if has_managed_dict => {
                let dict = self.memory.read_address(shift(object, i64::from(dict))?)?;
                if !dict.is_null() {
                    return Ok(Attributes::Dict(dict));
                }
                if facts.flags & flag == 0 {
                    return Ok(Attributes::None);
                }
                let basicsize = self.field(facts.address, self.layout.type_object.basicsize)?;
                let inline = shift(object, basicsize)?;
                if self.field(inline, valid)? == 0 {
                    return Ok(Attributes::None);
                }
                let DictLayout::Keys { first_value, .. } = self.layout.dict else {
                    return Ok(Attributes::None);
                };
                self.split(facts, offset(inline, u64::from(first_value))?)
            }
            _ => self.dict_at_offset(object, facts),
        }
    }

    /// The dict at `tp_dictoffset`; a negative one counts from the end of an object whose size varies
    /// (`Objects/object.c::_PyObject_GetDictPtr`, 2.7-3.11).
    fn dict_at_offset(&self, object: Address, facts: TypeFacts) -> Result<Attributes, ObjectError> {
        let types = &self.layout.type_object;
        let mut at = self.field(facts.address, types.dictoffset)?;
        if at < 0 {
            let items = self.field(object, self.layout.object.ob_size)?;
            let (base, item) = (
                self.field(facts.address, types.basicsize)?,
                self.field(facts.address, self.layout.values.type_itemsize)?,
            );
            let garbage = ObjectError::Garbage {
                address: object,
                what: "size of an instance",
            };
            let size = i64::try_from(items.unsigned_abs())
                .ok()
                .and_then(|items| items.checked_mul(item))
                .and_then(|size| size.checked_add(base))
                .and_then(|size| size.checked_add(7));
            // Rounded up to whole words (`_PyObject_VAR_SIZE`).
            let end = size.ok_or(garbage.clone())? & !7;
            at = end.checked_add(at).filter(|at| *at > 0).ok_or(garbage)?;
        }
        if at == 0 {
            return Ok(Attributes::None);
        }
        Ok(match self.memory.read_address(shift(object, at)?)? {
            Address::NULL => Attributes::None,
            dict => Attributes::Dict(dict),
        })
    }

    fn split(&self, facts: TypeFacts, values: Address) -> Result<Attributes, ObjectError> {
        let (Some(cached_keys), DictLayout::Keys { keys_layout, .. }) =
            (self.layout.type_object.cached_keys, &self.layout.dict)
        else {
            return Ok(Attributes::None);
        };
        if facts.flags & FLAG_HEAPTYPE == 0 || values.is_null() {
            return Ok(Attributes::None);
        }
        match self.pointer(facts.address, cached_keys)? {
            Address::NULL => Ok(Attributes::None),
            keys => Ok(Attributes::Split(self.find_entries(
                keys,
                *keys_layout,
                Some(values),
            )?)),
        }
    }
}
