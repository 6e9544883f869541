//! What is used of the types of values: which builtin one an object is an instance of, its slots, the names of its items. No values.

use std::sync::Arc;

use super::{MAX_ITEMS, MAX_VALUE_TEXT, ValueReader, garbage};
use crate::model::Address;
use crate::python::attribute::Slot;
use crate::python::object::{
    FLAG_BYTES_SUBCLASS, FLAG_DICT_SUBCLASS, FLAG_HEAPTYPE, FLAG_INT_SUBCLASS, FLAG_LIST_SUBCLASS,
    FLAG_LONG_SUBCLASS, FLAG_TUPLE_SUBCLASS, FLAG_TYPE_SUBCLASS, FLAG_UNICODE_SUBCLASS,
    ObjectError, offset,
};

/// Most types whose facts are kept.
const MAX_TYPES: usize = 1024;
/// Most classes that are gone through to find the builtin one that a class inherits from.
const MAX_BASES: usize = 64;

/// The builtin type that an object is an instance of, directly or through classes that inherit from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    None,
    Bool,
    SmallInt,
    Int,
    Float,
    Text,
    Bytes,
    List,
    Tuple,
    Set,
    FrozenSet,
    Dict,
    Class,
    Module,
    OldInstance,
    Other,
}

/// What is used of a type, read once.
#[derive(Debug)]
pub(super) struct TypeInfo {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Whether it is the builtin type itself.
    pub(super) is_exact: bool,
    pub(super) slots: Vec<Slot>,
    /// The names of a named tuple's items.
    pub(super) fields: Vec<String>,
}

impl ValueReader<'_> {
    pub(super) fn type_info(&mut self, object: Address) -> Result<Arc<TypeInfo>, ObjectError> {
        let facts = self.reader.type_facts(object)?;
        if let Some(known) = self.types.get(&facts.address) {
            return Ok(Arc::clone(known));
        }
        let name = self.reader.type_name_with_module(facts.address)?;
        let is_heap = facts.flags & FLAG_HEAPTYPE != 0;
        let builtin = self.builtin_base(facts.address)?;
        let kind = kind_of(facts.flags, &builtin, self.reader.layout.version.0 == 2);
        let slots = if is_heap && kind != Kind::Class {
            let slots = self.reader.slots(facts.address)?;
            slots
                .into_iter()
                .filter(|slot| !slot.name.starts_with("__"))
                .collect()
        } else {
            Vec::new()
        };
        let fields = if is_heap && kind == Kind::Tuple {
            self.field_names(facts.address).unwrap_or_default()
        } else {
            Vec::new()
        };
        let info = Arc::new(TypeInfo {
            is_exact: !is_heap && is_exact(kind, &name),
            name,
            kind,
            slots,
            fields,
        });
        if self.types.len() >= MAX_TYPES {
            self.types.clear();
        }
        self.types.insert(facts.address, Arc::clone(&info));
        Ok(info)
    }

    /// `_fields` of a class that `collections.namedtuple` has made, or of the one that it inherits from.
    fn field_names(&self, class: Address) -> Result<Vec<String>, ObjectError> {
        let values = &self.reader.layout.values;
        let mut at = class;
        for _ in 0..MAX_BASES {
            if self
                .reader
                .field(at, self.reader.layout.type_object.flags)?
                & FLAG_HEAPTYPE
                == 0
            {
                break;
            }
            let dict = self.reader.pointer(at, values.type_dict)?;
            if let Some(fields) = self.reader.dict_value(dict, "_fields")? {
                let count = self.reader.var_size(fields)?;
                if count > MAX_ITEMS as u64 {
                    break;
                }
                let first = offset(fields, values.tuple_items.offset())?;
                let names = self.addresses(first, count)?;
                let names = names.into_iter();
                return names
                    .map(|name| Ok(self.reader.text_part(name, MAX_VALUE_TEXT)?.0))
                    .collect();
            }
            at = self.reader.pointer(at, values.type_base)?;
        }
        Ok(Vec::new())
    }

    /// The name of the first type that is no class of Python's, from `class` on towards `object`.
    fn builtin_base(&self, class: Address) -> Result<String, ObjectError> {
        let mut at = class;
        for _ in 0..MAX_BASES {
            let flags = self
                .reader
                .field(at, self.reader.layout.type_object.flags)?;
            let base = self
                .reader
                .pointer(at, self.reader.layout.values.type_base)?;
            if flags & FLAG_HEAPTYPE == 0 || base.is_null() {
                return self.reader.type_name(at);
            }
            at = base;
        }
        Err(garbage(class, "bases of a class"))
    }
}

fn kind_of(flags: u64, builtin: &str, is_2: bool) -> Kind {
    match builtin {
        "NoneType" => return Kind::None,
        "bool" => return Kind::Bool,
        "float" => return Kind::Float,
        "set" => return Kind::Set,
        "frozenset" => return Kind::FrozenSet,
        "module" => return Kind::Module,
        // A dict that can't be changed (3.15, PEP 814) begins as one that can.
        "frozendict" => return Kind::Dict,
        "instance" if is_2 => return Kind::OldInstance,
        _ => {}
    }
    let kinds = [
        (FLAG_LONG_SUBCLASS, Kind::Int),
        (FLAG_LIST_SUBCLASS, Kind::List),
        (FLAG_TUPLE_SUBCLASS, Kind::Tuple),
        (FLAG_BYTES_SUBCLASS, Kind::Bytes),
        (FLAG_UNICODE_SUBCLASS, Kind::Text),
        (FLAG_DICT_SUBCLASS, Kind::Dict),
        (FLAG_TYPE_SUBCLASS, Kind::Class),
    ];
    if is_2 && flags & FLAG_INT_SUBCLASS != 0 {
        return Kind::SmallInt;
    }
    let known = kinds.iter().find(|(flag, _)| flags & flag != 0);
    known.map_or(Kind::Other, |(_, kind)| *kind)
}

/// Whether a type that is no class of Python's is the builtin type itself, by its name.
fn is_exact(kind: Kind, name: &str) -> bool {
    match kind {
        Kind::None => name == "NoneType",
        Kind::Bool => name == "bool",
        Kind::SmallInt => name == "int",
        Kind::Int => name == "int" || name == "long",
        Kind::Float => name == "float",
        Kind::Text => name == "str" || name == "unicode",
        Kind::Bytes => name == "bytes" || name == "str",
        Kind::List => name == "list",
        Kind::Tuple => name == "tuple",
        Kind::Set => name == "set",
        Kind::FrozenSet => name == "frozenset",
        Kind::Dict => name == "dict" || name == "frozendict",
        Kind::Class | Kind::Module | Kind::OldInstance | Kind::Other => false,
    }
}
