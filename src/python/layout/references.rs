//! Where CPython keeps what references are counted by, and what functions refer to, as data. No reading, no decoding.

use super::Field;
use crate::model::Address;

/// What references to an object are counted by, and who holds them beside containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferenceLayout {
    /// `PyObject.ob_refcnt`, of which 32 bits count from 3.12 on; builds without the GIL have several counts, which do not add up
    /// while a thread runs.
    pub count: Option<Field<u64>>,
    /// `tp_weaklistoffset`: where an object has the head of the list of its weak references; 0 where it can have none.
    pub weak_list: Field<i64>,
    /// `f_func` (3.11), `f_funcobj` (3.12+): the function that a frame runs.
    pub frame_function: Option<Field<Address>>,
    /// `PyFunctionObject`.
    pub function: FunctionLayout,
}

/// `PyFunctionObject`, `Include/cpython/funcobject.h` (`funcobject.h` before 3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionLayout {
    /// `func_code`.
    pub code: Field<Address>,
    /// `func_globals`.
    pub globals: Field<Address>,
    /// `func_defaults`: null, or a tuple.
    pub defaults: Field<Address>,
    /// `func_kwdefaults` (3.x): null, or a dict.
    pub keyword_defaults: Option<Field<Address>>,
    /// `func_closure`: null, or a tuple of cells.
    pub closure: Field<Address>,
    /// `func_dict`: null, or a dict.
    pub attributes: Field<Address>,
}
