//! The part of the object graph that threads reach from their frames, each object once, with the references between them.

use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::references::{References, Strength, find_references};
use super::roots::StackReferences;
use super::types::{Kind, TypeInfo};
use crate::model::Address;
use crate::python::object::{ObjectError, ObjectReader, offset};

/// Most references between the objects of one graph.
const MAX_EDGES: usize = 1 << 20;
/// After so many objects it is checked whether the time is over.
const ROUND: usize = 64;
/// How far from the globals of a module an object may be to be told to be reachable by everybody.
const MAX_GLOBAL_DEPTH: u8 = 4;
/// Most types that are known at once.
const MAX_TYPES: usize = 16_384;

/// What a walk may take.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// Most objects that are looked into.
    pub objects: usize,
    /// Whether the time is over.
    pub is_over: &'a dyn Fn() -> bool,
}

/// A reference from one object to another, by their places in the graph.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) strength: Strength,
}

/// A reference from a frame of a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub(super) thread: usize,
    pub(super) to: u32,
    pub(super) strength: Strength,
}

/// What threads reach.
pub struct Graph<'a> {
    pub(super) reader: ObjectReader<'a>,
    pub(super) objects: Vec<Address>,
    pub(super) places: FxHashMap<Address, u32>,
    pub(super) edges: Vec<Edge>,
    pub(super) roots: Vec<Root>,
    /// The places of edges in the order of where they lead to, and where in that those to each object begin.
    incoming: Vec<u32>,
    starts: Vec<u32>,
    types: FxHashMap<Address, Option<Rc<TypeInfo>>>,
    /// Dicts that are globals: what they lead to, everybody reaches.
    globals: FxHashSet<Address>,
    thread_dicts: FxHashSet<Address>,
    is_cut: bool,
}

impl<'a> Graph<'a> {
    /// The graph of what the stacks of some threads refer to.
    pub fn walk(
        reader: ObjectReader<'a>,
        stacks: &[Option<&StackReferences>],
        limits: Limits<'_>,
    ) -> Graph<'a> {
        let mut graph = Graph::empty(reader);
        for stack in stacks.iter().flatten() {
            let globals = stack.frames.iter().map(|frame| frame.globals);
            graph.globals.extend(globals);
            graph.is_cut |= stack.is_cut;
        }
        for (thread, stack) in stacks.iter().enumerate() {
            let frames = stack.iter().flat_map(|stack| &stack.frames);
            for frame in frames {
                let owned = frame.owned.iter().map(|to| (*to, Strength::Owned));
                let loose = frame.loose.iter().map(|to| (*to, Strength::Loose));
                for (to, strength) in owned.chain(loose) {
                    let Some(to) = graph.place_of(to, limits) else {
                        continue;
                    };
                    graph.roots.push(Root {
                        thread,
                        to,
                        strength,
                    });
                }
            }
        }
        let mut references = References::default();
        let mut next = 0;
        while let Some(object) = graph.objects.get(next).copied() {
            if next.is_multiple_of(ROUND) && (limits.is_over)() {
                graph.is_cut = true;
                break;
            }
            graph.visit(next, object, &mut references, limits);
            next += 1;
        }
        graph.index_edges();
        graph
    }

    /// Puts the edges in the order of where they lead to (a counting sort).
    fn index_edges(&mut self) {
        let mut starts = vec![0_u32; self.objects.len() + 1];
        for edge in &self.edges {
            starts[edge.to as usize + 1] += 1;
        }
        for index in 1..starts.len() {
            starts[index] += starts[index - 1];
        }
        let mut next = starts.clone();
        let mut incoming = vec![0_u32; self.edges.len()];
        for (index, edge) in self.edges.iter().enumerate() {
            let slot = &mut next[edge.to as usize];
            // There are at most `MAX_EDGES`.
            incoming[*slot as usize] = index as u32;
            *slot += 1;
        }
        (self.starts, self.incoming) = (starts, incoming);
    }

    /// The references to the object at `place`.
    pub(super) fn edges_to(&self, place: u32) -> impl Iterator<Item = &Edge> {
        let at = place as usize;
        let range = match (self.starts.get(at), self.starts.get(at + 1)) {
            (Some(from), Some(to)) => *from as usize..*to as usize,
            _ => 0..0,
        };
        let incoming = self.incoming.get(range).unwrap_or_default();
        incoming
            .iter()
            .filter_map(|edge| self.edges.get(*edge as usize))
    }

    fn empty(reader: ObjectReader<'a>) -> Graph<'a> {
        Graph {
            reader,
            objects: Vec::new(),
            places: FxHashMap::default(),
            edges: Vec::new(),
            roots: Vec::new(),
            incoming: Vec::new(),
            starts: Vec::new(),
            types: FxHashMap::default(),
            globals: FxHashSet::default(),
            thread_dicts: FxHashSet::default(),
            is_cut: false,
        }
    }

    /// Whether there is more than was looked into.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// How many objects it has.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether it has no object at all.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The place of an object, which is added if it is new; `None` where there is no room for it.
    fn place_of(&mut self, object: Address, limits: Limits<'_>) -> Option<u32> {
        if let Some(place) = self.places.get(&object) {
            return Some(*place);
        }
        let place = u32::try_from(self.objects.len()).ok();
        let Some(place) = place.filter(|_| self.objects.len() < limits.objects) else {
            self.is_cut = true;
            return None;
        };
        self.objects.push(object);
        self.places.insert(object, place);
        Some(place)
    }

    fn visit(
        &mut self,
        place: usize,
        object: Address,
        references: &mut References,
        limits: Limits<'_>,
    ) {
        if self.globals.contains(&object) {
            return;
        }
        let Some(info) = self.type_of(object) else {
            return;
        };
        let is_of_thread = self.thread_dicts.contains(&object);
        // What could not be read has fewer references than there are: then the account does not come out even.
        let read = find_references(self.reader, object, &info, is_of_thread, references);
        self.is_cut |= read.is_err() || references.is_cut;
        self.globals.extend(&references.globals);
        self.thread_dicts.extend(references.thread_dict);
        let Ok(from) = u32::try_from(place) else {
            return;
        };
        for (to, strength) in &references.found {
            if self.edges.len() >= MAX_EDGES {
                self.is_cut = true;
                return;
            }
            if let Some(to) = self.place_of(*to, limits) {
                self.edges.push(Edge {
                    from,
                    to,
                    strength: *strength,
                });
            }
        }
    }

    /// What is known of the type of an object; `None` for what is no object.
    pub(super) fn type_of(&mut self, object: Address) -> Option<Rc<TypeInfo>> {
        let address = self.reader.type_of(object).ok()?;
        if let Some(known) = self.types.get(&address) {
            return known.clone();
        }
        let info = TypeInfo::read(self.reader, address).ok().map(Rc::new);
        if self.types.len() < MAX_TYPES {
            self.types.insert(address, info.clone());
        }
        info
    }

    /// The objects that lead to the one at `target`, itself among them.
    pub(super) fn leading_to(
        &self,
        target: u32,
        counts: impl Fn(Strength) -> bool,
    ) -> FxHashSet<u32> {
        let mut found = FxHashSet::default();
        let mut open = vec![target];
        while let Some(at) = open.pop() {
            if found.insert(at) {
                let leading = self.edges_to(at).filter(|edge| counts(edge.strength));
                open.extend(leading.map(|edge| edge.from));
            }
        }
        found
    }

    /// The threads from whose frames a way leads to the object, by their places among the stacks.
    pub fn threads_reaching(&self, object: Address) -> Vec<usize> {
        let Some(target) = self.places.get(&object) else {
            return Vec::new();
        };
        let leading = self.leading_to(*target, |strength| strength != Strength::Private);
        let roots = self.roots.iter().filter(|root| leading.contains(&root.to));
        let mut threads: Vec<usize> = roots.map(|root| root.thread).collect();
        threads.sort_unstable();
        threads.dedup();
        threads
    }

    /// Whether the globals of a function that is on a stack lead to the object, or to what leads to it, within a few steps.
    pub fn is_in_globals(&mut self, object: Address, limits: Limits<'_>) -> bool {
        let Some(target) = self.places.get(&object).copied() else {
            return false;
        };
        // What leads there through a thread's own object leads to what is that thread's.
        let mut wanted: FxHashSet<Address> = FxHashSet::default();
        let mut open = vec![target];
        while let Some(at) = open.pop() {
            let object = usize::try_from(at).ok().and_then(|at| self.objects.get(at));
            let Some(object) = object.copied().filter(|object| wanted.insert(*object)) else {
                continue;
            };
            if self.type_of(object).is_none_or(|info| !info.is_thread) {
                let leading = self
                    .edges_to(at)
                    .filter(|edge| edge.strength != Strength::Private);
                open.extend(leading.map(|edge| edge.from));
            }
        }
        let mut open: Vec<Address> = self.globals.iter().copied().collect();
        open.sort_unstable();
        let mut seen: FxHashSet<Address> = open.iter().copied().collect();
        let registers: Vec<Address> = open.iter().flat_map(|at| self.registers(*at)).collect();
        seen.extend(registers);
        let mut references = References::default();
        for _ in 0..MAX_GLOBAL_DEPTH {
            let mut next = Vec::new();
            for at in std::mem::take(&mut open) {
                if (limits.is_over)() {
                    return false;
                }
                let Some(info) = self.type_of(at) else {
                    continue;
                };
                let inside = match info.kind {
                    Kind::Shared => self.dict_of(at, &info).into_iter().collect(),
                    _ => {
                        let read = find_references(self.reader, at, &info, false, &mut references);
                        match read {
                            Ok(()) => references.found.iter().map(|(to, _)| *to).collect(),
                            Err(_) => Vec::new(),
                        }
                    }
                };
                for to in inside {
                    // Lists of threads are kept to count and to end them, not to set what they wait for.
                    if self.type_of(to).is_some_and(|info| info.is_thread) {
                        continue;
                    }
                    if wanted.contains(&to) {
                        return true;
                    }
                    if seen.len() < limits.objects && seen.insert(to) {
                        next.push(to);
                    }
                }
            }
            open = next;
        }
        false
    }

    /// The registers of all threads that these globals have: what a thread has of its own, nobody takes from there.
    fn registers(&self, globals: Address) -> Vec<Address> {
        let value = |name| self.reader.dict_value(globals, name).ok().flatten();
        let module = value("__name__").and_then(|name| self.reader.text(name).ok());
        let names: &[&str] = match module.as_deref() {
            // `Lib/threading.py` (2.7, 3.6-3.15).
            Some("threading") => &["_active", "_limbo", "_dangling", "_shutdown_locks"],
            // `Lib/concurrent/futures/thread.py` (3.6-3.15).
            Some("concurrent.futures.thread") => &["_threads_queues"],
            _ => &[],
        };
        names.iter().filter_map(|name| value(name)).collect()
    }

    /// The dict of a module, or of a class in Python.
    fn dict_of(&self, object: Address, info: &TypeInfo) -> Option<Address> {
        let read = || -> Result<Address, ObjectError> {
            let size = u64::from(self.reader.layout.object.size);
            // `PyModuleObject.md_dict` is its first member (`Objects/moduleobject.c`, 2.7-3.15).
            let is_type = info.facts.flags & crate::python::object::FLAG_TYPE_SUBCLASS != 0
                || self.reader.type_name(info.facts.address)? != "module";
            match is_type {
                true => self
                    .reader
                    .pointer(object, self.reader.layout.values.type_dict),
                false => Ok(self
                    .reader
                    .memory
                    .read_address(offset(object, size)?)?
                    .untagged()),
            }
        };
        read().ok().filter(|dict| !dict.is_null())
    }
}
