/* Prints where one CPython build keeps its members, as `key value` lines, for scripts/gen-layouts.
 *
 * Compiled against that version's own headers, so every number is the compiler's. The keys are the paths of the Rust
 * fields in src/python/layout/mod.rs; a key that a version lacks is not printed and becomes `None` there.
 */

#define NDEBUG 1 /* the accessors of pycore_object.h are called without an object behind them */
#define Py_BUILD_CORE 1

#include <Python.h>
#include <frameobject.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <structmember.h>

#define AT_LEAST(minor) (PY_VERSION_HEX >= (0x03000000 | (minor) << 16))

/* Which headers hold the internal structs: none are installed before 3.7; 3.7's have no `pycore_` in their names. */
#if AT_LEAST(9)
#include "internal/pycore_interp.h"
#include "internal/pycore_runtime.h"
#include "internal/pycore_gil.h"
#elif AT_LEAST(8)
#include "internal/pycore_pystate.h"
#elif AT_LEAST(7)
#include "internal/pystate.h"
#endif
#if AT_LEAST(11)
#include "internal/pycore_code.h"
#include "internal/pycore_dict.h"
#include "internal/pycore_frame.h"
#include "internal/pycore_object.h"
#endif
/* Include/internal/pycore_interpframe_structs.h (3.14): the frame struct left pycore_frame.h. */
#if AT_LEAST(14)
#include "internal/pycore_interpframe_structs.h"
#include "internal/pycore_stackref.h"
#include "internal/pycore_lock.h"
#endif
#if AT_LEAST(13)
#include "internal/pycore_tstate.h"
#elif AT_LEAST(8) && !AT_LEAST(11)
#include <opcode.h>
#endif
#if AT_LEAST(12)
#include "internal/pycore_long.h"
#elif !AT_LEAST(11)
#include "longintrepr.h"
#endif

#define SAY(key, value) printf("%s %lld\n", key, (long long)(value))
#define AT(key, type, member) SAY(key, offsetof(type, member))
#define SIZE(key, type) SAY(key, sizeof(type))

/* The lowest bit that differs from zero in the first `width` bytes at `word`. */
static int lowest_bit(const void *word, size_t width)
{
    unsigned long long bits = 0;
    memcpy(&bits, word, width);
    return __builtin_ctzll(bits);
}

static void objects(void)
{
    SIZE("object.size", PyObject);
    AT("object.ob_type", PyObject, ob_type);
    AT("object.ob_size", PyVarObject, ob_size);
    AT("type_object.name", PyTypeObject, tp_name);
    AT("type_object.basicsize", PyTypeObject, tp_basicsize);
    AT("type_object.flags", PyTypeObject, tp_flags);
    AT("type_object.dictoffset", PyTypeObject, tp_dictoffset);
#if AT_LEAST(3)
    AT("type_object.cached_keys", PyHeapTypeObject, ht_cached_keys);
    AT("bytes.data", PyBytesObject, ob_sval);
#else
    AT("bytes.data", PyStringObject, ob_sval);
#endif

    SAY("int.digit_bits", PyLong_SHIFT);
#if AT_LEAST(12)
    AT("int.digits", PyLongObject, long_value.ob_digit);
    AT("int.tag", PyLongObject, long_value.lv_tag);
    /* Include/internal/pycore_long.h: IntLayout's doc states the shift and the mask; a change must not pass unseen. */
    SAY("assert.long_non_size_bits", NON_SIZE_BITS);
    SAY("assert.long_sign_mask", SIGN_MASK);
#else
    AT("int.digits", PyLongObject, ob_digit);
#endif
#if !AT_LEAST(0)
    AT("int.small", PyIntObject, ob_ival);
#endif
}

static void text(void)
{
#if AT_LEAST(3)
    /* The word as StructView reads it: 4 bytes from the start of `state`, however the bit fields divide them. */
#define BIT(key, field)                                                                     \
    do {                                                                                    \
        PyASCIIObject zeroed;                                                               \
        memset(&zeroed, 0, sizeof zeroed);                                                  \
        zeroed.state.field = 1;                                                             \
        SAY(key, lowest_bit((const char *)&zeroed + offsetof(PyASCIIObject, state), 4));    \
    } while (0)
    AT("unicode.length", PyASCIIObject, length);
    AT("unicode.state", PyASCIIObject, state);
    BIT("unicode.kind_shift", kind);
    BIT("unicode.compact_shift", compact);
    BIT("unicode.ascii_shift", ascii);
    SIZE("unicode.ascii_size", PyASCIIObject);
    SIZE("unicode.compact_size", PyCompactUnicodeObject);
    AT("unicode.data", PyUnicodeObject, data);
#undef BIT
#else
    AT("unicode.length", PyUnicodeObject, length);
    AT("unicode.data", PyUnicodeObject, str);
    SAY("unicode.unit", Py_UNICODE_SIZE);
#endif
}

static void code(void)
{
    AT("code.name", PyCodeObject, co_name);
    AT("code.filename", PyCodeObject, co_filename);
    AT("code.firstlineno", PyCodeObject, co_firstlineno);
#if AT_LEAST(10)
    AT("code.linetable", PyCodeObject, co_linetable);
#else
    AT("code.linetable", PyCodeObject, co_lnotab);
#endif
#if AT_LEAST(11)
    AT("code.size", PyCodeObject, co_code_adaptive);
    AT("code.qualname", PyCodeObject, co_qualname);
    AT("code.first_traceable", PyCodeObject, _co_firsttraceable);
    AT("code.bytecode", PyCodeObject, co_code_adaptive);
#else
    SIZE("code.size", PyCodeObject);
#endif
#if AT_LEAST(14) && defined(Py_GIL_DISABLED)
    AT("code.tlbc", PyCodeObject, co_tlbc);
    /* Include/cpython/code.h: what CodeLayout's doc says of `_PyCodeArray`. */
    SAY("assert.code_array_entries", offsetof(_PyCodeArray, entries));
#endif
}

static void frame(void)
{
#if AT_LEAST(11)
    AT("frame.size", _PyInterpreterFrame, localsplus);
#if AT_LEAST(13)
    AT("frame.code", _PyInterpreterFrame, f_executable);
    AT("frame.instruction", _PyInterpreterFrame, instr_ptr);
#else
    AT("frame.code", _PyInterpreterFrame, f_code);
    AT("frame.instruction", _PyInterpreterFrame, prev_instr);
#endif
    AT("frame.previous", _PyInterpreterFrame, previous);
    AT("frame.globals", _PyInterpreterFrame, f_globals);
    AT("frame.owner", _PyInterpreterFrame, owner);
    SAY("frame.owned_by_generator", FRAME_OWNED_BY_GENERATOR);
    /* Include/internal/pycore_frame.h: 3.12 added FRAME_OWNED_BY_CSTACK. 3.14's pycore_interpframe_structs.h put
     * FRAME_OWNED_BY_INTERPRETER before it, and 3.15's has no FRAME_OWNED_BY_CSTACK. */
#if AT_LEAST(14)
    SAY("frame.first_hidden_owner", FRAME_OWNED_BY_INTERPRETER);
#elif AT_LEAST(12)
    SAY("frame.first_hidden_owner", FRAME_OWNED_BY_CSTACK);
#endif
    SAY("assert.frame_owned_by_thread", FRAME_OWNED_BY_THREAD);
    SAY("assert.frame_owned_by_frame_object", FRAME_OWNED_BY_FRAME_OBJECT);
#if AT_LEAST(14) && defined(Py_GIL_DISABLED)
    AT("frame.tlbc_index", _PyInterpreterFrame, tlbc_index);
#endif
#else
    AT("frame.size", PyFrameObject, f_localsplus);
    AT("frame.back", PyFrameObject, f_back);
    AT("frame.code", PyFrameObject, f_code);
    AT("frame.globals", PyFrameObject, f_globals);
    AT("frame.trace", PyFrameObject, f_trace);
    AT("frame.lasti", PyFrameObject, f_lasti);
    AT("frame.lineno", PyFrameObject, f_lineno);
#endif
}

static void states(void)
{
#if AT_LEAST(7)
    SIZE("runtime.size", _PyRuntimeState);
    AT("runtime.interpreters_head", _PyRuntimeState, interpreters.head);
    AT("runtime.interpreters_main", _PyRuntimeState, interpreters.main);
    SIZE("gil.size", struct _gil_runtime_state);
    AT("gil.last_holder", struct _gil_runtime_state, last_holder);
    AT("gil.locked", struct _gil_runtime_state, locked);
    AT("interpreter.id", PyInterpreterState, id);
#if !AT_LEAST(12)
    AT("runtime.current_thread", _PyRuntimeState, gilstate.tstate_current);
    AT("runtime.gil", _PyRuntimeState, ceval.gil);
#endif
#endif

    SIZE("interpreter.size", PyInterpreterState);
    AT("interpreter.next", PyInterpreterState, next);
#if AT_LEAST(11)
    AT("interpreter.threads_head", PyInterpreterState, threads.head);
#else
    AT("interpreter.threads_head", PyInterpreterState, tstate_head);
#endif
#if AT_LEAST(12)
    AT("interpreter.modules", PyInterpreterState, imports.modules);
    AT("interpreter.gil", PyInterpreterState, ceval.gil);
#else
    AT("interpreter.modules", PyInterpreterState, modules);
#endif

    SIZE("thread.size", PyThreadState);
    AT("thread.next", PyThreadState, next);
    AT("thread.interp", PyThreadState, interp);
    AT("thread.thread_id", PyThreadState, thread_id);
#if AT_LEAST(11)
    AT("thread.native_thread_id", PyThreadState, native_thread_id);
    AT("thread.datastack_chunk", PyThreadState, datastack_chunk);
#endif
#if AT_LEAST(13)
    AT("thread.top", PyThreadState, current_frame);
#elif AT_LEAST(11)
    AT("thread.cframe", PyThreadState, cframe);
    AT("thread.cframe.current_frame", _PyCFrame, current_frame);
#else
    AT("thread.top", PyThreadState, frame);
#endif
}

#if AT_LEAST(6)
static void exceptions(void)
{
#if AT_LEAST(7)
    AT("exceptions.info", PyThreadState, exc_info);
    AT("exceptions.value", _PyErr_StackItem, exc_value);
    AT("exceptions.previous", _PyErr_StackItem, previous_item);
#else
    AT("exceptions.value", PyThreadState, exc_value);
#endif
    AT("exceptions.traceback", PyBaseExceptionObject, traceback);
    AT("exceptions.cause", PyBaseExceptionObject, cause);
    AT("exceptions.context", PyBaseExceptionObject, context);
    AT("exceptions.number", PyOSErrorObject, myerrno);
    AT("exceptions.next", PyTracebackObject, tb_next);
    AT("exceptions.frame", PyTracebackObject, tb_frame);
#if AT_LEAST(11)
    AT("exceptions.frame_data", PyFrameObject, f_frame);
#endif
}
#endif

#if AT_LEAST(6) && !AT_LEAST(11)
/* The header of dict keys, which Objects/dict-common.h (3.6-3.10, not installed) keeps to itself. Stated here by its
 * members' types alone; scripts/gen-layouts --verify reads live dicts through it. */
struct dict_keys {
    Py_ssize_t dk_refcnt, dk_size;
    void *dk_lookup;
    Py_ssize_t dk_usable, dk_nentries;
    char dk_indices[8];
};
#endif

static void dicts(void)
{
    AT("dict.used", PyDictObject, ma_used);
#if AT_LEAST(6)
    AT("dict.keys", PyDictObject, ma_keys);
    AT("dict.values", PyDictObject, ma_values);
#if AT_LEAST(11)
    AT("dict.keys.log2_size", PyDictKeysObject, dk_log2_size);
    AT("dict.keys.log2_index_bytes", PyDictKeysObject, dk_log2_index_bytes);
    AT("dict.keys.kind", PyDictKeysObject, dk_kind);
    AT("dict.keys.nentries", PyDictKeysObject, dk_nentries);
    AT("dict.keys.indices", PyDictKeysObject, dk_indices);
    AT("dict.first_value", PyDictValues, values);
    /* Include/internal/pycore_dict.h: the kinds as DictKeysLayout's doc states them. */
    SAY("assert.dict_keys_general", DICT_KEYS_GENERAL);
    SAY("assert.dict_keys_unicode", DICT_KEYS_UNICODE);
    SAY("assert.dict_keys_split", DICT_KEYS_SPLIT);
#else
    AT("dict.keys.size", struct dict_keys, dk_size);
    AT("dict.keys.nentries", struct dict_keys, dk_nentries);
    AT("dict.keys.indices", struct dict_keys, dk_indices);
    SAY("dict.first_value", 0);
#endif
#else
    AT("dict.mask", PyDictObject, ma_mask);
    AT("dict.table", PyDictObject, ma_table);
#endif

#if AT_LEAST(11)
    /* Include/internal/pycore_object.h's own accessors say where the pointers before an object stand. */
    static char before[512];
    PyObject *object = (PyObject *)(before + 256);
#define FROM_OBJECT(key, pointer) SAY(key, (char *)(pointer) - (char *)object)
#if AT_LEAST(13)
    FROM_OBJECT("managed_dict.inline.dict", _PyObject_ManagedDictPointer(object));
    AT("managed_dict.inline.valid", PyDictValues, valid);
    SAY("managed_dict.inline.flag", Py_TPFLAGS_INLINE_VALUES);
#elif AT_LEAST(12)
    FROM_OBJECT("managed_dict.tagged.pointer", _PyObject_DictOrValuesPointer(object));
#else
    FROM_OBJECT("managed_dict.both.dict", _PyObject_ManagedDictPointer(object));
    FROM_OBJECT("managed_dict.both.values", _PyObject_ValuesPointer(object));
#endif
    SAY("assert.managed_dict_flag", Py_TPFLAGS_MANAGED_DICT);
#endif
}

static void values(void)
{
    AT("values.list_items", PyListObject, ob_item);
    AT("values.tuple_items", PyTupleObject, ob_item);
    AT("values.float", PyFloatObject, ob_fval);
    AT("values.cell", PyCellObject, ob_ref);
    AT("values.set.used", PySetObject, used);
    AT("values.set.mask", PySetObject, mask);
    AT("values.set.table", PySetObject, table);
    SIZE("values.set.entry_size", setentry);
    AT("values.set.entry_key", setentry, key);
    AT("values.set.entry_hash", setentry, hash);
    AT("values.type_itemsize", PyTypeObject, tp_itemsize);
    AT("values.type_base", PyTypeObject, tp_base);
    AT("values.type_dict", PyTypeObject, tp_dict);
    AT("values.type_members", PyTypeObject, tp_members);
    SIZE("values.member.size", PyMemberDef);
    AT("values.member.name", PyMemberDef, name);
    AT("values.member.kind", PyMemberDef, type);
    AT("values.member.at", PyMemberDef, offset);
    /* Include/descrobject.h (3.12+), Include/structmember.h: the kinds as MemberLayout's doc states them. */
    SAY("assert.member_object", T_OBJECT);
    SAY("assert.member_object_ex", T_OBJECT_EX);
#if AT_LEAST(3)
    AT("values.type_qualname", PyHeapTypeObject, ht_qualname);
#else
    AT("values.old_instance.class", PyInstanceObject, in_class);
    AT("values.old_instance.dict", PyInstanceObject, in_dict);
    AT("values.old_instance.class_name", PyClassObject, cl_name);
    AT("values.old_instance.class_dict", PyClassObject, cl_dict);
#endif
}

static void locals(void)
{
    AT("locals.flags", PyCodeObject, co_flags);
    AT("locals.argcount", PyCodeObject, co_argcount);
#if AT_LEAST(3)
    AT("locals.kwonlyargcount", PyCodeObject, co_kwonlyargcount);
#endif
#if AT_LEAST(11)
    AT("locals.names.count", PyCodeObject, co_nlocalsplus);
    AT("locals.names.names", PyCodeObject, co_localsplusnames);
    AT("locals.names.kinds", PyCodeObject, co_localspluskinds);
    /* Include/internal/pycore_code.h: the bits as LocalNames' doc states them. */
    SAY("assert.fast_local", CO_FAST_LOCAL);
    SAY("assert.fast_cell", CO_FAST_CELL);
    SAY("assert.fast_free", CO_FAST_FREE);
    AT("locals.mapping", _PyInterpreterFrame, f_locals);
#else
    AT("locals.names.nlocals", PyCodeObject, co_nlocals);
    AT("locals.names.varnames", PyCodeObject, co_varnames);
    AT("locals.names.cellvars", PyCodeObject, co_cellvars);
    AT("locals.names.freevars", PyCodeObject, co_freevars);
    AT("locals.mapping", PyFrameObject, f_locals);
#endif
#if AT_LEAST(14)
    /* Include/internal/pycore_stackref.h: the lowest bits of a stack reference, and what they are in one that is a number. */
    SAY("locals.int_tag", Py_INT_TAG);
    SAY("assert.stackref_of_number_one", PyStackRef_TagInt(1).bits);
#endif
    SAY("assert.code_optimized", CO_OPTIMIZED);
    SAY("assert.code_varargs", CO_VARARGS);
    SAY("assert.code_varkeywords", CO_VARKEYWORDS);
}

/* What the C modules keep to themselves (Modules/_threadmodule.c, Modules/_multiprocessing/multiprocessing.h; neither is
 * installed), stated by the types of the members; scripts/gen-layouts --verify reads live objects through it. A plain
 * lock's first member stands where a recursive one's does. */
struct recursive_lock {
    PyObject_HEAD
#if AT_LEAST(14)
    _PyRecursiveMutex lock;
#else
    struct { void *mutex; unsigned long thread, level; } lock;
#endif
};
struct shared_semaphore {
    PyObject_HEAD
    void *handle;
    unsigned long last_tid;
    int count, maxvalue, kind;
};

static void evaluation(void)
{
    AT("evaluation.stack_size", PyCodeObject, co_stacksize);
#if AT_LEAST(11)
    AT("evaluation.exception_table", PyCodeObject, co_exceptiontable);
    AT("evaluation.locals", PyCodeObject, co_nlocalsplus);
#else
    AT("evaluation.value_stack", PyFrameObject, f_valuestack);
    AT("evaluation.block_count", PyFrameObject, f_iblock);
    AT("evaluation.blocks", PyFrameObject, f_blockstack);
    SIZE("evaluation.block_size", PyTryBlock);
    AT("evaluation.level", PyTryBlock, b_level);
#endif
}

/* What references to an object are counted by, and who holds them. */
static void references(void)
{
#ifndef Py_GIL_DISABLED
    AT("references.count", PyObject, ob_refcnt);
#endif
    AT("references.weak_list", PyTypeObject, tp_weaklistoffset);
#if AT_LEAST(12)
    AT("references.frame_function", _PyInterpreterFrame, f_funcobj);
#elif AT_LEAST(11)
    AT("references.frame_function", _PyInterpreterFrame, f_func);
#endif
    AT("references.function.code", PyFunctionObject, func_code);
    AT("references.function.globals", PyFunctionObject, func_globals);
    AT("references.function.defaults", PyFunctionObject, func_defaults);
#if AT_LEAST(3)
    AT("references.function.keyword_defaults", PyFunctionObject, func_kwdefaults);
#endif
    AT("references.function.closure", PyFunctionObject, func_closure);
    AT("references.function.attributes", PyFunctionObject, func_dict);
}

static void locks(void)
{
    AT("locks.mutex", struct recursive_lock, lock);
    AT("locks.owner", struct recursive_lock, lock.thread);
    AT("locks.level", struct recursive_lock, lock.level);
    AT("locks.handle", struct shared_semaphore, handle);
    AT("locks.last_tid", struct shared_semaphore, last_tid);
    AT("locks.count", struct shared_semaphore, count);
    AT("locks.max_value", struct shared_semaphore, maxvalue);
    AT("locks.kind", struct shared_semaphore, kind);
    AT("locks.function_self", PyCFunctionObject, m_self);
    AT("locks.method_self", PyMethodObject, im_self);
}

#if AT_LEAST(8)
/* A task as Modules/_asynciomodule.c has it, which no header states: how many pointers a future has before its state, and
 * what is between that and the task's own members. scripts/gen-layouts --verify reads live tasks through it. */
struct task {
    PyObject_HEAD
    PyObject *loop;
    PyObject *callbacks[3], *outcome[2], *source;
#if AT_LEAST(9)
    PyObject *cancel_message;
#endif
#if AT_LEAST(10)
    PyObject *exception_traceback;
#endif
#if AT_LEAST(13)
    PyObject *cancelled;
#endif
#if AT_LEAST(14)
    PyObject *awaited_by;
#endif
    int state;
#if AT_LEAST(13)
    unsigned flags, more_flags;
#else
    int logs, blocks;
    PyObject *dict, *weak_references;
#if AT_LEAST(11)
    PyObject *cancelled;
#elif AT_LEAST(9)
    void *cancelled[4];
#endif
#endif
    PyObject *waiter, *coroutine, *name, *context;
#if AT_LEAST(14)
    struct llist_node node;
#ifdef Py_GIL_DISABLED
    uintptr_t thread;
#endif
#elif AT_LEAST(11) && !AT_LEAST(13)
    int own_flags[3];
#elif !AT_LEAST(11)
    int own_flags[2];
#endif
};

static void tasks(void)
{
    SIZE("asyncio.task.size", struct task);
    AT("asyncio.task.event_loop", struct task, loop);
    AT("asyncio.task.state", struct task, state);
    AT("asyncio.task.waiter", struct task, waiter);
    AT("asyncio.task.coroutine", struct task, coroutine);
    AT("asyncio.task.name", struct task, name);
#if AT_LEAST(14)
    AT("asyncio.task.awaited_by", struct task, awaited_by);
    AT("asyncio.task.node", struct task, node);
    AT("asyncio.running_task", _PyThreadStateImpl, asyncio_running_task);
    AT("asyncio.thread_tasks", _PyThreadStateImpl, asyncio_tasks_head);
    AT("asyncio.interpreter_tasks", PyInterpreterState, asyncio_tasks_head);
#endif
#if AT_LEAST(13)
    AT("asyncio.running_loop", _PyThreadStateImpl, asyncio_running_loop);
#else
    AT("asyncio.thread_dict", PyThreadState, dict);
#endif
    AT("asyncio.weak_target", PyWeakReference, wr_object);
#if AT_LEAST(11)
    AT("asyncio.generator.frame", PyGenObject, gi_iframe);
    AT("asyncio.generator.state", PyGenObject, gi_frame_state);
    SAY("asyncio.generator.created", FRAME_CREATED);
    SAY("asyncio.generator.suspended", FRAME_SUSPENDED);
    SAY("asyncio.generator.executing", FRAME_EXECUTING);
#else
    AT("asyncio.generator.frame", PyGenObject, gi_frame);
    AT("asyncio.generator.bytecode", PyCodeObject, co_code);
    SAY("assert.yield_from", YIELD_FROM);
#endif
    /* Python/bytecodes.c, SEND: above what is awaited lies one value more from 3.15 on. */
    SAY("asyncio.generator.awaited_slot", AT_LEAST(15) ? 2 : 1);
#if AT_LEAST(14)
    AT("asyncio.generator.top.pointer", _PyInterpreterFrame, stackpointer);
#elif AT_LEAST(11)
    AT("asyncio.generator.top.count", _PyInterpreterFrame, stacktop);
#elif AT_LEAST(10)
    AT("asyncio.generator.top.depth", PyFrameObject, f_stackdepth);
#else
    AT("asyncio.generator.top.pointer", PyFrameObject, f_stacktop);
#endif
}
#endif

static void collector(void)
{
    /* Free-threaded builds find the objects of the collector in the heaps of their allocator. */
#if AT_LEAST(9) && !defined(Py_GIL_DISABLED)
    AT("collector.generations", PyInterpreterState, gc.generations);
    SIZE("collector.generation_size", struct gc_generation);
    AT("collector.permanent", PyInterpreterState, gc.permanent_generation);
    SIZE("collector.head_size", PyGC_Head);
#endif
}

static void debug_offsets(void)
{
#if AT_LEAST(13)
#define POSITION(key, member) AT("positions." key, _Py_DebugOffsets, member)
    SIZE("positions.size", _Py_DebugOffsets);
    POSITION("free_threaded", free_threaded);
    POSITION("runtime_size", runtime_state.size);
    POSITION("runtime_interpreters_head", runtime_state.interpreters_head);
    POSITION("interpreter_size", interpreter_state.size);
    POSITION("interpreter_id", interpreter_state.id);
    POSITION("interpreter_next", interpreter_state.next);
    POSITION("interpreter_threads_head", interpreter_state.threads_head);
    POSITION("interpreter_imports_modules", interpreter_state.imports_modules);
    POSITION("interpreter_ceval_gil", interpreter_state.ceval_gil);
    POSITION("interpreter_gil_runtime_state", interpreter_state.gil_runtime_state);
    POSITION("interpreter_gil_runtime_state_locked", interpreter_state.gil_runtime_state_locked);
    POSITION("interpreter_gil_runtime_state_holder", interpreter_state.gil_runtime_state_holder);
    POSITION("thread_size", thread_state.size);
    POSITION("thread_next", thread_state.next);
    POSITION("thread_interp", thread_state.interp);
    POSITION("thread_current_frame", thread_state.current_frame);
    POSITION("thread_thread_id", thread_state.thread_id);
    POSITION("thread_native_thread_id", thread_state.native_thread_id);
    POSITION("thread_datastack_chunk", thread_state.datastack_chunk);
    POSITION("frame_size", interpreter_frame.size);
    POSITION("frame_previous", interpreter_frame.previous);
    POSITION("frame_executable", interpreter_frame.executable);
    POSITION("frame_instr_ptr", interpreter_frame.instr_ptr);
    POSITION("frame_localsplus", interpreter_frame.localsplus);
    POSITION("frame_owner", interpreter_frame.owner);
    POSITION("code_size", code_object.size);
    POSITION("code_filename", code_object.filename);
    POSITION("code_name", code_object.name);
    POSITION("code_qualname", code_object.qualname);
    POSITION("code_linetable", code_object.linetable);
    POSITION("code_firstlineno", code_object.firstlineno);
    POSITION("code_co_code_adaptive", code_object.co_code_adaptive);
#if AT_LEAST(14)
    POSITION("frame_tlbc_index", interpreter_frame.tlbc_index);
    POSITION("code_co_tlbc", code_object.co_tlbc);
#endif
    POSITION("object_ob_type", pyobject.ob_type);
    POSITION("type_tp_name", type_object.tp_name);
    POSITION("type_tp_flags", type_object.tp_flags);
    POSITION("dict_ma_keys", dict_object.ma_keys);
    POSITION("dict_ma_values", dict_object.ma_values);
    POSITION("long_lv_tag", long_object.lv_tag);
    POSITION("long_ob_digit", long_object.ob_digit);
    POSITION("bytes_ob_size", bytes_object.ob_size);
    POSITION("bytes_ob_sval", bytes_object.ob_sval);
    POSITION("unicode_state", unicode_object.state);
    POSITION("unicode_length", unicode_object.length);
    POSITION("unicode_asciiobject_size", unicode_object.asciiobject_size);
    POSITION("code_localsplusnames", code_object.localsplusnames);
    POSITION("code_localspluskinds", code_object.localspluskinds);
    POSITION("list_ob_item", list_object.ob_item);
    POSITION("tuple_ob_item", tuple_object.ob_item);
    POSITION("float_ob_fval", float_object.ob_fval);
#endif
}

int main(void)
{
    objects();
    text();
    code();
    frame();
    states();
    dicts();
    values();
    locals();
    evaluation();
    locks();
    references();
#if AT_LEAST(8)
    tasks();
#endif
#if AT_LEAST(6)
    exceptions();
#endif
    collector();
    debug_offsets();
    return 0;
}
