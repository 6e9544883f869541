//! Where CPython keeps what values and locals are read by, as data. No reading, no decoding.

use super::Field;
use crate::model::Address;

/// The objects beside texts, numbers and dicts, and how the attributes of instances are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueLayout {
    /// `PyListObject.ob_item`: pointer to the items; `ob_size` counts them.
    pub list_items: Field<Address>,
    /// `PyTupleObject.ob_item`: the first item, inside the object.
    pub tuple_items: Field<Address>,
    /// `PyFloatObject.ob_fval`: the bits of a double.
    pub float: Field<u64>,
    /// `PyCellObject.ob_ref`.
    pub cell: Field<Address>,
    /// `PySetObject`.
    pub set: SetLayout,
    /// `tp_itemsize`.
    pub type_itemsize: Field<i64>,
    /// `tp_base`.
    pub type_base: Field<Address>,
    /// `tp_dict`; null in builtin types from 3.12 on.
    pub type_dict: Field<Address>,
    /// `tp_members`: array of `PyMemberDef`, whose end is an entry without a name.
    pub type_members: Field<Address>,
    /// `ht_qualname` of a `PyHeapTypeObject` (3.3+).
    pub type_qualname: Option<Field<Address>>,
    /// `PyMemberDef`.
    pub member: MemberLayout,
    /// Instances of old-style classes (2.7).
    pub old_instance: Option<OldInstanceLayout>,
}

/// `PySetObject`, `Include/cpython/setobject.h` (`setobject.h` before 3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetLayout {
    /// `used`: how many items there are.
    pub used: Field<i64>,
    /// `mask`: slots minus one.
    pub mask: Field<i64>,
    /// `table`: array of `setentry`.
    pub table: Field<Address>,
    /// `sizeof(setentry)`.
    pub entry_size: u32,
    /// `setentry.key`; null in a slot that was never used.
    pub entry_key: Field<Address>,
    /// `setentry.hash`; -1 in a slot whose item was removed (3.x; 2.7 keeps the hash, and a key of its own).
    pub entry_hash: Field<i64>,
}

/// `PyMemberDef`, `Include/descrobject.h` (`structmember.h` before 3.12): one member of an instance, `__slots__` among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberLayout {
    /// `sizeof(PyMemberDef)`.
    pub size: u32,
    /// `name`: a C string; null ends the array.
    pub name: Field<Address>,
    /// `type`: `T_OBJECT` (6) and `T_OBJECT_EX` (16) are pointers to objects.
    pub kind: Field<i32>,
    /// `offset` in bytes from the start of the instance.
    pub at: Field<i64>,
}

/// `PyInstanceObject` and `PyClassObject`, `Include/classobject.h` (2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldInstanceLayout {
    /// `in_class`.
    pub class: Field<Address>,
    /// `in_dict`.
    pub dict: Field<Address>,
    /// `cl_name` of the class.
    pub class_name: Field<Address>,
    /// `cl_dict` of the class.
    pub class_dict: Field<Address>,
}

/// How the local variables of a frame are named and stored. They start behind the fixed part of the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalsLayout {
    /// `co_flags`: `CO_OPTIMIZED` (1) says that the frame itself holds the variables, `CO_VARARGS` (4) and
    /// `CO_VARKEYWORDS` (8) that there is an argument more each.
    pub flags: Field<i32>,
    /// `co_argcount`.
    pub argcount: Field<i32>,
    /// `co_kwonlyargcount` (3.x).
    pub kwonlyargcount: Option<Field<i32>>,
    /// The names.
    pub names: LocalNames,
    /// `f_locals`: the mapping of a class body; null or a cache in functions, the globals in modules.
    pub mapping: Field<Address>,
    /// `Py_INT_TAG` (3.14+, `Include/internal/pycore_stackref.h`): the lowest two bits of a variable that is no pointer
    /// but a number, which stands in the bits above them.
    pub int_tag: Option<u8>,
}

/// Where a code object keeps the names of local variables; each is a tuple of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalNames {
    /// Three kinds, one behind the other in the frame (<= 3.10).
    Split {
        /// `co_nlocals`.
        nlocals: Field<i32>,
        /// `co_varnames`: arguments first.
        varnames: Field<Address>,
        /// `co_cellvars`: variables that inner functions use too; one can be an argument as well.
        cellvars: Field<Address>,
        /// `co_freevars`: variables of the function around.
        freevars: Field<Address>,
    },
    /// One tuple, with a byte for each that says of what kind it is (3.11+).
    Joined {
        /// `co_nlocalsplus`.
        count: Field<i32>,
        /// `co_localsplusnames`.
        names: Field<Address>,
        /// `co_localspluskinds`: bytes of bits, `CO_FAST_LOCAL` (0x20), `CO_FAST_CELL` (0x40), `CO_FAST_FREE` (0x80).
        kinds: Field<Address>,
    },
}
