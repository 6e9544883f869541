//! Code objects: which function, file and line an instruction belongs to.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::layout::Field;
use super::linetable::find_line;
use super::object::{ObjectError, ObjectReader, copy_struct, member};
use crate::model::Address;
use crate::sys::memory::ReadError;

/// Most bytes of a line table: about a million lines in one function.
const MAX_LINE_TABLE: u64 = 4 << 20;
/// Most code objects that are kept before the cache starts anew.
const MAX_CACHED: usize = 65_536;
/// Most bytes of line tables and texts that are taken in for one snapshot. Frames keep their texts, so that to forget them
/// here would free nothing: what comes behind is not read.
const MAX_SNAPSHOT_BYTES: usize = 64 << 20;
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
    line_table: Arc<[u8]>,
    /// Address of the first code unit (3.11+).
    pub bytecode: Option<Address>,
    /// Index of the first code unit of the function's own body (3.11+).
    pub first_traceable: i32,
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

/// Code objects by address, each with its fingerprint; an entry whose fingerprint has changed is read anew.
///
/// Holds at most 65,536 and forgets all of them when that is reached.
#[derive(Debug, Default)]
pub struct CodeCache {
    known: FxHashMap<Address, (Fingerprint, Arc<CodeInfo>)>,
    texts: FxHashMap<Arc<str>, ()>,
    /// Taken in since the snapshot began.
    bytes: usize,
    /// `PyCode_Type`, once an object was seen to be of the type named "code".
    code_type: Option<Address>,
}

impl CodeCache {
    /// Starts to count anew what is taken in; a cache that has become large is emptied, since its stacks have gone.
    pub fn begin_snapshot(&mut self) {
        if self.is_full() {
            self.known.clear();
            self.texts.clear();
        }
        self.bytes = 0;
    }

    /// Counts bytes of a text or table that lives as long as the snapshot.
    pub fn take_in(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether as much was taken in for this snapshot as may be.
    pub fn is_full(&self) -> bool {
        self.bytes > MAX_SNAPSHOT_BYTES
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
        let info = Arc::new(CodeInfo {
            function: self.intern(reader.text(name)?),
            file: self.intern(reader.text(fingerprint.filename)?),
            first_line: fingerprint.first_line,
            line_table: reader.bytes(fingerprint.line_table, MAX_LINE_TABLE)?.into(),
            bytecode: layout
                .bytecode
                .and_then(|field| address.checked_add(field.offset())),
            first_traceable,
        });
        self.take_in(info.line_table.len() + info.function.len() + info.file.len());
        if self.known.len() >= MAX_CACHED {
            self.known.clear();
            self.texts.clear();
        }
        self.known.insert(address, (fingerprint, Arc::clone(&info)));
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

    fn intern(&mut self, text: String) -> Arc<str> {
        if let Some((known, ())) = self.texts.get_key_value(text.as_str()) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text), ());
        text
    }
}

impl CodeInfo {
    /// Bytes of its line table.
    pub fn table_size(&self) -> usize {
        self.line_table.len()
    }

    /// The line of the instruction at `lasti`, counted as the version counts it.
    pub fn line(&self, reader: ObjectReader<'_>, lasti: i32) -> Option<u32> {
        find_line(
            reader.layout.code.linetable_format,
            &self.line_table,
            self.first_line,
            lasti,
        )
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
