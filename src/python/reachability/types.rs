//! What is known of the type of an object, so that it is known where its references stand; read once for each type.

use crate::model::Address;
use crate::python::object::{
    FLAG_BYTES_SUBCLASS, FLAG_DICT_SUBCLASS, FLAG_HEAPTYPE, FLAG_INT_SUBCLASS, FLAG_LIST_SUBCLASS,
    FLAG_LONG_SUBCLASS, FLAG_TUPLE_SUBCLASS, FLAG_TYPE_SUBCLASS, FLAG_UNICODE_SUBCLASS,
    ObjectError, ObjectReader, TypeFacts,
};

/// Most classes that one inherits from, one behind the other.
const MAX_BASES: usize = 64;

/// Where the references of an object stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has none that lead on.
    Leaf,
    /// A type or a module: whatever it leads to, everybody can reach.
    Shared,
    List,
    Tuple,
    Dict,
    Set,
    Deque,
    Cell,
    Method,
    BoundBuiltin,
    Function,
    Partial,
    /// A generator, coroutine or frame, which has a frame inside.
    Frame,
    /// An instance of a class in Python that has nothing but attributes and slots.
    Instance,
    /// Something in C of which only the size is known.
    Other,
}

/// What is known of a type.
#[derive(Clone, Debug)]
pub(super) struct TypeInfo {
    pub(super) kind: Kind,
    pub(super) facts: TypeFacts,
    /// Whether instances have attributes beside their content.
    pub(super) has_attributes: bool,
    /// Offsets of the slots of instances.
    pub(super) slots: Vec<i64>,
    pub(super) basicsize: i64,
    pub(super) itemsize: i64,
    /// Where the head of the list of weak references is; 0 for none.
    pub(super) weak_list: i64,
    /// Whether it is `threading.Thread`, or derived from it.
    pub(super) is_thread: bool,
}

impl TypeInfo {
    /// Reads what there is to know of the type at `address`, if that is one.
    pub(super) fn read(reader: ObjectReader<'_>, address: Address) -> Result<Self, ObjectError> {
        let wrong = ObjectError::WrongType {
            address,
            expected: "type",
        };
        let of_type = reader.type_facts(address)?;
        if of_type.flags & FLAG_TYPE_SUBCLASS == 0 {
            return Err(wrong);
        }
        let layout = &reader.layout.type_object;
        let flags = reader.field(address, layout.flags)?;
        let facts = TypeFacts { address, flags };
        let name = reader.type_name(address)?;
        let lineage = Lineage::read(reader, address)?;
        let kind = kind_of(flags, &name, &lineage);
        let is_heap = flags & FLAG_HEAPTYPE != 0;
        let slots = match kind {
            Kind::Instance => reader.slots(address)?.iter().map(|slot| slot.at).collect(),
            _ => Vec::new(),
        };
        Ok(TypeInfo {
            kind,
            facts,
            has_attributes: is_heap && kind != Kind::Shared,
            slots,
            basicsize: reader.field(address, layout.basicsize)?,
            itemsize: reader.field(address, reader.layout.values.type_itemsize)?,
            weak_list: reader.field(address, reader.layout.references.weak_list)?,
            is_thread: lineage.is_thread,
        })
    }
}

/// What a type is derived from.
struct Lineage {
    /// Whether that is nothing but classes in Python and `object`.
    is_plain: bool,
    is_thread: bool,
}

impl Lineage {
    fn read(reader: ObjectReader<'_>, address: Address) -> Result<Lineage, ObjectError> {
        let mut lineage = Lineage {
            is_plain: false,
            is_thread: false,
        };
        let mut at = address;
        for _ in 0..MAX_BASES {
            let name = reader.type_name(at)?;
            let flags = reader.field(at, reader.layout.type_object.flags)?;
            lineage.is_thread |= name == "Thread" || name == "threading.Thread";
            if flags & FLAG_HEAPTYPE == 0 {
                lineage.is_plain = name == "object";
                break;
            }
            // Types that C code makes on the heap have their module's name before their own, and members of their own.
            if name.contains('.') {
                break;
            }
            at = reader.pointer(at, reader.layout.values.type_base)?;
            if at.is_null() {
                break;
            }
        }
        Ok(lineage)
    }
}

fn kind_of(flags: u64, name: &str, lineage: &Lineage) -> Kind {
    const LEAVES: u64 =
        FLAG_INT_SUBCLASS | FLAG_LONG_SUBCLASS | FLAG_UNICODE_SUBCLASS | FLAG_BYTES_SUBCLASS;
    let is = |flag: u64| flags & flag != 0;
    if is(FLAG_TYPE_SUBCLASS) {
        return Kind::Shared;
    }
    if is(LEAVES) {
        return Kind::Leaf;
    }
    if is(FLAG_LIST_SUBCLASS) {
        return Kind::List;
    }
    if is(FLAG_TUPLE_SUBCLASS) {
        return Kind::Tuple;
    }
    if is(FLAG_DICT_SUBCLASS) {
        return Kind::Dict;
    }
    if lineage.is_plain && is(FLAG_HEAPTYPE) {
        return Kind::Instance;
    }
    match name {
        "module" => Kind::Shared,
        "code" | "float" | "complex" | "NoneType" | "ellipsis" | "NotImplementedType"
        | "wrapper_descriptor" | "method_descriptor" | "getset_descriptor"
        | "member_descriptor" => Kind::Leaf,
        "set" | "frozenset" => Kind::Set,
        "collections.deque" => Kind::Deque,
        "cell" => Kind::Cell,
        "method" => Kind::Method,
        "builtin_function_or_method" | "builtin_method" => Kind::BoundBuiltin,
        "function" => Kind::Function,
        "functools.partial" => Kind::Partial,
        "generator" | "coroutine" | "async_generator" | "frame" => Kind::Frame,
        _ => Kind::Other,
    }
}
