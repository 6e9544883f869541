//! Whether all references to an object were found: then nobody else can reach it, now or later.
//!
//! An object can be reached by whoever has a reference to it. Where as many references were found as it counts, and as many to each object
//! that leads to it, all of them are known, and so are the threads that have them. Weak references are not counted: an object that has some can be
//! reached by others.

use rustc_hash::{FxHashMap, FxHashSet};

use super::graph::Graph;
use super::references::Strength;
use super::types::Kind;
use crate::model::Address;
use crate::python::object::{ObjectReader, shift};

/// Most objects that lead to one whose references are counted.
const MAX_LEADING: usize = 10_000;
/// From here on a count is none: immortal objects have such (3.12+: at least 2^30, `Include/refcount.h`).
const MANY: u64 = 1 << 30;

/// The references to an object, and to all that leads to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// How many references the object counts; `None` where that is not known.
    pub counted: Option<u64>,
    /// How many of them were found.
    pub found: u64,
    /// Whether all were, and all to each object that leads to it.
    pub is_closed: bool,
    /// The threads whose frames have them, by their places among the stacks.
    pub threads: Vec<usize>,
}

impl Graph<'_> {
    /// The account of `object`, to which `further` references are known beside those in the graph. Counts are read through `now`, which must
    /// not remember what was read before: a reference that has moved while the graph was walked makes them differ.
    pub fn account(&mut self, object: Address, further: u64, now: ObjectReader<'_>) -> Account {
        let Some(target) = self.places.get(&object).copied() else {
            return Account::default();
        };
        let leading = self.leading_to(target, |strength| strength == Strength::Owned);
        let roots = self.roots.iter();
        let owned =
            roots.filter(|root| root.strength == Strength::Owned && leading.contains(&root.to));
        let mut found: FxHashMap<u32, u64> = FxHashMap::default();
        for place in &leading {
            let edges = self.edges_to(*place);
            let counted = edges.filter(|edge| edge.strength != Strength::Loose);
            found.insert(*place, counted.count() as u64);
        }
        for root in owned.clone() {
            *found.entry(root.to).or_default() += 1;
        }
        *found.entry(target).or_default() += further;
        let mut threads: Vec<usize> = owned.map(|root| root.thread).collect();
        threads.sort_unstable();
        threads.dedup();
        Account {
            counted: count_of(now, object),
            found: found.get(&target).copied().unwrap_or(0),
            is_closed: leading.len() <= MAX_LEADING && self.is_closed(&leading, &found, now),
            threads,
        }
    }

    fn is_closed(
        &mut self,
        leading: &FxHashSet<u32>,
        found: &FxHashMap<u32, u64>,
        now: ObjectReader<'_>,
    ) -> bool {
        leading.iter().all(|place| {
            let object = usize::try_from(*place)
                .ok()
                .and_then(|place| self.objects.get(place).copied());
            let Some(object) = object else {
                return false;
            };
            let Some(info) = self.type_of(object) else {
                return false;
            };
            // All threads are in the registry of `threading`, types and modules in that of the interpreter.
            let is_registered = info.is_thread || info.kind == Kind::Shared;
            let is_counted = count_of(now, object) == found.get(place).copied();
            !is_registered && is_counted && !has_weak_references(now, object, info.weak_list)
        })
    }
}

/// How many references an object counts; `None` where it does not count them, or not all.
fn count_of(reader: ObjectReader<'_>, object: Address) -> Option<u64> {
    let count = reader.field(object, reader.layout.references.count?).ok()?;
    // The upper half has flags from 3.14 on, and is not counted with from 3.12 on.
    let count = match reader.layout.version >= (3, 12) {
        true => count & u64::from(u32::MAX),
        false => count,
    };
    (count < MANY).then_some(count)
}

/// Whether somebody may reach the object through a weak reference; also where that can't be read.
fn has_weak_references(reader: ObjectReader<'_>, object: Address, weak_list: i64) -> bool {
    if weak_list == 0 {
        return false;
    }
    let first = shift(object, weak_list)
        .ok()
        .and_then(|at| reader.memory.read_address(at).ok());
    first != Some(Address::NULL)
}
