//! Objects as values, bounded in depth, number and size. What can't be believed is told as unreadable; nothing is guessed.

mod types;

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::frame::FramePlace;
use super::locals::{Held, MAX_LOCALS, read_locals};
use super::number::{float_text, int_value};
use super::object::{ObjectError, ObjectReader, offset, shift};
use crate::model::{Address, Attribute, Entry, Local, Value};
use types::{Kind, TypeInfo};

/// Most containers and instances inside one another that are looked into.
const MAX_DEPTH: usize = 5;
/// Most items of one container, and attributes of one instance, that are read.
const MAX_ITEMS: usize = 32;
/// Most attributes of one object: clients of databases and brokers have more than forty.
const MAX_ATTRIBUTES: usize = 64;
/// Most code points or bytes of one text that are read.
const MAX_VALUE_TEXT: u64 = 1024;
/// Most objects that are read for one frame.
const MAX_FRAME_NODES: usize = 1000;
/// How much may still be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Objects.
    pub nodes: usize,
    /// Bytes of texts and names.
    pub bytes: usize,
}

impl Budget {
    /// Whether nothing may be read any more.
    pub fn is_spent(self) -> bool {
        self.nodes == 0 || self.bytes == 0
    }
}

/// What the variables of a frame may take for which there is no room any more.
const SIMPLE_BUDGET: Budget = Budget {
    nodes: 64,
    bytes: 4 << 10,
};

/// The type whose length is told though its items are not.
const DEQUE: &str = "collections.deque";
/// Where 2.7 keeps the length of one.
const DEQUE_LENGTH_2: u64 = 48;

/// Reads objects as values; made for one instant, since it keeps what it has seen of types.
pub struct ValueReader<'a> {
    reader: ObjectReader<'a>,
    budget: Budget,
    /// Of what is read now: objects that the frame may still have.
    frame_nodes: usize,
    types: FxHashMap<Address, Arc<TypeInfo>>,
    /// The containers around what is read now.
    around: Vec<Address>,
    /// Whether the globals of a module are told as the variables of its frame.
    with_globals: bool,
}

impl<'a> ValueReader<'a> {
    /// A reader that reads no more than `budget`.
    pub fn new(reader: ObjectReader<'a>, budget: Budget) -> Self {
        ValueReader {
            reader,
            budget,
            frame_nodes: MAX_FRAME_NODES,
            types: FxHashMap::default(),
            around: Vec::new(),
            with_globals: false,
        }
    }

    /// The same, which tells the globals of a module as the variables of its frame.
    pub fn with_globals(self) -> Self {
        ValueReader {
            with_globals: true,
            ..self
        }
    }

    /// What may still be read.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// The local variables of a frame with their values, arguments first; `None` when the budget is spent.
    pub fn locals(&mut self, place: &FramePlace) -> Option<Vec<Local>> {
        self.frame_nodes = MAX_FRAME_NODES;
        if self.budget.is_spent() {
            return None;
        }
        let variables = match read_locals(self.reader, place, self.with_globals) {
            Ok(variables) => variables,
            Err(error) => {
                // Told in the place of the variables: a frame without any has an empty list.
                let value = unreadable(&error);
                return Some(vec![Local {
                    name: "<locals>".to_owned(),
                    argument: false,
                    value,
                }]);
            }
        };
        // What is small and tells most comes first: one large object would leave nothing for the others.
        let mut values: Vec<Option<Value>> = variables
            .iter()
            .map(|variable| match variable.holds {
                Held::Object(object) => self.is_simple(object).then(|| self.value(object)),
                Held::Number(number) => Some(Value::Int {
                    text: Some(number.to_string()),
                    bits: u64::from(u64::BITS - number.unsigned_abs().leading_zeros()),
                }),
            })
            .collect();
        for (variable, value) in variables.iter().zip(&mut values) {
            self.take_bytes(variable.name.len());
            if let (None, Held::Object(object)) = (&value, variable.holds) {
                *value = Some(self.value(object));
            }
        }
        let locals = variables
            .into_iter()
            .zip(values)
            .filter_map(|(variable, value)| {
                Some(Local {
                    name: variable.name,
                    argument: variable.is_argument,
                    value: value?,
                })
            });
        Some(locals.collect())
    }

    /// The same of a frame for which there is no room any more: numbers, texts and the like, and of everything else the type. What that
    /// takes, which is little, is not taken from the budget.
    pub fn simple_locals(&mut self, place: &FramePlace) -> Vec<Local> {
        let budget = std::mem::replace(&mut self.budget, SIMPLE_BUDGET);
        self.frame_nodes = SIMPLE_BUDGET.nodes;
        let variables = read_locals(self.reader, place, false).unwrap_or_default();
        let mut found = Vec::new();
        for variable in variables {
            let Some(object) = variable.object() else {
                continue;
            };
            let value = match self.is_simple(object) {
                true => self.value(object),
                false => Value::Omitted {
                    type_name: self
                        .type_info(object)
                        .map(|info| info.name.clone())
                        .unwrap_or_default(),
                    address: object,
                },
            };
            found.push(Local {
                name: variable.name,
                argument: variable.is_argument,
                value,
            });
        }
        self.budget = budget;
        found
    }

    /// Whether the object is a number, a text or the like.
    fn is_simple(&mut self, object: Address) -> bool {
        let info = self.type_info(object);
        info.is_ok_and(|info| {
            matches!(
                info.kind,
                Kind::None
                    | Kind::Bool
                    | Kind::SmallInt
                    | Kind::Int
                    | Kind::Float
                    | Kind::Text
                    | Kind::Bytes
            )
        })
    }

    /// The globals in this dict that are numbers, texts or containers, each by its name behind `global `: what functions keep outside of
    /// themselves.
    pub fn globals(&mut self, dict: Address) -> Vec<Local> {
        self.frame_nodes = MAX_FRAME_NODES;
        let Ok((entries, _)) = self.reader.dict_part(dict, MAX_LOCALS) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for entry in entries {
            if self.budget.is_spent() {
                break;
            }
            let is_state = self.type_info(entry.value).is_ok_and(|info| {
                let is_deque = info.name == DEQUE;
                is_deque || !matches!(info.kind, Kind::Class | Kind::Module | Kind::Other)
            });
            let name = self.reader.text_part(entry.key, MAX_VALUE_TEXT).ok();
            let Some((name, _)) = name.filter(|(name, _)| is_state && !name.starts_with("__"))
            else {
                continue;
            };
            let value = self.value(entry.value);
            found.push(Local {
                name: format!("global {name}"),
                argument: false,
                value,
            });
        }
        found
    }

    /// The object at `address` as a value.
    pub fn value(&mut self, address: Address) -> Value {
        match self.read(address) {
            Ok(value) => value,
            Err(error) => unreadable(&error),
        }
    }

    fn take_bytes(&mut self, count: usize) {
        self.budget.bytes = self.budget.bytes.saturating_sub(count);
    }

    fn read(&mut self, address: Address) -> Result<Value, ObjectError> {
        if self.around.contains(&address) {
            return Ok(Value::Cycle { address });
        }
        if self.budget.is_spent() || self.frame_nodes == 0 {
            return Ok(Value::Omitted {
                type_name: String::new(),
                address,
            });
        }
        self.budget.nodes -= 1;
        self.frame_nodes -= 1;
        // In 3.14+ what is kept on a stack may be tagged; what an object keeps is not, and an object lies at a whole word.
        if !address.0.is_multiple_of(8) {
            return Err(garbage(address, "address of an object"));
        }
        let facts = self.type_info(address)?;
        if facts.is_exact
            && let Some(value) = self.scalar(address, facts.kind)?
        {
            return Ok(value);
        }
        if self.around.len() >= MAX_DEPTH {
            self.take_bytes(facts.name.len());
            return Ok(Value::Omitted {
                type_name: facts.name.clone(),
                address,
            });
        }
        self.around.push(address);
        let value = if facts.is_exact {
            self.container(address, facts.kind)
        } else {
            Ok(None)
        };
        let value = match value {
            Ok(Some(value)) => Ok(value),
            Ok(None) => self.object(address, &facts),
            Err(error) => Err(error),
        };
        self.around.pop();
        value
    }

    /// What contains nothing; `None` for other kinds.
    fn scalar(&mut self, address: Address, kind: Kind) -> Result<Option<Value>, ObjectError> {
        let reader = self.reader;
        Ok(Some(match kind {
            Kind::None => Value::None,
            Kind::Bool => Value::Bool {
                value: reader.unsigned(address)? != 0,
            },
            Kind::SmallInt => {
                let number = reader.unsigned(address)?.cast_signed();
                Value::Int {
                    text: Some(number.to_string()),
                    bits: u64::from(u64::BITS - number.unsigned_abs().leading_zeros()),
                }
            }
            Kind::Int => int_value(reader, address)?,
            Kind::Float => {
                let bits = reader.field(address, reader.layout.values.float)?;
                Value::Float {
                    text: float_text(f64::from_bits(bits)),
                }
            }
            Kind::Text => {
                let (text, length) = reader.unicode(address, MAX_VALUE_TEXT)?;
                self.take_bytes(text.len());
                Value::Str { text, length }
            }
            Kind::Bytes => self.bytes(address)?,
            _ => return Ok(None),
        }))
    }

    fn bytes(&mut self, address: Address) -> Result<Value, ObjectError> {
        let (bytes, length) = self.reader.bytes_content(address, MAX_VALUE_TEXT)?;
        self.take_bytes(bytes.len());
        if self.reader.layout.version.0 == 2 {
            let is_cut = bytes.len() as u64 != length;
            match std::str::from_utf8(&bytes) {
                Ok(text) => {
                    return Ok(Value::Str {
                        text: text.to_owned(),
                        length,
                    });
                }
                // A letter that the cut went through.
                Err(error) if is_cut && error.error_len().is_none() => {
                    let whole = bytes.get(..error.valid_up_to()).unwrap_or_default();
                    return Ok(Value::Str {
                        text: String::from_utf8_lossy(whole).into_owned(),
                        length,
                    });
                }
                Err(_) => {}
            }
        }
        Ok(Value::Bytes {
            text: bytes.escape_ascii().to_string(),
            length,
        })
    }

    /// What contains other objects; `None` for other kinds.
    fn container(&mut self, address: Address, kind: Kind) -> Result<Option<Value>, ObjectError> {
        let values = &self.reader.layout.values;
        Ok(Some(match kind {
            Kind::List => {
                let first = self.reader.pointer(address, values.list_items)?;
                let (items, length) = self.items(address, first)?;
                Value::List { items, length }
            }
            Kind::Tuple => {
                let first = offset(address, values.tuple_items.offset())?;
                let (items, length) = self.items(address, first)?;
                Value::Tuple { items, length }
            }
            Kind::Set => {
                let (items, length) = self.set_items(address)?;
                Value::Set { items, length }
            }
            Kind::FrozenSet => {
                let (items, length) = self.set_items(address)?;
                Value::FrozenSet { items, length }
            }
            Kind::Dict => {
                let (found, length) = self.reader.mapping_part(address, MAX_ITEMS)?;
                let entries = found.into_iter().map(|entry| Entry {
                    key: self.value(entry.key),
                    value: self.value(entry.value),
                });
                Value::Dict {
                    entries: entries.collect(),
                    length,
                }
            }
            _ => return Ok(None),
        }))
    }

    fn items(
        &mut self,
        address: Address,
        first: Address,
    ) -> Result<(Vec<Value>, u64), ObjectError> {
        let length = self.reader.var_size(address)?;
        if length > MAX_ITEMS as u64 {
            // The last one is looked at, so that garbage is not taken for a long list.
            let last = (length - 1).checked_mul(8);
            let last = last.ok_or(garbage(address, "number of items"))?;
            self.reader.memory.read(offset(first, last)?, &mut [0; 8])?;
        }
        let items = self.addresses(first, length.min(MAX_ITEMS as u64))?;
        let items = items.into_iter().map(|item| {
            match item {
                // One that is not set yet, as in a tuple that is being made.
                Address::NULL => Value::Unreadable {
                    why: "not set".to_owned(),
                },
                item => self.value(item),
            }
        });
        Ok((items.collect(), length))
    }

    fn set_items(&mut self, address: Address) -> Result<(Vec<Value>, u64), ObjectError> {
        let (keys, length) = self.reader.set_part(address, MAX_ITEMS)?;
        let items = keys.into_iter().map(|key| self.value(key)).collect();
        Ok((items, length))
    }

    /// How many items a `collections.deque` has; the items are not read (`Modules/_collectionsmodule.c`: `ob_size` in 3.6-3.15, and in
    /// 2.7 the member `len` behind two pointers and two indices).
    fn deque_length(&self, address: Address) -> Option<u64> {
        if self.reader.layout.version.0 == 2 {
            let at = address.checked_add(DEQUE_LENGTH_2)?;
            let mut bytes = [0; 8];
            self.reader.memory.read(at, &mut bytes).ok()?;
            return u64::try_from(i64::from_le_bytes(bytes)).ok();
        }
        self.reader.var_size(address).ok()
    }

    /// An instance of a class, or of a type that nothing is known of.
    fn object(&mut self, address: Address, facts: &TypeInfo) -> Result<Value, ObjectError> {
        self.take_bytes(facts.name.len());
        let mut type_name = facts.name.clone();
        let name = match facts.kind {
            Kind::Class => self.reader.type_name_with_module(address).ok(),
            Kind::Module => self.module_name(address),
            _ => None,
        };
        let mut content = match self.scalar(address, facts.kind)? {
            Some(value) => Some(value),
            None => self.container(address, facts.kind)?,
        };
        if content.is_none() && facts.name == DEQUE {
            content = self.deque_length(address).map(|length| Value::List {
                items: Vec::new(),
                length,
            });
        }
        let (pairs, mut length) = match facts.kind {
            Kind::Class | Kind::Module => (Vec::new(), 0),
            Kind::OldInstance => {
                type_name = self.old_class_name(address)?;
                self.old_attributes(address)?
            }
            _ => self.reader.own_attributes(address, MAX_ATTRIBUTES)?,
        };
        let mut attributes = Vec::with_capacity(pairs.len());
        if let Some(Value::Tuple {
            items,
            length: count,
        }) = &mut content
            && *count == facts.fields.len() as u64
            && items.len() == facts.fields.len()
        {
            let items = std::mem::take(items).into_iter();
            let named = facts.fields.iter().cloned().zip(items);
            attributes.extend(named.map(|(name, value)| Attribute { name, value }));
            length += attributes.len() as u64;
            content = None;
        }
        for (key, value) in pairs {
            let name = match self.reader.text_part(key, MAX_VALUE_TEXT) {
                Ok((name, _)) => name,
                Err(error) => format!("<unreadable: {error}>"),
            };
            self.take_bytes(name.len());
            attributes.push(Attribute {
                name,
                value: self.value(value),
            });
        }
        for slot in &facts.slots {
            let value = self.reader.memory.read_address(shift(address, slot.at)?)?;
            if value.is_null() {
                continue;
            }
            length += 1;
            if attributes.len() < MAX_ATTRIBUTES {
                self.take_bytes(slot.name.len());
                attributes.push(Attribute {
                    name: slot.name.clone(),
                    value: self.value(value),
                });
            }
        }
        Ok(Value::Object {
            type_name,
            address,
            name,
            content: content.map(Box::new),
            attributes,
            length,
        })
    }

    fn module_name(&self, module: Address) -> Option<String> {
        let name = self.reader.attribute(module, "__name__").ok().flatten()?;
        self.reader
            .text_part(name, MAX_VALUE_TEXT)
            .ok()
            .map(|(name, _)| name)
    }

    fn old_class_name(&self, instance: Address) -> Result<String, ObjectError> {
        let Some(layout) = self.reader.layout.values.old_instance else {
            return Err(garbage(instance, "no instance of an old-style class"));
        };
        let class = self.reader.pointer(instance, layout.class)?;
        let name = self.reader.pointer(class, layout.class_name)?;
        let (name, _) = self.reader.text_part(name, MAX_VALUE_TEXT)?;
        let dict = self.reader.pointer(class, layout.class_dict)?;
        let module = self.reader.dict_value(dict, "__module__")?;
        let module = module.and_then(|module| self.reader.text_part(module, MAX_VALUE_TEXT).ok());
        Ok(match module {
            Some((module, _)) => format!("{module}.{name}"),
            None => name,
        })
    }

    fn old_attributes(
        &self,
        instance: Address,
    ) -> Result<(Vec<(Address, Address)>, u64), ObjectError> {
        let Some(layout) = self.reader.layout.values.old_instance else {
            return Ok((Vec::new(), 0));
        };
        let dict = self.reader.pointer(instance, layout.dict)?;
        let (entries, length) = self.reader.dict_part(dict, MAX_ATTRIBUTES)?;
        let pairs = entries.into_iter().map(|entry| (entry.key, entry.value));
        Ok((pairs.collect(), length))
    }

    /// At most 32 pointers.
    fn addresses(&self, first: Address, count: u64) -> Result<Vec<Address>, ObjectError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let bytes = self
            .reader
            .memory
            .read_vec(first, count * 8, MAX_ITEMS as u64 * 8)?;
        let (words, _) = bytes.as_chunks();
        let words = words.iter().map(|word| Address(u64::from_le_bytes(*word)));
        Ok(words.collect())
    }
}

fn unreadable(error: &ObjectError) -> Value {
    Value::Unreadable {
        why: error.to_string(),
    }
}

fn garbage(address: Address, what: &'static str) -> ObjectError {
    ObjectError::Garbage { address, what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::python::testing::{Builder, all_layouts};

    const BUDGET: Budget = Budget {
        nodes: 10_000,
        bytes: 1 << 20,
    };

    fn read(builder: &Builder, address: Address) -> Value {
        let reader = ObjectReader {
            memory: builder,
            layout: builder.layout,
        };
        ValueReader::new(reader, BUDGET).value(address)
    }

    /// One of each, around the others.
    fn everything(builder: &mut Builder) -> Address {
        let (one, half, text) = (builder.int(1), builder.float(0.5), builder.text("größe"));
        let (none, data) = (builder.none(), builder.bytes(b"\xff\0"));
        let tuple = builder.sequence("tuple", &[one]);
        let set = builder.set_of("set", &[half, data]);
        let frozen = builder.set_of("frozenset", &[]);
        let dict = builder.dict(&[(text, tuple), (one, set)]);
        let slotted = builder.slotted(&[("a", one), ("unset", Address::NULL), ("b", frozen)]);
        builder.sequence("list", &[none, dict, slotted, text])
    }

    #[test]
    fn every_kind_on_every_version() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let all = everything(&mut builder);
            let Value::List { items, length: 4 } = read(&builder, all) else {
                panic!("{:?}: {}", layout.version, read(&builder, all));
            };
            let shown: Vec<_> = items.iter().map(Value::to_string).collect();
            let expected = [
                "None",
                "{'größe': (1,), 1: {0.5, b'\\xff\\x00'}}",
                "Slotted(a=1, b=frozenset({}))",
                "'größe'",
            ];
            assert_eq!(shown, expected, "{:?}", layout.version);
        }
    }

    #[test]
    fn cycles_depth_and_number_are_bounded() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let one = builder.int(1);
            let ring = builder.sequence("tuple", &[one, one]);
            let first = layout.values.tuple_items.offset();
            builder.overwrite(Address(ring.0 + first), &ring.0.to_le_bytes());
            assert_eq!(read(&builder, ring).to_string(), "(<cycle>, 1)");
            let mut nest = one;
            for _ in 0..1000 {
                nest = builder.sequence("list", &[nest; 40]);
            }
            let started = std::time::Instant::now();
            let shown = read(&builder, nest).to_string();
            assert!(
                shown.contains("(40 in all)") && shown.contains("<list at"),
                "{shown}"
            );
            assert!(started.elapsed() < std::time::Duration::from_secs(2));
            let many = vec![one; 5000];
            let many = builder.sequence("list", &many);
            let Value::List { items, length } = read(&builder, many) else {
                panic!("no list");
            };
            assert_eq!((items.len(), length), (MAX_ITEMS, 5000));
        }
    }

    #[test]
    fn what_is_no_object_is_unreadable() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let list = builder.sequence("list", &[]);
            builder.set(list, layout.object.ob_size, u64::MAX);
            let text = builder.text("x");
            let orphan = builder.float(1.0);
            builder.set(orphan, layout.object.ob_type, text.0);
            for address in [
                list,
                orphan,
                Address(0),
                Address(8),
                Address(13),
                Address(u64::MAX - 7),
            ] {
                let value = read(&builder, address);
                assert!(
                    matches!(value, Value::Unreadable { .. }),
                    "{:?}: {value:?}",
                    layout.version
                );
            }
        }
    }

    proptest! {
        #[test]
        fn damaged_objects_are_taken(damage in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..40)) {
            for layout in all_layouts() {
                let mut builder = Builder::new(layout);
                let start = builder.none();
                let all = everything(&mut builder);
                for (place, value) in &damage {
                    builder.overwrite(Address(start.0 + u64::from(*place) % (all.0 - start.0)), &[*value]);
                }
                let _ = read(&builder, all).to_string();
            }
        }

        #[test]
        fn numbers_come_back(bits in any::<u64>(), number in any::<u64>()) {
            let value = f64::from_bits(bits);
            for layout in all_layouts() {
                let mut builder = Builder::new(layout);
                let (float, int) = (builder.float(value), builder.int(number));
                let Value::Float { text } = read(&builder, float) else {
                    panic!("no float");
                };
                prop_assert!(text.parse::<f64>() == Ok(value) || value.is_nan());
                prop_assert_eq!(read(&builder, int).to_string(), number.to_string());
            }
        }
    }
}
