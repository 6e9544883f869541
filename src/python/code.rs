//! Code objects: which function, file and line an instruction belongs to.

use std::sync::Arc;

use super::byte_cache::ByteCache;
use super::layout::Field;
use super::linetable::find_line;
use super::object::{MAX_TEXT, ObjectError, ObjectReader, copy_struct, member};
use crate::model::Address;
use crate::sys::memory::ReadError;

/// Most bytes of a line table: about a million lines in one function.
const MAX_LINE_TABLE: u64 = 4 << 20;
/// Most bytes of a line table that is kept; a longer one is read again for each look-up.
const MAX_KEPT_TABLE: usize = 16 << 10;
/// Parts of a cache's limit that code objects with their tables, and texts, may have.
const CODE_PARTS: usize = 2;
const TEXT_PARTS: usize = 1;
const ALL_PARTS: usize = CODE_PARTS + TEXT_PARTS;
/// Most copies of the bytecode that a code object of a free-threaded build may have.
const MAX_BYTECODE_COPIES: u64 = 4096;

/// What a code object says, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeInfo {
    /// The qualified name where the version has it (3.11+), else the name.
    pub function: Arc<str>,
    /// `co_filename`.
    pub file: Arc<str>,
    /// `co_firstlineno`.
    pub first_line: i32,
    /// No other code object that was read has it.
    pub serial: u64,
    line_table: LineTable,
    /// Address of the first code unit (3.11+).
    pub bytecode: Option<Address>,
    /// Index of the first code unit of the function's own body (3.11+).
    pub first_traceable: i32,
}

/// A table of lines: itself, or where it is if it is long.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LineTable {
    Kept(Box<[u8]>),
    Elsewhere { object: Address, size: usize },
}

/// The members that tell whether a cached code object is still the same: another one can take its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    ob_type: Address,
    name: Address,
    filename: Address,
    line_table: Address,
    first_line: i32,
}

/// Code objects by address, each with its fingerprint; an entry whose fingerprint has changed is read anew. Bounded by bytes.
#[derive(Debug)]
pub struct CodeCache {
    known: ByteCache<Address, (Fingerprint, Arc<CodeInfo>)>,
    texts: ByteCache<Arc<str>, ()>,
    /// Most code points of a text.
    max_text: u64,
    /// Bytes that were read and are kept, since the cache was made.
    taken: usize,
    /// Code objects that were read.
    count: u64,
    /// `PyCode_Type`, once an object was seen to be of the type named "code".
    code_type: Option<Address>,
}

impl CodeCache {
    /// An empty cache that keeps about `limit` bytes.
    pub fn new(limit: usize) -> Self {
        CodeCache {
            max_text: MAX_TEXT,
            known: ByteCache::new(limit / ALL_PARTS * CODE_PARTS),
            texts: ByteCache::new(limit / ALL_PARTS * TEXT_PARTS),
            taken: 0,
            count: 0,
            code_type: None,
        }
    }

    /// Reads only so many code points of texts from now on.
    pub fn shorten_texts(&mut self, max_text: u64) {
        self.max_text = max_text.min(MAX_TEXT);
    }

    /// Sets another limit.
    pub fn set_limit(&mut self, limit: usize) {
        self.known.set_limit(limit / ALL_PARTS * CODE_PARTS);
        self.texts.set_limit(limit / ALL_PARTS * TEXT_PARTS);
    }

    /// Bytes that are in the cache.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.known.bytes() + self.texts.bytes()
    }

    /// Bytes of code objects and texts that were read since the cache was made, whether they are still in it or not. What was
    /// found in it is not counted again.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// The code object at `address`, from the cache if it is still the same.
    pub fn load(
        &mut self,
        reader: ObjectReader<'_>,
        address: Address,
    ) -> Result<Arc<CodeInfo>, ObjectError> {
        let layout = &reader.layout.code;
        let bytes = copy_struct(reader.memory, address, layout.size)?;
        let pointer = |field: Field<Address>| member(&bytes, field, address).map(Address::untagged);
        let fingerprint = Fingerprint {
            ob_type: member(&bytes, reader.layout.object.ob_type, address)?,
            name: pointer(layout.name)?,
            filename: pointer(layout.filename)?,
            line_table: pointer(layout.linetable)?,
            first_line: member(&bytes, layout.firstlineno, address)?,
        };
        if let Some((known, info)) = self.known.get(&address)
            && *known == fingerprint
        {
            return Ok(Arc::clone(info));
        }
        self.require_code_type(reader, address, fingerprint.ob_type)?;
        let name = match layout.qualname {
            Some(qualname) => pointer(qualname)?,
            None => fingerprint.name,
        };
        let first_traceable = match layout.first_traceable {
            Some(field) => member(&bytes, field, address)?,
            None => 0,
        };
        let table = reader.bytes(fingerprint.line_table, MAX_LINE_TABLE)?;
        let line_table = if table.len() <= MAX_KEPT_TABLE {
            LineTable::Kept(table.into())
        } else {
            LineTable::Elsewhere {
                object: fingerprint.line_table,
                size: table.len(),
            }
        };
        self.count += 1;
        let info = Arc::new(CodeInfo {
            function: self.intern(reader.text_up_to(name, self.max_text)?),
            file: self.intern(reader.text_up_to(fingerprint.filename, self.max_text)?),
            first_line: fingerprint.first_line,
            serial: self.count,
            line_table,
            bytecode: layout
                .bytecode
                .and_then(|field| address.checked_add(field.offset())),
            first_traceable,
        });
        // A text can be let go by the cache of texts sooner than by whoever uses it.
        let kept = info.kept_bytes();
        self.taken = self.taken.saturating_add(kept);
        let texts = info.function.len() + info.file.len();
        self.known
            .insert(address, (fingerprint, Arc::clone(&info)), kept + texts);
        Ok(info)
    }

    fn require_code_type(
        &mut self,
        reader: ObjectReader<'_>,
        address: Address,
        ob_type: Address,
    ) -> Result<(), ObjectError> {
        if self.code_type == Some(ob_type) {
            return Ok(());
        }
        if self.code_type.is_none() && reader.type_name(ob_type)? == "code" {
            self.code_type = Some(ob_type);
            return Ok(());
        }
        Err(ObjectError::WrongType {
            address,
            expected: "code",
        })
    }

    /// The same text as it was read before, if it still is there.
    pub fn intern(&mut self, text: String) -> Arc<str> {
        if let Some(known) = self.texts.get_key(text.as_str()) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.taken = self.taken.saturating_add(text.len());
        self.texts.insert(Arc::clone(&text), (), text.len());
        text
    }
}

impl CodeInfo {
    /// Bytes that are kept of it, but for its texts.
    fn kept_bytes(&self) -> usize {
        let table = match &self.line_table {
            LineTable::Kept(table) => table.len(),
            LineTable::Elsewhere { .. } => 0,
        };
        size_of::<Self>() + table
    }

    /// Bytes of its line table.
    pub fn table_size(&self) -> usize {
        match &self.line_table {
            LineTable::Kept(table) => table.len(),
            LineTable::Elsewhere { size, .. } => *size,
        }
    }

    /// The line of the instruction at `lasti`, counted as the version counts it.
    pub fn line(&self, reader: ObjectReader<'_>, lasti: i32) -> Option<u32> {
        let find = |table: &[u8]| {
            let format = reader.layout.code.linetable_format;
            find_line(format, table, self.first_line, lasti)
        };
        match &self.line_table {
            LineTable::Kept(table) => find(table),
            LineTable::Elsewhere { object, .. } => {
                find(&reader.bytes(*object, MAX_LINE_TABLE).ok()?)
            }
        }
    }

    /// Index of the code unit at `instruction`, which may be one before the first (3.11+).
    ///
    /// In free-threaded builds from 3.14 on a thread can run its own copy of the bytecode, number `copy`
    /// (`Include/cpython/code.h::_PyCodeArray`).
    pub fn unit_of(
        &self,
        reader: ObjectReader<'_>,
        code: Address,
        instruction: Address,
        copy: i32,
    ) -> Result<i32, ObjectError> {
        let garbage = |what| ObjectError::Garbage {
            address: code,
            what,
        };
        let start = match reader.layout.code.tlbc {
            Some(tlbc) if copy != 0 => {
                let array = reader
                    .memory
                    .read_address(code.checked_add(tlbc.offset()).ok_or(garbage("address"))?)?;
                let size = reader.memory.read_u64(array)?;
                let index = u64::try_from(copy)
                    .ok()
                    .filter(|index| *index < size && *index < MAX_BYTECODE_COPIES);
                let index = index.ok_or(garbage("number of a copy of the bytecode"))?;
                let entry = array
                    .checked_add(8 + 8 * index)
                    .ok_or(ReadError::Unmapped(array))?;
                reader.memory.read_address(entry)?
            }
            _ => self.bytecode.ok_or(garbage("no bytecode"))?,
        };
        let bytes = instruction.0.wrapping_sub(start.0).cast_signed();
        // A function's bytecode is far below 2 GiB; -1 is an instruction that has not started yet.
        i32::try_from(bytes / 2)
            .ok()
            .filter(|unit| *unit >= -1 && bytes % 2 == 0)
            .ok_or(garbage("instruction outside its code"))
    }
}
