//! Which descriptors objects stand for - sockets, pipes, files and their wrappers - and which of them variables lead to. Nothing is concluded.

use rustc_hash::{FxHashMap, FxHashSet};

use super::object::{
    FLAG_DICT_SUBCLASS, FLAG_HEAPTYPE, FLAG_INT_SUBCLASS, FLAG_LIST_SUBCLASS, FLAG_LONG_SUBCLASS,
    FLAG_TUPLE_SUBCLASS, FLAG_TYPE_SUBCLASS, ObjectError, ObjectReader, TypeFacts, offset,
};
use crate::model::Address;

/// How many steps a descriptor's object may be away from a variable; the variable's own value is one step.
const MAX_STEPS: u8 = 4;
/// Most objects that are looked at for one thread.
const MAX_OBJECTS: usize = 2048;
/// Most items of one container, and most attributes of one instance.
const MAX_ITEMS: usize = 64;
/// Most classes that one inherits from, one behind the other.
const MAX_BASES: usize = 16;
/// Longest name of an attribute that is compared.
const MAX_NAME: u64 = 32;
/// Attributes that hold the number of a descriptor, where a class is written in Python: those of `multiprocessing.connection` and of usual
/// wrappers.
const NUMBERS: [&str; 5] = ["_handle", "_fd", "fd", "_fileno", "_sock_fd"];

/// How an object leads to a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// The number is in it, right behind the head.
    Number,
    /// A pointer to what has it is in it, so many bytes behind the head.
    Wraps(u64),
    List,
    Tuple,
    Dict,
    Cell,
    Method,
    /// An instance of a class: by its attributes.
    Instance,
    /// It leads nowhere.
    Leaf,
}

/// Finds descriptors among what variables lead to; keeps what it learned of types.
///
/// Where the C types have them, counted from the end of `PyObject` (16 bytes, 32 in free-threaded builds): `_socket.socket` and
/// `_io.FileIO` the number itself, the buffers of `_io` the raw file, `_io.TextIOWrapper` its buffer behind 16 bytes. Measured with `ctypes` on
/// 2.7, 3.6-3.15 and 3.13t; in source `Modules/socketmodule.h`, `Modules/_io/{fileio,bufferedio,textio}.c`, and for 2.7
/// `Modules/_multiprocessing/connection.h`.
pub struct DescriptorSearch<'a> {
    wanted: &'a [i32],
    /// By the type object's address. A type that is freed meanwhile, and another one at its address, would be taken for it: one search is for one
    /// snapshot.
    sorts: FxHashMap<Address, Sort>,
}

/// A search that reads.
struct Reading<'a, 'b> {
    reader: ObjectReader<'b>,
    wanted: &'a [i32],
    sorts: &'a mut FxHashMap<Address, Sort>,
}

impl<'a> DescriptorSearch<'a> {
    /// A search for these descriptors.
    pub fn new(wanted: &'a [i32]) -> Self {
        DescriptorSearch {
            wanted,
            sorts: FxHashMap::default(),
        }
    }

    /// Which of the wanted descriptors the values of variables lead to, each with the fewest steps.
    pub fn find(
        &mut self,
        reader: ObjectReader<'_>,
        variables: impl Iterator<Item = Address>,
    ) -> Vec<(i32, u8)> {
        let mut reading = Reading {
            reader,
            wanted: self.wanted,
            sorts: &mut self.sorts,
        };
        reading.find(variables)
    }
}

impl Reading<'_, '_> {
    fn find(&mut self, variables: impl Iterator<Item = Address>) -> Vec<(i32, u8)> {
        let mut found: Vec<(i32, u8)> = Vec::new();
        let mut seen = FxHashSet::default();
        let mut level: Vec<Address> = variables.collect();
        for steps in 1..=MAX_STEPS {
            let mut next = Vec::new();
            for object in level {
                if object.is_null() || !object.0.is_multiple_of(8) || !seen.insert(object) {
                    continue;
                }
                if seen.len() > MAX_OBJECTS {
                    return found;
                }
                // What can't be read leads nowhere.
                let Ok(numbers) = self.look_at(object, &mut next) else {
                    continue;
                };
                for number in numbers {
                    if !found.iter().any(|(known, _)| *known == number) {
                        found.push((number, steps));
                    }
                }
            }
            level = next;
        }
        found
    }

    /// The wanted descriptors that an object stands for; whatever else it leads to is added to `next`.
    fn look_at(
        &mut self,
        object: Address,
        next: &mut Vec<Address>,
    ) -> Result<Vec<i32>, ObjectError> {
        let reader = self.reader;
        let facts = reader.type_facts(object)?;
        let values = &reader.layout.values;
        let head = u64::from(reader.layout.object.size);
        match self.sort_of(facts)? {
            Sort::Leaf => {}
            Sort::Number => {
                let mut bytes = [0; 4];
                reader.memory.read(offset(object, head)?, &mut bytes)?;
                let number = i32::from_le_bytes(bytes);
                return Ok(self.wanted_of(number).into_iter().collect());
            }
            Sort::Wraps(behind) => {
                // A wrapper is as good as what it wraps: it costs no step.
                let inner = reader
                    .memory
                    .read_address(offset(object, head + behind)?)?
                    .untagged();
                return match inner.is_null() {
                    true => Ok(Vec::new()),
                    false => self.unwrap(inner, next),
                };
            }
            Sort::List => {
                let first = reader.pointer(object, values.list_items)?;
                self.add_items(object, first, next)?;
            }
            Sort::Tuple => {
                let first = offset(object, values.tuple_items.offset())?;
                self.add_items(object, first, next)?;
            }
            Sort::Dict => {
                let (entries, _) = reader.dict_part(object, MAX_ITEMS)?;
                next.extend(entries.iter().flat_map(|entry| [entry.key, entry.value]));
            }
            Sort::Cell => next.push(reader.pointer(object, values.cell)?),
            Sort::Method => next.extend(reader.bound_to(object)),
            Sort::Instance => return self.look_at_instance(object, facts, next),
        }
        Ok(Vec::new())
    }

    /// What is inside a wrapper: a raw file, or another wrapper.
    fn unwrap(&mut self, inner: Address, next: &mut Vec<Address>) -> Result<Vec<i32>, ObjectError> {
        let reader = self.reader;
        let mut at = inner;
        // Text, buffer, raw file.
        for _ in 0..3 {
            let facts = reader.type_facts(at)?;
            let head = u64::from(reader.layout.object.size);
            match self.sort_of(facts)? {
                Sort::Wraps(behind) => {
                    at = reader
                        .memory
                        .read_address(offset(at, head + behind)?)?
                        .untagged();
                }
                Sort::Number => return self.look_at(at, next),
                _ => break,
            }
        }
        // `socket.makefile` has an object of Python inside.
        next.push(at);
        Ok(Vec::new())
    }

    fn look_at_instance(
        &mut self,
        object: Address,
        facts: TypeFacts,
        next: &mut Vec<Address>,
    ) -> Result<Vec<i32>, ObjectError> {
        let reader = self.reader;
        let mut numbers = Vec::new();
        let (pairs, _) = reader.own_attributes(object, MAX_ITEMS)?;
        for (key, value) in pairs {
            if value.is_null() {
                continue;
            }
            if !self.is_int(value) {
                next.push(value);
                continue;
            }
            let number = reader.unsigned(value).ok();
            let number = number.and_then(|number| self.wanted_of(i32::try_from(number).ok()?));
            if let Some(number) = number
                && let Ok((name, _)) = reader.text_part(key, MAX_NAME)
                && NUMBERS.contains(&name.as_str())
            {
                numbers.push(number);
            }
        }
        for slot in reader.slots(facts.address)?.iter().take(MAX_ITEMS) {
            let at = object.checked_offset(slot.at);
            let value = at.and_then(|at| reader.memory.read_address(at).ok());
            next.extend(value.map(Address::untagged));
        }
        Ok(numbers)
    }

    /// Whether it is an int; 2.7 has two sorts.
    fn is_int(&self, object: Address) -> bool {
        let flags = match self.reader.layout.int.small {
            Some(_) => FLAG_LONG_SUBCLASS | FLAG_INT_SUBCLASS,
            None => FLAG_LONG_SUBCLASS,
        };
        let facts = self.reader.type_facts(object);
        facts.is_ok_and(|facts| facts.flags & flags != 0)
    }

    fn wanted_of(&self, number: i32) -> Option<i32> {
        self.wanted.contains(&number).then_some(number)
    }

    fn add_items(
        &self,
        object: Address,
        first: Address,
        next: &mut Vec<Address>,
    ) -> Result<(), ObjectError> {
        let count = self.reader.var_size(object)?.min(MAX_ITEMS as u64);
        for index in 0..count {
            let at = offset(first, 8 * index)?;
            next.push(self.reader.memory.read_address(at)?.untagged());
        }
        Ok(())
    }

    fn sort_of(&mut self, facts: TypeFacts) -> Result<Sort, ObjectError> {
        if let Some(sort) = self.sorts.get(&facts.address) {
            return Ok(*sort);
        }
        let sort = self.find_sort(facts)?;
        self.sorts.insert(facts.address, sort);
        Ok(sort)
    }

    fn find_sort(&self, facts: TypeFacts) -> Result<Sort, ObjectError> {
        let has = |flag| facts.flags & flag != 0;
        if has(FLAG_TYPE_SUBCLASS) || has(FLAG_LONG_SUBCLASS) {
            return Ok(Sort::Leaf);
        }
        if has(FLAG_LIST_SUBCLASS) {
            return Ok(Sort::List);
        }
        if has(FLAG_TUPLE_SUBCLASS) {
            return Ok(Sort::Tuple);
        }
        if has(FLAG_DICT_SUBCLASS) {
            return Ok(Sort::Dict);
        }
        let mut class = facts.address;
        for _ in 0..MAX_BASES {
            if class.is_null() {
                break;
            }
            let name = self.reader.type_name(class)?;
            match name.as_str() {
                "_socket.socket" | "_io.FileIO" | "_multiprocessing.Connection" => {
                    return Ok(Sort::Number);
                }
                "_io.BufferedReader" | "_io.BufferedWriter" | "_io.BufferedRandom"
                | "_io.BufferedRWPair" => return Ok(Sort::Wraps(0)),
                "_io.TextIOWrapper" => return Ok(Sort::Wraps(16)),
                "cell" => return Ok(Sort::Cell),
                "method" | "instancemethod" | "builtin_function_or_method" | "builtin_method" => {
                    return Ok(Sort::Method);
                }
                _ => {}
            }
            class = self
                .reader
                .pointer(class, self.reader.layout.values.type_base)?;
        }
        Ok(match has(FLAG_HEAPTYPE) {
            true => Sort::Instance,
            false => Sort::Leaf,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::python::testing::{Builder, all_layouts};

    /// The steps to descriptor 5 from these variables.
    fn steps(builder: &Builder, variables: &[Address]) -> Vec<(i32, u8)> {
        let reader = ObjectReader {
            memory: builder,
            layout: builder.layout,
        };
        DescriptorSearch::new(&[5]).find(reader, variables.iter().copied())
    }

    fn socket(builder: &mut Builder, number: i32) -> Address {
        let head = u64::from(builder.layout.object.size);
        let socket = builder.object("_socket.socket", head + 64);
        builder.overwrite(Address(socket.0 + head), &number.to_le_bytes());
        socket
    }

    #[test]
    fn a_socket_is_found_by_the_fewest_steps_and_not_too_far_away() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let number = builder.int(5);
            let (wanted, other) = (socket(&mut builder, 5), socket(&mut builder, 6));
            let near = builder.sequence("list", &[number, other, wanted]);
            let key = builder.text("one");
            let within = builder.dict(&[(key, near)]);
            let far = builder.sequence("tuple", &[within]);
            let too_far = builder.sequence("list", &[far]);
            let version = layout.version;
            assert_eq!(steps(&builder, &[wanted]), [(5, 1)], "{version:?}");
            assert_eq!(steps(&builder, &[near, wanted]), [(5, 1)], "{version:?}");
            assert_eq!(steps(&builder, &[near]), [(5, 2)], "{version:?}");
            assert_eq!(steps(&builder, &[within]), [(5, 3)], "{version:?}");
            assert_eq!(steps(&builder, &[far]), [(5, 4)], "{version:?}");
            assert_eq!(
                steps(&builder, &[too_far, number, other]),
                [],
                "{version:?}"
            );
        }
    }

    #[test]
    fn a_container_of_millions_costs_what_a_small_one_does() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let wanted = socket(&mut builder, 5);
            let list = builder.sequence("list", &vec![wanted; MAX_ITEMS]);
            builder.set(list, layout.object.ob_size, 10_000_000);
            assert_eq!(steps(&builder, &[list]), [(5, 2)]);
        }
    }

    proptest! {
        /// Whatever lies in memory, it ends, and finds nothing but what was asked for.
        #[test]
        fn garbage_leads_nowhere_or_to_what_was_asked_for(words in proptest::collection::vec(any::<u16>(), 64..512)) {
            for layout in all_layouts() {
                let mut builder = Builder::new(layout);
                let start = builder.put(&[]);
                // Words that point into the memory itself, so that there are cycles.
                let bytes: Vec<u8> = words.iter().flat_map(|word| {
                    let at = start.0 + u64::from(*word) % (8 * words.len() as u64);
                    (at & !7).to_le_bytes()
                }).collect();
                let at = builder.put(&bytes);
                let reader = ObjectReader { memory: &builder, layout };
                let mut search = DescriptorSearch::new(&[5]);
                let roots = (0..words.len() as u64).map(|index| Address(at.0 + 8 * index));
                let found = search.find(reader, roots);
                prop_assert!(found.iter().all(|(number, steps)| *number == 5 && (1..=MAX_STEPS).contains(steps)));
            }
        }
    }
}
