"""Reads the interpreter that runs it through one committed table, and says where the table is wrong.

Run by `scripts/gen-layouts --verify` with the table as JSON on stdin, in every version from 2.7 on. Every check compares
what stands in memory at the table's offsets with what the interpreter says of itself.
"""

import ctypes
import dis
import json
import sys
import sysconfig
import threading

PY2 = sys.version_info < (3,)
GIVEN = json.load(sys.stdin)
LAYOUT = GIVEN["layout"]
FRAME = LAYOUT["frame"]
PASSED = []
FAILED = []


def check(what, found, expected):
    (PASSED if found == expected else FAILED).append(what)
    if found != expected:
        print("  %s: found %r, expected %r" % (what, found, expected))


def u8(address):
    return ctypes.c_uint8.from_address(address).value


def u32(address):
    return ctypes.c_uint32.from_address(address).value


def i32(address):
    return ctypes.c_int32.from_address(address).value


def u64(address):
    return ctypes.c_uint64.from_address(address).value


def i64(address):
    return ctypes.c_int64.from_address(address).value


# --- Objects --------------------------------------------------------------------------------------------------------


def read_bytes(address):
    return ctypes.string_at(address + LAYOUT["bytes"]["data"], i64(address + LAYOUT["object"]["ob_size"]))


def read_text(address):
    t = LAYOUT["unicode"]
    length = i64(address + t["length"])
    if t["variant"] == "Legacy":
        codec = {2: "utf-16-le", 4: "utf-32-le"}[t["unit"]]
        return ctypes.string_at(u64(address + t["data"]), length * t["unit"]).decode(codec)
    state = u32(address + t["state"])
    kind = state >> t["kind_shift"] & 7
    if not state >> t["compact_shift"] & 1:
        data = u64(address + t["data"])
    else:
        data = address + (t["ascii_size"] if state >> t["ascii_shift"] & 1 else t["compact_size"])
    return ctypes.string_at(data, length * kind).decode({1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[kind])


def read_name(address):
    """A name in a code object: str in both, which is bytes in 2.7."""
    return read_bytes(address) if PY2 else read_text(address)


def read_int(address):
    t = LAYOUT["int"]
    if t["tag"] is None:
        size = i64(address + LAYOUT["object"]["ob_size"])
        count, sign = abs(size), (-1 if size < 0 else 1)
    else:
        tag = u64(address + t["tag"])
        count, sign = tag >> 3, {0: 1, 1: 0, 2: -1}[tag & 3]
    width, read = (4, u32) if t["digit_bits"] == 30 else (2, lambda at: ctypes.c_uint16.from_address(at).value)
    digits = (read(address + t["digits"] + i * width) << (i * t["digit_bits"]) for i in range(count))
    return sign * sum(digits)


def entries_of(keys):
    """Address of the first entry, its count, its size, where key and value stand in it, and the kind of the keys."""
    k = LAYOUT["dict"]["keys_layout"]
    if k["variant"] == "Size":
        size = i64(keys + k["size"])
        width = 1 if size <= 0xFF else 2 if size <= 0xFFFF else 4 if size <= 0xFFFFFFFF else 8
        index, general, kind = size * width, True, None
    else:
        index, kind = 1 << u8(keys + k["log2_index_bytes"]), u8(keys + k["kind"])
        general = kind == 0
    shape = (24, 8, 16) if general else (16, 0, 8)
    return (keys + k["indices"] + index, i64(keys + k["nentries"])) + shape + (kind,)


def read_split(keys, values):
    first, count, size, key_at, _, _ = entries_of(keys)
    pairs = ((u64(first + i * size + key_at), u64(values + i * 8)) for i in range(count))
    return [(key, value) for key, value in pairs if value]


def read_dict(address):
    t = LAYOUT["dict"]
    if t["variant"] == "Table":
        table = u64(address + t["table"])
        slots = (table + i * 24 for i in range(i64(address + t["mask"]) + 1))
        return [(u64(slot + 8), u64(slot + 16)) for slot in slots if u64(slot + 16)]
    keys, values = u64(address + t["keys"]), u64(address + t["values"])
    if values:
        return read_split(keys, values + t["first_value"])
    first, count, size, key_at, value_at, _ = entries_of(keys)
    pairs = ((u64(first + i * size + key_at), u64(first + i * size + value_at)) for i in range(count))
    return [(key, value) for key, value in pairs if value]


def ids(mapping):
    return [(id(key), id(value)) for key, value in mapping.items()]


def check_object_and_type():
    t, o = LAYOUT["type_object"], LAYOUT["object"]
    check("object.size", o["size"], object.__basicsize__)
    check("object.ob_size", i64(id((1, 2, 3)) + o["ob_size"]), 3)

    class Probed(object):
        pass

    for kind in (int, dict, Probed, type(threading.Lock())):
        where = id(kind)
        check("object.ob_type", u64(where + o["ob_type"]), id(type))
        name = ctypes.string_at(u64(where + t["name"])).decode()
        check("type_object.name", name.rpartition(".")[2], kind.__name__)
        check("type_object.basicsize", i64(where + t["basicsize"]), kind.__basicsize__)
        check("type_object.flags", u64(where + t["flags"]), kind.__flags__)
        check("type_object.dictoffset", i64(where + t["dictoffset"]), kind.__dictoffset__)
    if t["cached_keys"] is not None:
        probed = Probed()
        probed.one = 1
        attributes = vars(probed)
        shared = u64(id(Probed) + t["cached_keys"])
        check("type_object.cached_keys", shared, u64(id(attributes) + LAYOUT["dict"]["keys"]))


def check_text():
    class Derived(type(u"")):
        pass

    samples = [u"", u"a", u"plain ascii", u"caf\xe9 \xff", u"\u0119\u4e2d", u"\U0001f40d snake \U0001f40d", u"x" * 5000]
    for sample in samples:
        check("unicode %r" % sample[:12], read_text(id(sample)), sample)
        derived = Derived(sample)
        check("unicode of a subclass %r" % sample[:12], read_text(id(derived)), sample)
    if not PY2:
        t = LAYOUT["unicode"]
        # Made just now: a constant may carry a copy in UTF-8.
        fresh = b"\xe9\xe9\xe9".decode("latin-1")
        check("unicode.compact_size", t["compact_size"], sys.getsizeof(fresh) - 4)
        check("unicode.ascii_size", t["ascii_size"], sys.getsizeof(u"a") - 2)


def check_bytes():
    for sample in (b"", b"a\0b", bytes(bytearray(range(256)))):
        check("bytes of %d" % len(sample), read_bytes(id(sample)), sample)


def check_int():
    big = [2**62, 2**64 + 12345, -(2**200) - 17, 10**50]
    small = [0, 1, -1, 5, 256, 257, 2**30 - 1, 2**30, -(2**30), 2**31, 2**60 - 1, -5]
    if PY2:
        for sample in small:
            check("int %d" % sample, i64(id(sample) + LAYOUT["int"]["small"]), sample)
        big = [long(sample) for sample in big + small]  # noqa: F821
        small = []
    for sample in big + small:
        check("int %d" % sample, read_int(id(sample)), sample)
    check("int.digit_bits", LAYOUT["int"]["digit_bits"], getattr(sys, "int_info", getattr(sys, "long_info", None))[0])


def check_dict():
    used = LAYOUT["dict"]["used"]
    general = {1: "a", (2,): "b", 3.5: "c"}
    named = {"one": 1000, "two": 2000}
    holes = {i: str(i) for i in range(20)}
    for i in range(0, 20, 3):
        del holes[i]
    samples = {"empty": {}, "general": general, "with str keys": named, "with holes": holes}
    for size in (200, 300, 70000):
        samples["of %d" % size] = {i: object() for i in range(size)}
        samples["of %d names" % size] = {"key%d" % i: object() for i in range(size)}
    for label, sample in sorted(samples.items()):
        check("dict.used " + label, i64(id(sample) + used), len(sample))
        check("dict " + label, sorted(read_dict(id(sample))), sorted(ids(sample)))
        if LAYOUT["dict"]["variant"] == "Keys":
            check("dict order " + label, read_dict(id(sample)), ids(sample))
    if LAYOUT["dict"].get("keys_layout", {}).get("variant") == "Log2":
        k = LAYOUT["dict"]["keys_layout"]
        for label, sample, kind in (("general", general, 0), ("str", named, 1)):
            keys = u64(id(sample) + LAYOUT["dict"]["keys"])
            check("dict.keys.kind " + label, u8(keys + k["kind"]), kind)
        keys = u64(id(samples["of 300"]) + LAYOUT["dict"]["keys"])
        check("dict.keys.log2_size", u8(keys + k["log2_size"]), 9)
        check("dict.keys.log2_index_bytes", u8(keys + k["log2_index_bytes"]), 10)


def check_instance():
    class Plain(object):
        def __init__(self):
            self.first = object()
            self.second = "two"
            self.third = [3]

    class Sized(int):
        pass

    keep = [Plain() for _ in range(8)]
    one = keep[-1]
    del one.second
    one.fourth = 4.5
    expected = [(id(n), id(getattr(one, n))) for n in ("first", "third", "fourth")]
    expected = [(sys.intern(n) if not PY2 else n, v) for n, v in zip(("first", "third", "fourth"), (p[1] for p in expected))]
    named = lambda pairs: sorted((read_name(key), value) for key, value in pairs)
    m, where, flags = LAYOUT["managed_dict"], id(one), LAYOUT["type_object"]["flags"]
    if m["variant"] == "None":
        instance_dict = u64(where + Plain.__dictoffset__)
        check("instance, dict at dictoffset", named(read_dict(instance_dict)), sorted(expected))
        fresh = u64(id(keep[0]) + Plain.__dictoffset__)
        check("instance, the dict is its own", fresh, id(vars(keep[0])))
        if not PY2:
            check("instance, split table", bool(u64(fresh + LAYOUT["dict"]["values"])), True)
        check("split dict", sorted(read_dict(fresh)), sorted(ids(vars(keep[0]))))
        return

    check("Py_TPFLAGS_MANAGED_DICT", u64(id(Plain) + flags) >> 4 & 1, 1)
    keys = u64(id(Plain) + LAYOUT["type_object"]["cached_keys"])
    check("split keys, kind", entries_of(keys)[5], 2)
    if m["variant"] == "DictAndValues":
        check("managed dict, no dict yet", u64(where + m["dict"]), 0)
        values = u64(where + m["values"])
    elif m["variant"] == "Tagged":
        pointer = u64(where + m["pointer"])
        check("managed dict, tag", pointer & 1, 1)
        values = pointer + 1
    else:
        check("inline values, flag", u64(id(Plain) + flags) & m["flag"], m["flag"])
        check("inline values, no dict yet", u64(where + m["dict"]), 0)
        inline = where + Plain.__basicsize__
        check("inline values, valid", u8(inline + m["valid"]), 1)
        values = inline + LAYOUT["dict"]["first_value"]
    check("instance without a dict", named(read_split(keys, values)), sorted(expected))

    attributes = vars(one)
    pointer = u64(where + (m["pointer"] if m["variant"] == "Tagged" else m["dict"]))
    check("instance with a dict", pointer, id(attributes))
    check("instance with a dict, content", named(read_dict(pointer)), sorted(expected))
    if m["variant"] == "DictAndValues":
        check("instance with a dict, no values", u64(where + m["values"]), 0)
    if m["variant"] == "Inline":
        check("dict over inline values", u64(pointer + LAYOUT["dict"]["values"]), where + Plain.__basicsize__)
        for i in range(100):
            setattr(one, "extra%d" % i, i)
        check("inline values, not valid", u8(where + Plain.__basicsize__ + m["valid"]), 0)
        check("dict that left the inline values", len(read_dict(u64(where + m["dict"]))), 103)
        sized = Sized(10**30)
        check("inline values only behind objects of fixed size", u64(id(Sized) + flags) & m["flag"], 0)
        sized.x = 1
    if m["variant"] in ("Inline", "Tagged"):

        class Wide(Exception):
            pass

        wide = Wide()
        wide.x = one
        if u64(id(Wide) + flags) >> 4 & 1 == 0:
            check("no managed dict: at dictoffset", u64(id(wide) + Wide.__dictoffset__), id(vars(wide)))


# --- Code -----------------------------------------------------------------------------------------------------------


class Holder(object):
    def method(self):
        for item in (1, 2):
            yield item


def check_code():
    t, code = LAYOUT["code"], Holder.method.__code__
    where = id(code)
    check("code.name", read_name(u64(where + t["name"])), "method")
    check("code.filename", read_name(u64(where + t["filename"])), code.co_filename)
    check("code.firstlineno", i32(where + t["firstlineno"]), code.co_firstlineno)
    check("code.size", t["size"], type(code).__basicsize__)
    with_lines = code.co_linetable if sys.version_info >= (3, 10) else code.co_lnotab
    check("code.linetable", read_bytes(u64(where + t["linetable"])), with_lines)
    formats = {(2, 7): "LnotabUnsigned", (3, 10): "LineTable"}
    expected = "Locations" if sys.version_info >= (3, 11) else formats.get(sys.version_info[:2], "Lnotab")
    check("code.linetable_format", t["linetable_format"]["variant"], expected)
    if sys.version_info < (3, 11):
        return
    check("code.qualname", read_text(u64(where + t["qualname"])), code.co_qualname)
    # A function that never ran: nothing in it is specialised.
    bytecode = ctypes.string_at(where + t["bytecode"], len(code.co_code))
    check("code.bytecode", bytecode, code._co_code_adaptive)
    first = i32(where + t["first_traceable"])
    check("code.first_traceable", (code.co_code[2 * first], first > 0), (dis.opmap["RESUME"], True))
    if t["tlbc"] is not None:
        array = u64(where + t["tlbc"])
        check("code.tlbc, entries[0] is the object's own", u64(array + 8), where + t["bytecode"])


# --- States ---------------------------------------------------------------------------------------------------------


def ident():
    return getattr(threading, "get_ident", lambda: threading.current_thread().ident)()


def thread_state():
    get = ctypes.pythonapi.PyThreadState_Get
    get.restype = ctypes.c_void_p
    return get()


def runtime():
    return ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))


def check_states():
    t, i = LAYOUT["thread"], LAYOUT["interpreter"]
    me = thread_state()
    interp = u64(me + t["interp"])
    if sys.version_info >= (3, 9):
        ctypes.pythonapi.PyInterpreterState_Get.restype = ctypes.c_void_p
        check("thread.interp", interp, ctypes.pythonapi.PyInterpreterState_Get())
    else:
        ctypes.pythonapi.PyInterpreterState_Head.restype = ctypes.c_void_p
        check("thread.interp", interp, ctypes.pythonapi.PyInterpreterState_Head())
    check("thread.thread_id", u64(me + t["thread_id"]), ident())
    if t["native_thread_id"] is not None:
        check("thread.native_thread_id", u64(me + t["native_thread_id"]), threading.get_native_id())

    ready, done, idents = threading.Semaphore(0), threading.Event(), [ident()]

    def park():
        idents.append(ident())
        ready.release()
        done.wait()

    threads = [threading.Thread(target=park) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        ready.acquire()
    linked, state = [], u64(interp + i["threads_head"])
    while state and len(linked) < 10:
        linked.append(u64(state + t["thread_id"]))
        state = u64(state + t["next"])
    done.set()
    for thread in threads:
        thread.join()
    check("interpreter.threads_head, thread.next", sorted(linked), sorted(idents))

    check("interpreter.modules", u64(interp + i["modules"]), id(sys.modules))
    check("interpreter.next", u64(interp + i["next"]), 0)
    if i["id"] is not None:
        check("interpreter.id", i64(interp + i["id"]), 0)

    r, g = LAYOUT["runtime"], LAYOUT["gil"]
    check("runtime, from 3.7 on", r is not None, sys.version_info >= (3, 7))
    if r is None:
        return
    base = runtime()
    check("runtime.interpreters_head", u64(base + r["interpreters_head"]), interp)
    check("runtime.interpreters_main", u64(base + r["interpreters_main"]), interp)
    if r["current_thread"] is not None:
        check("runtime.current_thread", u64(base + r["current_thread"]), me)
    gil = base + r["gil"] if r["gil"] is not None else u64(interp + i["gil"])
    check("gil.last_holder", u64(gil + g["last_holder"]), me)
    check("gil.locked", i32(gil + g["locked"]), 1)


def check_more_interpreters():
    """Two interpreters: `next` links the newer to the older."""
    if LAYOUT["runtime"] is None:
        return
    try:
        import _interpreters
    except ImportError:
        try:
            import _xxsubinterpreters as _interpreters
        except ImportError:
            return
    r, i = LAYOUT["runtime"], LAYOUT["interpreter"]
    created = _interpreters.create()
    base, found = runtime(), []
    at = u64(base + r["interpreters_head"])
    while at and len(found) < 5:
        found.append(i64(at + i["id"]))
        at = u64(at + i["next"])
    _interpreters.destroy(created)
    check("interpreter.next, interpreter.id", found, [1, 0])


# --- Frames ---------------------------------------------------------------------------------------------------------


class Walked(object):
    """`frames`: the interpreter's own (address, code, globals); `found`: (address, code, globals, instruction) in memory.

    `owners`: of every frame met, hidden ones too; `in_chunk`: whether the innermost lies in the newest chunk of the
    stack; `local`: whether its first local is the argument.
    """


def walk(argument):
    """The chain of frames as the interpreter shows it and as it stands in memory, each innermost first.

    Makes no Python call: that would move the innermost frame.
    """
    at64, at8, state = ctypes.c_uint64.from_address, ctypes.c_uint8.from_address, thread_state
    top, direct = LAYOUT["thread"]["top"], LAYOUT["thread"]["top"]["variant"] == "Direct"
    me = state()
    if direct:
        frame = at64(me + top["field"]).value
    else:
        frame = at64(at64(me + top["cframe"]).value + top["current_frame"]).value
    innermost = frame
    found, owners = [], []
    interpreter = FRAME["variant"] == "Interpreter"
    hidden = FRAME.get("first_hidden_owner")
    back = FRAME["previous"] if interpreter else FRAME["back"]
    step = FRAME["instruction"] if interpreter else FRAME["lasti"]
    while frame and len(found) < 500:
        owner = at8(frame + FRAME["owner"]).value if interpreter else 0
        owners.append(owner)
        if hidden is None or owner < hidden:
            code = at64(frame + FRAME["code"]).value & ~3
            found.append((frame, code, at64(frame + FRAME["globals"]).value, at64(frame + step).value))
        frame = at64(frame + back).value
    local = at64(innermost + FRAME["size"]).value & ~3
    in_chunk = None
    if LAYOUT["thread"]["datastack_chunk"] is not None:
        chunk = at64(me + LAYOUT["thread"]["datastack_chunk"]).value
        # _PyStackChunk {previous, size, top, data[]}, Include/cpython/pystate.h.
        in_chunk = chunk <= innermost < chunk + at64(chunk + 8).value
    frames, at = [], sys._getframe()
    while at is not None:
        frames.append((id(at), id(at.f_code), id(at.f_globals)))
        at = at.f_back
    walked = Walked()
    walked.frames, walked.found, walked.owners = frames, found, owners
    walked.in_chunk, walked.local = in_chunk, local == id(argument)
    return walked


def check_frames():
    results = []

    def generator():
        results.append(walk(object()))
        yield 1

    def through_c(_):
        return list(generator())

    # sorted() calls back from C, so frames of two runs of the evaluator are met, and a generator's.
    sorted([3], key=through_c)
    walked, owners = results[0], results[0].owners
    check("frames, codes", [each[1] for each in walked.found], [each[1] for each in walked.frames])
    check("frames, globals", [each[2] for each in walked.found], [each[2] for each in walked.frames])
    check("frames, more than five", len(walked.found) > 5, True)
    check("frame.size: the first local", walked.local, True)
    if FRAME["variant"] == "Object":
        check("frames, addresses", [each[0] for each in walked.found], [each[0] for each in walked.frames])
        return
    check("thread.datastack_chunk", walked.in_chunk, True)
    check("frame.owned_by_generator", owners.count(FRAME["owned_by_generator"]), 1)
    hidden = FRAME["first_hidden_owner"]
    check("frame.first_hidden_owner, from 3.12 on", hidden is not None, sys.version_info >= (3, 12))
    if hidden is not None:
        check("frame.first_hidden_owner, met", hidden in owners, True)
    check("frame.owner", sorted(set(owners) - {0, 1, 2, hidden, (hidden or 0) + 1}), [])


def suspended():
    x = 1
    yield sys._getframe()
    yield x


def check_last_instruction():
    if FRAME["variant"] == "Object":
        running = suspended()
        frame = next(running)
        unit = 2 if sys.version_info[:2] == (3, 10) else 1
        check("frame.lasti", i32(id(frame) + FRAME["lasti"]) * unit, frame.f_lasti)
        fresh = suspended()
        check("frame.lasti before the first", i32(id(fresh.gi_frame) + FRAME["lasti"]), -1)

        seen = []

        def trace(frame, event, _):
            if event == "line":
                seen.append(u64(id(frame) + FRAME["trace"]) == id(frame.f_trace))
                seen.append(i32(id(frame) + FRAME["lineno"]) == frame.f_lineno)
            return trace

        def traced():
            a = 1
            return a

        before = sys.gettrace()
        sys.settrace(trace)
        traced()
        sys.settrace(before)
        check("frame.trace, frame.lineno while traced", seen[:4], [True] * 4)
        return

    stood = []
    for _ in range(40):  # often enough to be specialised
        caller(stood)
    check_stood("first thread", stood[-1])
    if FRAME["tlbc_index"] is not None:
        # Another thread runs a copy of the bytecode of its own.
        thread = threading.Thread(target=lambda: [caller(stood) for _ in range(40)])
        thread.start()
        thread.join()
        check("frame.tlbc_index", stood[-1][0] > 0, True)
        check_stood("another thread", stood[-1])


def caller(stood):
    _, code, _, instruction = walk(stood).found[1]
    # Its own frame, which lives on: the walk found it behind its own.
    at_caller = walk(stood).found[1][0]
    start, index = code + LAYOUT["code"]["bytecode"], 0
    if FRAME["tlbc_index"] is not None:
        index = i32(at_caller + FRAME["tlbc_index"])
        array = u64(code + LAYOUT["code"]["tlbc"])
        check("code.tlbc, size", index < u64(array), True)
        start = u64(array + 8 + 8 * index)
    stood.append((index, instruction - start))


def check_stood(which, found):
    """While the walk ran, its caller stood at the call in its first line."""
    _, offset = found
    code = caller.__code__
    lines = {}
    for begin, end, line in code.co_lines():
        for unit in range(begin, end, 2):
            lines[unit] = line
    check("frame.instruction, line, " + which, lines.get(offset), code.co_firstlineno + 1)


# --- Locks and value stacks -----------------------------------------------------------------------------------------


def check_locks():
    t, v = LAYOUT["locks"], LAYOUT["values"]
    plain, recursive = threading.Lock(), threading.RLock()
    acquire = plain.acquire
    check("locks.function_self", u64(id(acquire) + t["function_self"]), id(plain))
    event = threading.Event()
    wait = event.wait
    check("locks.method_self", u64(id(wait) + t["method_self"]), id(event))
    check("values.type_base", u64(id(bool) + v["type_base"]), id(int))
    value = float("2.5")
    check("values.float", ctypes.c_double.from_address(id(value) + v["float"]).value, 2.5)
    if PY2:
        return
    with recursive:
        with recursive:
            check("locks.owner", u64(id(recursive) + t["owner"]), threading.get_ident())
            levels = 1 if sys.version_info >= (3, 14) else 2
            check("locks.level", u64(id(recursive) + t["level"]), levels)
    # A lock is a semaphore that is pointed to (its value is 1 when it is free), or a byte (3.13t, 3.14+).
    words = []
    for taken in (False, True):
        if taken:
            plain.acquire()
        where = id(plain) + t["mutex"]
        is_inside = sys.version_info >= (3, 14) or sys.version_info >= (3, 13) and LAYOUT["free_threaded"]
        words.append(u8(where) & 1 if is_inside else 1 - u32(u64(where)))
    check("locks.mutex", words, [0, 1])
    try:
        import multiprocessing
        shared = [multiprocessing.Lock()._semlock, multiprocessing.RLock()._semlock]
    except (ImportError, OSError):
        return
    for kind, semaphore in zip((1, 0), shared):
        check("locks.kind", i32(id(semaphore) + t["kind"]), kind)
        check("locks.count of a free one", i32(id(semaphore) + t["count"]), 0)
        semaphore.acquire()
        check("locks.count", i32(id(semaphore) + t["count"]), 1)
        check("locks.last_tid", u64(id(semaphore) + t["last_tid"]), threading.get_ident())
        check("locks.handle", u64(id(semaphore) + t["handle"]), semaphore.handle)


def check_evaluation():
    t = LAYOUT["evaluation"]

    class Manager(object):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    def inside(one, two):
        with Manager() as manager:
            return sys._getframe(), manager

    code = id(inside.__code__)
    check("evaluation.stack_size", i32(code + t["stack_size"]), inside.__code__.co_stacksize)
    if "exception_table" in t:
        check("evaluation.exception_table", u64(code + t["exception_table"]), id(inside.__code__.co_exceptiontable))
        check("evaluation.locals", i32(code + t["locals"]), len(inside.__code__.co_varnames + inside.__code__.co_freevars))
        return

    def blocks():
        frame = id(sys._getframe())
        with Manager() as manager:
            seen = [i32(frame + t["block_count"]), i32(frame + t["blocks"] + t["level"]), u64(frame + t["value_stack"])]
            slot = u64(seen[2] + 8 * (seen[1] - 1))
            return seen, frame, u64(slot + LAYOUT["locks"]["method_self"]) == id(manager)

    seen, frame, is_manager = blocks()
    code = blocks.__code__
    slots = code.co_nlocals + len(code.co_cellvars) + len(code.co_freevars)
    check("evaluation.block_count", seen[0], 1)
    check("evaluation.level", seen[1], 1)
    check("evaluation.value_stack", seen[2], frame + FRAME["size"] + 8 * slots)
    check("evaluation: what the block keeps", is_manager, True)


# --- Tasks ----------------------------------------------------------------------------------------------------------


def check_tasks():
    check("asyncio, from 3.8 on", LAYOUT["asyncio"] is not None, sys.version_info >= (3, 8))
    if LAYOUT["asyncio"] is not None:
        # In a file of its own: older versions can't parse coroutines.
        import layout_probe_tasks

        layout_probe_tasks.run(sys.modules[__name__])


def check_collector():
    t = LAYOUT["collector"]
    check("collector, from 3.9 on", t is not None, sys.version_info >= (3, 9) and not LAYOUT["free_threaded"])
    if t is None:
        return
    import gc

    kept = [[], {}]
    gc.collect()
    interpreter = u64(thread_state() + LAYOUT["thread"]["interp"])
    seen = set()
    heads = [interpreter + t["generations"] + index * t["generation_size"] for index in range(3)]
    for head in heads + [interpreter + t["permanent"]]:
        at = u64(head) & ~3
        while at != head:
            seen.add(at + t["head_size"])
            at = u64(at) & ~3
    check("collector.generations", id(kept) in seen and len(seen) > 1000, True)


# --- _Py_DebugOffsets -----------------------------------------------------------------------------------------------


def check_debug_offsets():
    positions = GIVEN["positions"]
    check("_Py_DebugOffsets, from 3.13 on", positions is not None, sys.version_info >= (3, 13))
    if positions is None:
        return
    base = runtime()
    check("_Py_DebugOffsets.cookie", ctypes.string_at(base, 8), b"xdebugpy")
    check("_Py_DebugOffsets.version", u64(base + 8), sys.hexversion)
    stated = {}
    for key, position in positions.items():
        if key not in ("minor", "size") and position is not None:
            stated[key] = u64(base + position)
    t, i, c, d, u = (LAYOUT[part] for part in ("thread", "interpreter", "code", "dict", "unicode"))
    gil = stated["interpreter_gil_runtime_state"]
    table = {
        "free_threaded": int(LAYOUT["free_threaded"]),
        "runtime_size": LAYOUT["runtime"]["size"],
        "runtime_interpreters_head": LAYOUT["runtime"]["interpreters_head"],
        "interpreter_size": i["size"],
        "interpreter_id": i["id"],
        "interpreter_next": i["next"],
        "interpreter_threads_head": i["threads_head"],
        "interpreter_imports_modules": i["modules"],
        "interpreter_ceval_gil": i["gil"],
        # These two are stated from the start of the interpreter state, not of the GIL's struct.
        "interpreter_gil_runtime_state_locked": gil + LAYOUT["gil"]["locked"],
        "interpreter_gil_runtime_state_holder": gil + LAYOUT["gil"]["last_holder"],
        "thread_size": t["size"],
        "thread_next": t["next"],
        "thread_interp": t["interp"],
        "thread_current_frame": t["top"]["field"],
        "thread_thread_id": t["thread_id"],
        "thread_native_thread_id": t["native_thread_id"],
        "thread_datastack_chunk": t["datastack_chunk"],
        # sizeof() of the struct, whose last member is an array of one.
        "frame_size": FRAME["size"] + 8,
        "frame_previous": FRAME["previous"],
        "frame_executable": FRAME["code"],
        "frame_instr_ptr": FRAME["instruction"],
        "frame_localsplus": FRAME["size"],
        "frame_owner": FRAME["owner"],
        "frame_tlbc_index": FRAME["tlbc_index"] or 0,
        "code_size": c["size"] + 8,
        "code_filename": c["filename"],
        "code_name": c["name"],
        "code_qualname": c["qualname"],
        "code_linetable": c["linetable"],
        "code_firstlineno": c["firstlineno"],
        "code_co_code_adaptive": c["bytecode"],
        "code_co_tlbc": c["tlbc"] or 0,
        "object_ob_type": LAYOUT["object"]["ob_type"],
        "type_tp_name": LAYOUT["type_object"]["name"],
        "type_tp_flags": LAYOUT["type_object"]["flags"],
        "dict_ma_keys": d["keys"],
        "dict_ma_values": d["values"],
        "long_lv_tag": LAYOUT["int"]["tag"],
        "long_ob_digit": LAYOUT["int"]["digits"],
        "bytes_ob_size": LAYOUT["object"]["ob_size"],
        "bytes_ob_sval": LAYOUT["bytes"]["data"],
        "unicode_state": u["state"],
        "unicode_length": u["length"],
        "unicode_asciiobject_size": u["ascii_size"],
        "code_localsplusnames": LAYOUT["locals"]["names"]["names"],
        "code_localspluskinds": LAYOUT["locals"]["names"]["kinds"],
        "list_ob_item": LAYOUT["values"]["list_items"],
        "tuple_ob_item": LAYOUT["values"]["tuple_items"],
        "float_ob_fval": LAYOUT["values"]["float"],
    }
    # The sizes of another patch version, or of a build with the JIT, whose flags no header states, may differ from the
    # table's: that is what the statements are for.
    flags = sysconfig.get_config_var("PY_CORE_CFLAGS") or ""
    alike = GIVEN["source"] == "%d.%d.%d" % sys.version_info[:3] and "_Py_TIER2" not in flags
    for key in sorted(stated):
        if key == "interpreter_gil_runtime_state":
            check(key + " inside the interpreter state", 0 < gil < stated["interpreter_size"], True)
        elif stated[key] != table[key] and not alike:
            print("  note: %s is %d, in the table of %s %d" % (key, stated[key], GIVEN["source"], table[key]))
        else:
            check("_Py_DebugOffsets " + key, stated[key], table[key])


def main():
    for step in (
        check_object_and_type,
        check_text,
        check_bytes,
        check_int,
        check_dict,
        check_instance,
        check_code,
        check_states,
        check_more_interpreters,
        check_frames,
        check_last_instruction,
        check_locks,
        check_evaluation,
        check_tasks,
        check_collector,
        check_debug_offsets,
    ):
        try:
            step()
        except Exception as error:
            FAILED.append(step.__name__)
            print("  %s: %s: %s" % (step.__name__, type(error).__name__, error))
            import traceback
            traceback.print_exc()
    kind = "t" if LAYOUT["free_threaded"] else ""
    version = "%d.%d.%d%s" % (sys.version_info[:3] + (kind,))
    print("%s, table of %s: %d checks passed, %d failed" % (version, GIVEN["source"], len(PASSED), len(FAILED)))
    sys.stdout.flush()
    return 1 if FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
