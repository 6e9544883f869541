//! Weaving a whole process: interpreters, threads, names and stacks, with what must be read back from them.

use std::collections::HashMap;
use std::rc::Rc;

use arbitrary::{Result, Unstructured};
use stuckspy::model::{Address, Frame, FrameKind, RuntimeInfo};
use stuckspy::python::find_line;
use stuckspy::python::layout::{FrameLayout, Layout, TopFrame};
use stuckspy::python::runtime::{Root, Runtime};

use crate::memory::FuzzMemory;
use crate::weave::{Weaver, any_text, rarely};

/// How far into a thread's descriptor its number stands.
const TID_IN_DESCRIPTOR: i64 = 720;
/// Bytes of a function's bytecode.
const BODY: u64 = 64;
/// The first kernel thread's number; larger than any other small number in the process.
const FIRST_TID: i32 = 100_000;

/// A process as the fuzzer has made it.
pub struct Process {
    /// What is known of its Python.
    pub runtime: Runtime,
    /// Its memory.
    pub memory: FuzzMemory,
    /// Its threads.
    pub tids: Vec<i32>,
    /// What must be read, unless some of it was spoilt.
    pub expected: Option<Vec<ExpectedInterpreter>>,
    /// Where the pieces of data were put.
    pub data: Vec<Address>,
}

/// What must be read of an interpreter.
#[derive(Debug)]
pub struct ExpectedInterpreter {
    /// Its `PyInterpreterState`.
    pub address: Address,
    /// Its number.
    pub id: i64,
    /// Names by pthread_t.
    pub names: HashMap<u64, String>,
    /// Oldest first.
    pub threads: Vec<ExpectedThread>,
    /// Whether it has a GIL, and who holds it.
    pub gil: Option<Option<Address>>,
}

/// What must be read of a thread.
#[derive(Debug)]
pub struct ExpectedThread {
    /// Its `PyThreadState`.
    pub address: Address,
    /// The kernel's number for it.
    pub tid: i32,
    /// Innermost first.
    pub frames: Vec<Frame>,
}

/// A code object.
struct Code {
    address: Address,
    function: String,
    file: String,
    first_line: i32,
    table: Rc<[u8]>,
    bytecode: [Address; 2],
    first_traceable: i32,
}

impl Code {
    /// The same at another address.
    fn copy(&self, weaver: &mut Weaver<'_>) -> Code {
        let layout = &weaver.layout.code;
        let body = layout
            .bytecode
            .map_or(0, |bytecode| bytecode.offset() + BODY);
        let address = weaver.copy(self.address, u64::from(layout.size).max(body));
        let distance = address.0 - self.address.0;
        let [start, copy] = self.bytecode;
        let moved = Address(start.0 + distance);
        Code {
            address,
            bytecode: [moved, if copy == start { moved } else { copy }],
            table: self.table.clone(),
            function: self.function.clone(),
            file: self.file.clone(),
            ..*self
        }
    }
}

/// What a process is woven with.
struct Loom<'l, 'u, 'd> {
    weaver: Weaver<'l>,
    u: &'u mut Unstructured<'d>,
    /// Whether lists may be as long as memory allows.
    is_large: bool,
    /// Whether something was woven that can be read in part only.
    is_partial: bool,
}

impl Process {
    /// A process with the given layout, made of the rest of the fuzzer's bytes. `head` is what its runtime starts with,
    /// `data` is put elsewhere. In a large one, lists may be as long as limits are.
    pub fn weave(
        layout: &Layout,
        head: &[u8],
        data: &[&[u8]],
        is_large: bool,
        u: &mut Unstructured<'_>,
    ) -> Result<Process> {
        let mut loom = Loom {
            weaver: Weaver::new(layout),
            u,
            is_large,
            is_partial: false,
        };
        let Woven {
            root,
            current_thread,
            gil_lock,
            tids,
            expected,
        } = loom.runtime(head)?;
        let data = data
            .iter()
            .map(|piece| loom.weaver.place_bytes(piece))
            .collect();
        let Loom {
            mut weaver,
            u,
            is_partial,
            ..
        } = loom;
        let is_spoilt = weaver.spoil(u, 8)? || is_partial;
        if let Root::Runtime(address) = root {
            weaver.write(address, head);
        }
        let runtime = Runtime {
            layout: layout.clone(),
            root,
            current_thread,
            gil_lock,
            data: Vec::new(),
            info: RuntimeInfo {
                kind: "cpython",
                version: String::new(),
                free_threaded: layout.free_threaded,
                found_by: "fuzzer",
                image: String::new(),
            },
        };
        Ok(Process {
            runtime,
            memory: weaver.finish(u)?,
            tids,
            expected: (!is_spoilt).then_some(expected),
            data,
        })
    }
}

/// What a runtime is found by, and what must be read of it.
struct Woven {
    root: Root,
    current_thread: Option<Address>,
    gil_lock: Option<Address>,
    tids: Vec<i32>,
    expected: Vec<ExpectedInterpreter>,
}

impl Loom<'_, '_, '_> {
    /// Whether to make something large here, which may then be read in part only.
    fn is_large(&mut self) -> Result<bool> {
        let is_large = self.is_large && rarely(self.u, 16)?;
        self.is_partial |= is_large;
        Ok(is_large)
    }

    fn text(&mut self, text: &str) -> Result<Address> {
        let form = self.u.arbitrary()?;
        Ok(self.weaver.text(text, form))
    }

    fn runtime(&mut self, head: &[u8]) -> Result<Woven> {
        let layout = self.weaver.layout;
        let start = match &layout.runtime {
            Some(runtime) => {
                let gil = layout.gil.as_ref().zip(runtime.gil);
                let gil_end = gil.map_or(0, |(gil, at)| at.offset() + u64::from(gil.size));
                let end = runtime
                    .interpreters_head
                    .end()
                    .max(runtime.interpreters_main.end());
                self.weaver
                    .place(gil_end.max(end as u64).max(head.len() as u64))
            }
            None => self.weaver.place(8),
        };
        let is_embedded = |runtime: &stuckspy::python::layout::RuntimeLayout| {
            layout.gil.as_ref().zip(runtime.gil)
        };
        let shared_gil = layout
            .runtime
            .as_ref()
            .and_then(is_embedded)
            .map(|(gil, at)| (gil, Address(start.0 + at.offset())));
        let mut tids = Vec::new();
        let mut expected = Vec::new();
        let mut newest = Address::NULL;
        let count = self.u.int_in_range(1..=3)?;
        for id in 0..count {
            let (interpreter, own_gil) = self.interpreter(id, newest, &mut tids)?;
            newest = interpreter.address;
            expected.push(ExpectedInterpreter {
                gil: own_gil,
                ..interpreter
            });
        }
        let holder = |this: &mut Self| -> Result<Option<Address>> {
            let states: Vec<Address> = expected
                .iter()
                .flat_map(|interpreter| &interpreter.threads)
                .map(|thread| thread.address)
                .collect();
            Ok(if states.is_empty() || this.u.arbitrary()? {
                None
            } else {
                Some(*this.u.choose(&states)?)
            })
        };
        let (mut current_thread, mut gil_lock) = (None, None);
        if let Some((gil, at)) = shared_gil {
            let holder = holder(self)?;
            self.weaver
                .set(at, gil.last_holder, holder.unwrap_or_default());
            self.weaver.set(at, gil.locked, i32::from(holder.is_some()));
            expected
                .iter_mut()
                .for_each(|interpreter| interpreter.gil = Some(holder));
        } else if layout.gil.is_none() {
            let holder = holder(self)?;
            let at = self.weaver.place(8);
            self.weaver.set_at(at, 0, holder.unwrap_or_default());
            current_thread = Some(at);
            if self.u.arbitrary()? {
                let lock = self.weaver.place(32);
                let at = self.weaver.place(8);
                self.weaver.set_at(at, 0, lock);
                gil_lock = Some(at);
            }
            expected
                .iter_mut()
                .for_each(|interpreter| interpreter.gil = Some(holder));
        }
        let root = match &layout.runtime {
            Some(runtime) => {
                let main = expected.first().map_or(Address::NULL, |main| main.address);
                self.weaver.set(start, runtime.interpreters_main, main);
                self.weaver.set(start, runtime.interpreters_head, newest);
                Root::Runtime(start)
            }
            None => {
                self.weaver.set_at(start, 0, newest);
                Root::Head(start)
            }
        };
        Ok(Woven {
            root,
            current_thread,
            gil_lock,
            tids,
            expected,
        })
    }

    fn interpreter(
        &mut self,
        number: i64,
        next: Address,
        tids: &mut Vec<i32>,
    ) -> Result<(ExpectedInterpreter, Option<Option<Address>>)> {
        let layout = self.weaver.layout;
        let members = &layout.interpreter;
        let end = members
            .next
            .end()
            .max(members.threads_head.end())
            .max(members.modules.end())
            .max(members.id.map_or(0, |id| id.end()))
            .max(members.gil.map_or(0, |gil| gil.end()));
        let address = self.weaver.place(end as u64);
        let mut threads = Vec::new();
        let mut actives = Vec::new();
        let mut names = HashMap::new();
        let mut newest = Address::NULL;
        for _ in 0..self.u.int_in_range(0..=3)? {
            let tid = FIRST_TID + tids.len() as i32;
            let (thread, thread_id) = self.thread(address, newest, tid)?;
            tids.push(tid);
            newest = thread.address;
            threads.push(thread);
            if !rarely(self.u, 8)? {
                let name = any_text(self.u)?;
                actives.push(self.active(thread_id, &name)?);
                names.insert(thread_id, name);
            }
        }
        if let Some(last) = actives.last()
            && self.is_large()?
        {
            let more = 1 << self.u.int_in_range(4..=15)?;
            actives.extend(vec![*last; more]);
        }
        let modules = self.modules(&actives, &mut names)?;
        if let Some(id) = members.id {
            self.weaver.set(address, id, number);
        }
        let mut gil = None;
        if let (Some(field), Some(gil_layout)) = (members.gil, &layout.gil) {
            let at = self.weaver.place(u64::from(gil_layout.size));
            let holder = match self.u.int_in_range(0..=2)? {
                0 if !threads.is_empty() => Some(self.u.choose(&threads)?.address),
                _ => None,
            };
            let locked = if holder.is_some() {
                1
            } else {
                -i32::from(self.u.arbitrary::<bool>()?)
            };
            self.weaver
                .set(at, gil_layout.last_holder, holder.unwrap_or_default());
            self.weaver.set(at, gil_layout.locked, locked);
            self.weaver.set(address, field, at);
            gil = (locked >= 0).then_some(holder);
        }
        self.weaver.set(address, members.modules, modules);
        self.weaver.set(address, members.threads_head, newest);
        self.weaver.set(address, members.next, next);
        let expected = ExpectedInterpreter {
            address,
            id: number,
            names,
            threads,
            gil: None,
        };
        Ok((expected, gil))
    }

    /// An entry of `threading._active`.
    fn active(&mut self, thread_id: u64, name: &str) -> Result<(Address, Address)> {
        let attribute = if self.weaver.layout.version.0 == 2 {
            "_Thread__name"
        } else {
            "_name"
        };
        let form = self.u.arbitrary()?;
        let ident = self.weaver.int(thread_id, false, form);
        let other = (self.text("_xxxx")?, ident);
        let mut attributes = vec![other];
        if self.is_large()? {
            attributes = vec![other; 1 << self.u.int_in_range(4..=15)?];
        }
        attributes.push((self.text(attribute)?, self.text(name)?));
        Ok((
            ident,
            self.weaver.instance(&attributes, self.u.arbitrary()?),
        ))
    }

    /// `sys.modules`.
    fn modules(
        &mut self,
        actives: &[(Address, Address)],
        names: &mut HashMap<u64, String>,
    ) -> Result<Address> {
        let mut modules = vec![(self.text("sys")?, Address::NULL)];
        if rarely(self.u, 16)? {
            names.clear();
        } else {
            let active = self.weaver.dict(actives, self.u.arbitrary()?);
            let attributes = [(self.text("_active")?, active)];
            let threading = self.weaver.instance(&attributes, self.u.arbitrary()?);
            modules.push((self.text("threading")?, threading));
        }
        Ok(self.weaver.dict(&modules, self.u.arbitrary()?))
    }

    fn thread(
        &mut self,
        interpreter: Address,
        next: Address,
        tid: i32,
    ) -> Result<(ExpectedThread, u64)> {
        let layout = &self.weaver.layout.thread;
        let address = self.weaver.place(u64::from(layout.size));
        let descriptor = self.weaver.place(1024);
        self.weaver.set_at(descriptor, TID_IN_DESCRIPTOR, tid);
        let (top, frames) = self.stack()?;
        self.weaver.set(address, layout.interp, interpreter);
        self.weaver.set(address, layout.thread_id, descriptor.0);
        if let Some(field) = layout.native_thread_id {
            // After a fork it can be the parent's.
            let stated = if rarely(self.u, 8)? { 7 } else { tid as u64 };
            self.weaver.set(address, field, stated);
        }
        match layout.top {
            TopFrame::Direct(field) => self.weaver.set(address, field, top),
            TopFrame::CFrame {
                cframe,
                current_frame,
            } => {
                let at = self.weaver.place(current_frame.end() as u64);
                self.weaver.set(at, current_frame, top);
                self.weaver.set(address, cframe, at);
            }
        }
        self.weaver.set(address, layout.next, next);
        let thread = ExpectedThread {
            address,
            tid,
            frames,
        };
        Ok((thread, descriptor.0))
    }

    /// A stack: its innermost frame, and all of them, innermost first.
    fn stack(&mut self) -> Result<(Address, Vec<Frame>)> {
        let mut codes: Vec<Code> = Vec::new();
        let mut frames = Vec::new();
        let mut top = Address::NULL;
        let name = any_text(self.u)?;
        let globals = self.globals(&name)?;
        let (known, unknown) = ((globals, Some(name.as_str())), (Address::NULL, None));
        let mut outermost = None;
        for _ in 0..self.u.int_in_range(0..=5)? {
            if codes.is_empty() || self.u.arbitrary()? {
                codes.push(self.code()?);
            }
            let code = self.u.choose(&codes)?;
            let module = if rarely(self.u, 8)? { unknown } else { known };
            top = self.call(code, module, top, &mut frames)?;
            outermost = outermost.or(Some(top));
            if self.is_large()? {
                // As many calls of as many functions, which have their table of lines in common.
                for _ in 0..1 << self.u.int_in_range(1..=12)? {
                    let code = code.copy(&mut self.weaver);
                    top = self.call(&code, module, top, &mut frames)?;
                }
            }
        }
        if let Some(outermost) = outermost
            && self.is_large()?
        {
            match &self.weaver.layout.frame {
                FrameLayout::Object(members) => self.weaver.set(outermost, members.back, top),
                FrameLayout::Interpreter(members) => {
                    self.weaver.set(outermost, members.previous, top)
                }
            }
        }
        frames.reverse();
        Ok((top, frames))
    }

    /// One call: its frame; what is to be shown of it goes to `frames`.
    fn call(
        &mut self,
        code: &Code,
        module: (Address, Option<&str>),
        caller: Address,
        frames: &mut Vec<Frame>,
    ) -> Result<Address> {
        let (globals, module) = module;
        let (weaver, u) = (&mut self.weaver, &mut *self.u);
        let (at, line) = match &weaver.layout.frame {
            FrameLayout::Object(_) => {
                let (at, line) = frame_object(weaver, u, code, globals, caller)?;
                (at, Some(line))
            }
            FrameLayout::Interpreter(_) => interpreter_frame(weaver, u, code, globals, caller)?,
        };
        frames.extend(line.map(|line| Frame {
            function: code.function.as_str().into(),
            file: code.file.as_str().into(),
            line,
            first_line: u32::try_from(code.first_line).ok(),
            module: module.map(Into::into),
            kind: FrameKind::Python,
            locals: None,
        }));
        Ok(at)
    }

    fn globals(&mut self, name: &str) -> Result<Address> {
        let entries = [
            (self.text("__doc__")?, Address::NULL),
            (self.text("__name__")?, self.text(name)?),
        ];
        Ok(self.weaver.dict(&entries, self.u.arbitrary()?))
    }

    fn code(&mut self) -> Result<Code> {
        let layout = &self.weaver.layout.code;
        let (function, file) = (any_text(self.u)?, any_text(self.u)?);
        let mut table: Vec<u8> = (0..self.u.int_in_range(0..=24)?)
            .map(|_| self.u.arbitrary())
            .collect::<Result<_>>()?;
        if self.is_large()? {
            let size: usize = 1 << self.u.int_in_range(8..=20)?;
            table = table.repeat(size.checked_div(table.len()).unwrap_or(0));
        }
        let first_line = if rarely(self.u, 16)? {
            self.u.arbitrary()?
        } else {
            i32::from(self.u.arbitrary::<u16>()?)
        };
        let first_traceable = i32::from(self.u.int_in_range(0_u8..=3)?);
        let function_at = self.text(&function)?;
        let file_at = self.text(&file)?;
        let table_at = self.weaver.bytes(&table);
        let ob_type = self.weaver.static_type("code");
        let end = layout
            .bytecode
            .map_or(0, |bytecode| bytecode.offset() + BODY);
        let address = self.weaver.place(u64::from(layout.size).max(end));
        match layout.qualname {
            Some(qualname) => {
                let name = self.text("name")?;
                self.weaver.set(address, layout.name, name);
                self.weaver.set(address, qualname, function_at);
            }
            None => self.weaver.set(address, layout.name, function_at),
        }
        self.weaver.set(address, layout.filename, file_at);
        self.weaver.set(address, layout.linetable, table_at);
        self.weaver.set(address, layout.firstlineno, first_line);
        if let Some(field) = layout.first_traceable {
            self.weaver.set(address, field, first_traceable);
        }
        let start = layout.bytecode.map_or(Address::NULL, |bytecode| {
            Address(address.0 + bytecode.offset())
        });
        let mut bytecode = [start; 2];
        if let Some(field) = layout.tlbc {
            let array = self.weaver.place(24);
            let copy = self.weaver.place(BODY);
            self.weaver.set_at(array, 0, 2_u64);
            self.weaver.set_at(array, 8, start);
            self.weaver.set_at(array, 16, copy);
            self.weaver.set(address, field, array);
            bytecode[1] = copy;
        }
        self.weaver
            .set(address, self.weaver.layout.object.ob_type, ob_type);
        Ok(Code {
            address,
            function,
            file,
            first_line,
            table: table.into(),
            bytecode,
            first_traceable,
        })
    }
}

fn frame_object(
    weaver: &mut Weaver<'_>,
    u: &mut Unstructured<'_>,
    code: &Code,
    globals: Address,
    back: Address,
) -> Result<(Address, Option<u32>)> {
    let layout = weaver.layout;
    let FrameLayout::Object(members) = &layout.frame else {
        return Ok((Address::NULL, None));
    };
    let ob_type = weaver.static_type("frame");
    let at = weaver.place(u64::from(members.size));
    let is_traced = rarely(u, 8)?;
    let lasti = i32::from(u.arbitrary::<i8>()?);
    let is_new = layout.version >= (3, 10);
    // 0 means that it is not stated, from 3.10 on.
    let lineno = if is_new && !is_traced {
        0
    } else {
        i32::from(u.arbitrary::<i16>()?) | 1
    };
    let trace = if is_traced {
        globals_or(ob_type, globals)
    } else {
        Address::NULL
    };
    weaver.set(at, layout.object.ob_type, ob_type);
    weaver.set(at, members.back, back);
    weaver.set(at, members.code, code.address);
    weaver.set(at, members.globals, globals);
    weaver.set(at, members.trace, trace);
    weaver.set(at, members.lasti, lasti);
    weaver.set(at, members.lineno, lineno);
    let line = if is_traced {
        u32::try_from(lineno).ok()
    } else {
        find_line(
            layout.code.linetable_format,
            &code.table,
            code.first_line,
            lasti,
        )
    };
    Ok((at, line))
}

/// Anything that is not null.
fn globals_or(other: Address, globals: Address) -> Address {
    if globals.is_null() { other } else { globals }
}

/// The frame, and its line if it is one to be shown.
fn interpreter_frame(
    weaver: &mut Weaver<'_>,
    u: &mut Unstructured<'_>,
    code: &Code,
    globals: Address,
    previous: Address,
) -> Result<(Address, Option<Option<u32>>)> {
    let layout = weaver.layout;
    let FrameLayout::Interpreter(members) = &layout.frame else {
        return Ok((Address::NULL, None));
    };
    let at = weaver.place(u64::from(members.size));
    let owner = u.int_in_range(0..=4)?;
    let unit = i32::from(u.int_in_range(-1_i8..=30)?);
    let copy = match members.tlbc_index {
        Some(field) => {
            let copy = usize::from(u.arbitrary::<bool>()?);
            weaver.set(at, field, copy as i32);
            copy
        }
        None => 0,
    };
    let start = code.bytecode[copy];
    let tag = if layout.version >= (3, 14) {
        u.int_in_range(0..=3)?
    } else {
        0
    };
    weaver.set(at, members.code, Address(code.address.0 | tag));
    weaver.set(at, members.globals, globals);
    weaver.set_at(
        at,
        members.instruction.offset() as i64,
        start.0.wrapping_add_signed(2 * i64::from(unit)),
    );
    weaver.set(at, members.owner, owner);
    weaver.set(at, members.previous, previous);
    let is_hidden = members
        .first_hidden_owner
        .is_some_and(|first| owner >= first);
    let is_incomplete = owner != members.owned_by_generator && unit < code.first_traceable;
    let line = find_line(
        layout.code.linetable_format,
        &code.table,
        code.first_line,
        unit,
    );
    Ok((at, (!is_hidden && !is_incomplete).then_some(line)))
}
