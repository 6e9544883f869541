//! Builds objects, frames and runtimes in made-up memory by any layout, so that the decoders can be tested on all of them.

use crate::model::Address;
use crate::python::layout::{
    DictKeysLayout, DictLayout, Field, FrameLayout, Layout, LineTableFormat, LocalNames, TopFrame,
    UnicodeLayout, find_table, known_versions,
};
use crate::python::object::FLAG_HEAPTYPE;
use crate::sys::memory::{ReadError, RemoteMemory};

/// Where made-up memory starts.
const START: u64 = 0x10_0000;
/// `Py_TPFLAGS_*` of the built types.
const TYPES: [(&str, u64); 29] = [
    ("code", 0),
    ("frame", 0),
    ("str", 1 << 28),
    ("bytes", 1 << 27),
    ("int", 1 << 24),
    ("dict", 1 << 29),
    ("module", 0),
    ("list", 1 << 25),
    ("tuple", 1 << 26),
    ("set", 0),
    ("frozenset", 0),
    ("float", 0),
    ("bool", 1 << 24),
    ("NoneType", 0),
    ("cell", 0),
    ("Slotted", FLAG_HEAPTYPE),
    ("builtin_function_or_method", 0),
    ("coroutine", 0),
    ("weakref", 0),
    ("Hub", 0),
    ("greenlet.greenlet", 0),
    ("_RunningLoopHolder", 0),
    ("BaseEventLoop", 0),
    ("_asyncio.Task", 0),
    ("_asyncio.Future", 0),
    ("OSError", 1 << 30),
    ("traceback", 0),
    ("collections.deque", 0),
    ("_socket.socket", 0),
];

/// Every layout that there is, also those of free-threaded builds.
pub fn all_layouts() -> Vec<&'static Layout> {
    let versions: Vec<_> = known_versions().collect();
    let tables = versions
        .into_iter()
        .flat_map(|version| [find_table(version, false), find_table(version, true)]);
    tables.flatten().collect()
}

/// Memory in which objects are laid out one behind the other.
pub struct Builder {
    pub layout: &'static Layout,
    bytes: Vec<u8>,
    types: Vec<(&'static str, Address)>,
}

impl RemoteMemory for Builder {
    fn read(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        let start = address
            .0
            .checked_sub(START)
            .ok_or(ReadError::Unmapped(address))? as usize;
        let piece = start
            .checked_add(buffer.len())
            .and_then(|end| self.bytes.get(start..end));
        buffer.copy_from_slice(piece.ok_or(ReadError::Unmapped(address))?);
        Ok(())
    }
}

impl Builder {
    pub fn new(layout: &'static Layout) -> Self {
        let mut builder = Builder {
            layout,
            bytes: Vec::new(),
            types: Vec::new(),
        };
        for (name, flags) in TYPES {
            let mut text = name.as_bytes().to_vec();
            text.resize(32, 0);
            let name_at = builder.put(&text);
            let at = builder.put(&[0; 1200]);
            builder.set(at, layout.type_object.name, name_at.0);
            builder.set(at, layout.type_object.flags, flags);
            let dictoffset = if name == "module" {
                u64::from(layout.object.size)
            } else {
                0
            };
            builder.set(at, layout.type_object.dictoffset, dictoffset);
            builder.types.push((name, at));
        }
        builder
    }

    /// Makes all types that there are objects of the type `type`, as they are in a process.
    pub fn with_types_of_types(mut self) -> Self {
        let at = self.put(&[0; 1200]);
        let name = self.put(b"type\0");
        self.set(at, self.layout.type_object.name, name.0);
        self.set(at, self.layout.type_object.flags, 1 << 31);
        let types: Vec<Address> = self.types.iter().map(|(_, at)| *at).collect();
        for one in types.into_iter().chain([at]) {
            self.set(one, self.layout.object.ob_type, at.0);
        }
        self
    }

    /// Adds bytes at the next address that 16 divides.
    pub fn put(&mut self, bytes: &[u8]) -> Address {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let at = Address(START + self.bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
        at
    }

    /// Overwrites bytes that were added before.
    pub fn overwrite(&mut self, at: Address, bytes: &[u8]) {
        let start = (at.0 - START) as usize;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Sets a member, as wide as its type is.
    pub fn set<T>(&mut self, at: Address, field: Field<T>, value: u64) {
        self.overwrite(
            Address(at.0 + field.offset()),
            &value.to_le_bytes()[..size_of::<T>()],
        );
    }

    pub fn object(&mut self, type_name: &str, size: u64) -> Address {
        let known = self
            .types
            .iter()
            .find(|(name, _)| *name == type_name)
            .unwrap();
        let ob_type = known.1;
        let at = self.put(&vec![0; size as usize]);
        self.set(at, self.layout.object.ob_type, ob_type.0);
        at
    }

    pub fn bytes(&mut self, content: &[u8]) -> Address {
        let data = self.layout.bytes.data.offset();
        let at = self.object("bytes", data + content.len() as u64 + 1);
        self.set(at, self.layout.object.ob_size, content.len() as u64);
        self.overwrite(Address(at.0 + data), content);
        at
    }

    /// A text: `str` in 3.x; in 2.7 bytes for ASCII, `unicode` for the rest.
    pub fn text(&mut self, text: &str) -> Address {
        match self.layout.unicode {
            UnicodeLayout::Flexible {
                length,
                state,
                kind_shift,
                compact_shift,
                ascii_shift,
                ascii_size,
                compact_size,
                ..
            } => {
                let widest = text.chars().map(u32::from).max().unwrap_or(0);
                let unit = match widest {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    _ => 4,
                };
                let data: Vec<u8> = text
                    .chars()
                    .flat_map(|letter| u32::from(letter).to_le_bytes()[..unit].to_vec())
                    .collect();
                let head = if text.is_ascii() {
                    ascii_size
                } else {
                    compact_size
                };
                let at = self.object("str", u64::from(head) + data.len() as u64 + 4);
                let ascii = u64::from(text.is_ascii()) << ascii_shift;
                self.set(at, length, text.chars().count() as u64);
                self.set(
                    at,
                    state,
                    (unit as u64) << kind_shift | 1 << compact_shift | ascii,
                );
                self.overwrite(Address(at.0 + u64::from(head)), &data);
                at
            }
            UnicodeLayout::Legacy { .. } if text.is_ascii() => self.bytes(text.as_bytes()),
            UnicodeLayout::Legacy { length, data, unit } => {
                let units: Vec<u8> = match unit {
                    2 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                    _ => text
                        .chars()
                        .flat_map(|letter| u32::from(letter).to_le_bytes())
                        .collect(),
                };
                let content = self.put(&units);
                let at = self.object("str", 64);
                self.set(at, length, (units.len() / usize::from(unit)) as u64);
                self.set(at, data, content.0);
                at
            }
        }
    }

    pub fn int(&mut self, value: u64) -> Address {
        let layout = self.layout.int;
        let mut digits = Vec::new();
        let mut rest = value;
        while rest > 0 {
            digits.push(rest & ((1 << layout.digit_bits) - 1));
            rest >>= layout.digit_bits;
        }
        let width = if layout.digit_bits > 16 { 4 } else { 2 };
        let content: Vec<u8> = digits
            .iter()
            .flat_map(|digit| digit.to_le_bytes()[..width].to_vec())
            .collect();
        let at = self.object("int", layout.digits.offset() + content.len() as u64 + 8);
        self.overwrite(Address(at.0 + layout.digits.offset()), &content);
        match layout.tag {
            Some(tag) => self.set(at, tag, (digits.len() as u64) << 3 | u64::from(value == 0)),
            None => self.set(at, self.layout.object.ob_size, digits.len() as u64),
        }
        at
    }

    /// A dict with one table for keys and values.
    pub fn dict(&mut self, entries: &[(Address, Address)]) -> Address {
        let dict = self.object("dict", 128);
        match self.layout.dict {
            DictLayout::Table { used, mask, table } => {
                let slots = (entries.len() + 1).next_power_of_two();
                let mut content: Vec<u8> = entries
                    .iter()
                    .flat_map(|(key, value)| {
                        [[0; 8], key.0.to_le_bytes(), value.0.to_le_bytes()].concat()
                    })
                    .collect();
                content.resize(slots * 24, 0);
                let at = self.put(&content);
                self.set(dict, used, entries.len() as u64);
                self.set(dict, mask, slots as u64 - 1);
                self.set(dict, table, at.0);
            }
            DictLayout::Keys {
                used,
                keys,
                keys_layout,
                ..
            } => {
                let at = self.keys(keys_layout, entries);
                self.set(dict, used, entries.len() as u64);
                self.set(dict, keys, at.0);
            }
        }
        dict
    }

    fn keys(&mut self, layout: DictKeysLayout, entries: &[(Address, Address)]) -> Address {
        let content: Vec<u8> = entries
            .iter()
            .flat_map(|(key, value)| [[0; 8], key.0.to_le_bytes(), value.0.to_le_bytes()].concat())
            .collect();
        let (indices, slots) = match layout {
            DictKeysLayout::Size { indices, .. } | DictKeysLayout::Log2 { indices, .. } => {
                (indices.offset(), 256_u64)
            }
        };
        // 256 slots take indices of two bytes in the old form; the new one states the bytes of its table.
        let at = self.put(&vec![0; (indices + 2 * slots) as usize]);
        self.bytes.extend_from_slice(&content);
        match layout {
            DictKeysLayout::Size { size, nentries, .. } => {
                self.set(at, size, slots);
                self.set(at, nentries, entries.len() as u64);
            }
            DictKeysLayout::Log2 {
                log2_size,
                log2_index_bytes,
                kind,
                nentries,
                ..
            } => {
                self.set(at, log2_size, 8);
                self.set(at, log2_index_bytes, 9);
                self.set(at, kind, 0);
                self.set(at, nentries, entries.len() as u64);
            }
        }
        at
    }

    /// A list or a tuple.
    pub fn sequence(&mut self, type_name: &str, items: &[Address]) -> Address {
        let content: Vec<u8> = items.iter().flat_map(|item| item.0.to_le_bytes()).collect();
        let values = self.layout.values.clone();
        let at = match type_name {
            "list" => {
                let table = self.put(&content);
                let at = self.object("list", 64);
                self.set(at, values.list_items, table.0);
                at
            }
            _ => {
                let first = values.tuple_items.offset();
                let at = self.object("tuple", first + content.len() as u64 + 8);
                self.overwrite(Address(at.0 + first), &content);
                at
            }
        };
        self.set(at, self.layout.object.ob_size, items.len() as u64);
        at
    }

    /// A set or frozenset, with a slot that was never used and one that was emptied before each item.
    pub fn set_of(&mut self, type_name: &str, items: &[Address]) -> Address {
        let layout = self.layout.values.set;
        let emptied = self.text("<dummy key>");
        let size = u64::from(layout.entry_size);
        let slots = (items.len() as u64 * 3).next_power_of_two();
        let table = self.put(&vec![0; (slots * size) as usize]);
        for (index, item) in items.iter().enumerate() {
            let slot = |number: u64| Address(table.0 + (index as u64 * 3 + number) * size);
            self.set(slot(1), layout.entry_key, emptied.0);
            self.set(slot(1), layout.entry_hash, u64::MAX);
            self.set(slot(2), layout.entry_key, item.0);
        }
        let at = self.object(type_name, 256);
        self.set(at, layout.used, items.len() as u64);
        self.set(at, layout.mask, slots - 1);
        self.set(at, layout.table, table.0);
        at
    }

    pub fn float(&mut self, value: f64) -> Address {
        let at = self.object("float", 64);
        self.set(at, self.layout.values.float, value.to_bits());
        at
    }

    /// `None`, or the only object of another type without content.
    pub fn none(&mut self) -> Address {
        self.object("NoneType", 64)
    }

    pub fn cell(&mut self, content: Address) -> Address {
        let at = self.object("cell", 64);
        self.set(at, self.layout.values.cell, content.0);
        at
    }

    /// An instance of a class with slots of these names; one that is null was never set.
    pub fn slotted(&mut self, slots: &[(&str, Address)]) -> Address {
        let values = self.layout.values.clone();
        let member = values.member;
        let members = self.put(&vec![0; (slots.len() + 1) * member.size as usize]);
        let first = 64;
        for (index, (name, _)) in slots.iter().enumerate() {
            let name = self.put(format!("{name}\0               ").as_bytes());
            let at = Address(members.0 + index as u64 * u64::from(member.size));
            self.set(at, member.name, name.0);
            self.set(at, member.kind, 16);
            self.set(at, member.at, first + index as u64 * 8);
        }
        let at = self.object("Slotted", first + slots.len() as u64 * 8);
        for (index, (_, value)) in slots.iter().enumerate() {
            let slot = Address(at.0 + first + index as u64 * 8);
            self.overwrite(slot, &value.0.to_le_bytes());
        }
        let mut ob_type = [0; 8];
        let place = Address(at.0 + self.layout.object.ob_type.offset());
        self.read(place, &mut ob_type).unwrap();
        let ob_type = Address(u64::from_le_bytes(ob_type));
        self.set(ob_type, values.type_members, members.0);
        at
    }

    /// A frame of a function with an argument, a local and a variable shared with an inner function.
    pub fn frame_with_locals(
        &mut self,
        argument: u64,
        local: u64,
        shared: Address,
    ) -> (Address, Address) {
        let code = self.code("f", "/f.py", 1);
        let names = ["argument", "local", "shared"].map(|name| self.text(name));
        let locals = self.layout.locals.clone();
        self.set(code, locals.flags, 1);
        self.set(code, locals.argcount, 1);
        match locals.names {
            LocalNames::Split {
                nlocals,
                varnames,
                cellvars,
                freevars,
            } => {
                let plain = self.sequence("tuple", &names[..2]);
                let cells = self.sequence("tuple", &names[2..]);
                let none = self.sequence("tuple", &[]);
                self.set(code, nlocals, 2);
                self.set(code, varnames, plain.0);
                self.set(code, cellvars, cells.0);
                self.set(code, freevars, none.0);
            }
            LocalNames::Joined {
                count,
                names: all,
                kinds,
            } => {
                let tuple = self.sequence("tuple", &names);
                let bytes = self.bytes(&[0x20, 0x20, 0x40]);
                self.set(code, count, 3);
                self.set(code, all, tuple.0);
                self.set(code, kinds, bytes.0);
            }
        }
        let frame = self.frame(code, Address::NULL, Address::NULL);
        let cell = self.cell(shared);
        // The variables stand right behind the frame.
        let size = match &self.layout.frame {
            FrameLayout::Object(layout) => layout.size,
            FrameLayout::Interpreter(layout) => layout.size,
        };
        let mut whole = vec![0; size as usize];
        self.read(frame, &mut whole).unwrap();
        for slot in [argument, local, cell.0] {
            whole.extend_from_slice(&slot.to_le_bytes());
        }
        (self.put(&whole), code)
    }

    /// A method in C of an object.
    pub fn bound_method(&mut self, object: Address) -> Address {
        let at = self.object("builtin_function_or_method", 64);
        self.set(at, self.layout.locks.function_self, object.0);
        at
    }

    /// A module with these attributes.
    pub fn module(&mut self, attributes: &[(&str, Address)]) -> Address {
        let entries: Vec<_> = attributes
            .iter()
            .map(|(name, value)| (self.text(name), *value))
            .collect();
        let dict = self.dict(&entries);
        let at = self.object("module", u64::from(self.layout.object.size) + 8);
        self.overwrite(
            Address(at.0 + u64::from(self.layout.object.size)),
            &dict.0.to_le_bytes(),
        );
        at
    }

    /// A code object whose one line is `line`, with 16 code units.
    pub fn code(&mut self, function: &str, file: &str, line: u32) -> Address {
        let layout = &self.layout.code;
        let table: &[u8] = match layout.linetable_format {
            LineTableFormat::LnotabUnsigned | LineTableFormat::Lnotab => &[],
            LineTableFormat::LineTable => &[32, 0],
            LineTableFormat::Locations => &[0x80 | 7, 0, 0x80 | 7, 0],
        };
        let (name, filename, table) = (self.text(function), self.text(file), self.bytes(table));
        let at = self.object("code", u64::from(layout.size) + 64);
        self.set(at, layout.name, name.0);
        if let Some(qualname) = layout.qualname {
            self.set(at, qualname, name.0);
        }
        self.set(at, layout.filename, filename.0);
        self.set(at, layout.linetable, table.0);
        self.set(at, layout.firstlineno, u64::from(line));
        at
    }

    /// A frame that executes code unit 4 of `code`, called from `previous`.
    pub fn frame(&mut self, code: Address, globals: Address, previous: Address) -> Address {
        match &self.layout.frame {
            FrameLayout::Object(layout) => {
                let at = self.object("frame", u64::from(layout.size));
                self.set(at, layout.code, code.0);
                self.set(at, layout.globals, globals.0);
                self.set(at, layout.back, previous.0);
                self.set(at, layout.lasti, 4);
                at
            }
            FrameLayout::Interpreter(layout) => {
                let at = self.put(&vec![0; layout.size as usize]);
                let bytecode = self.layout.code.bytecode.unwrap().offset();
                self.set(at, layout.code, code.0);
                self.set(at, layout.globals, globals.0);
                self.set(at, layout.previous, previous.0);
                self.set(at, layout.instruction, code.0 + bytecode + 8);
                at
            }
        }
    }

    /// A thread state of `interpreter` whose innermost frame is `top`.
    pub fn thread(
        &mut self,
        interpreter: Address,
        top: Address,
        thread_id: u64,
        next: Address,
    ) -> Address {
        let layout = &self.layout.thread;
        let at = self.put(&vec![0; layout.size as usize]);
        self.set(at, layout.interp, interpreter.0);
        self.set(at, layout.next, next.0);
        self.set(at, layout.thread_id, thread_id);
        match layout.top {
            TopFrame::Direct(field) => self.set(at, field, top.0),
            TopFrame::CFrame {
                cframe,
                current_frame,
            } => {
                let c_frame = self.put(&[0; 64]);
                self.set(c_frame, current_frame, top.0);
                self.set(at, cframe, c_frame.0);
            }
        }
        at
    }

    /// An interpreter without threads; returns it and the variable that points to it.
    pub fn interpreter(&mut self, modules: Address) -> (Address, Address) {
        let layout = &self.layout.interpreter;
        let at = self.put(&vec![0; layout.size as usize]);
        self.set(at, layout.modules, modules.0);
        let head = self.put(&at.0.to_le_bytes());
        (at, head)
    }
}
