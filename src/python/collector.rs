//! The objects that the collector of garbage knows: all that can be in a circle of references.

use zerocopy::FromBytes;

use super::layout::Field;
use super::object::{ObjectReader, offset};
use super::runtime::Interpreter;
use crate::model::Address;

/// Bits in the pointers of a head that are no part of them (`Include/internal/pycore_gc.h`, 3.9-3.15).
const FLAGS: u64 = 3;
/// How many generations there are.
const GENERATIONS: u64 = 3;
/// Bytes of a head, and of an object up to its type, together.
const MAX_START: usize = 64;

/// Calls `visit` with each object and its type, for at most `limit` objects; whether these were all.
///
/// Other threads may change the lists meanwhile: what is visited may be anything, and should be looked at as such.
pub fn visit_objects(
    reader: ObjectReader<'_>,
    interpreter: &Interpreter,
    limit: usize,
    visit: &mut dyn FnMut(Address, Address),
) -> bool {
    let Some(layout) = &reader.layout.collector else {
        return false;
    };
    let head_size = u64::from(layout.head_size);
    let type_at = head_size + reader.layout.object.ob_type.offset();
    let type_at = usize::try_from(type_at).unwrap_or(MAX_START);
    let mut start = [0; MAX_START];
    let Some(start) = start.get_mut(..type_at.saturating_add(8)) else {
        return false;
    };
    let generations = (0..GENERATIONS).map(|index| {
        let distance = index * u64::from(layout.generation_size);
        offset(interpreter.address, layout.generations.offset() + distance)
    });
    let permanent = offset(interpreter.address, layout.permanent.offset());
    let mut left = limit;
    for head in generations.chain([permanent]) {
        let Ok(head) = head else {
            return false;
        };
        let Ok(mut at) = reader.field(head, Field::<Address>::at(0)) else {
            return false;
        };
        at = Address(at.0 & !FLAGS);
        while at != head {
            if left == 0 || reader.memory.read(at, start).is_err() {
                return false;
            }
            left -= 1;
            let word = |at: usize| {
                start
                    .get(at..at + 8)
                    .and_then(|word| u64::read_from_bytes(word).ok())
            };
            let (Some(next), Some(of), Ok(object)) =
                (word(0), word(type_at), offset(at, head_size))
            else {
                return false;
            };
            visit(object, Address(of));
            at = Address(next & !FLAGS);
        }
    }
    true
}
