use super::*;
use crate::model::Address;
use crate::python::layout::Layout;
use crate::python::object::ObjectReader;
use crate::python::testing::{Builder, all_layouts};

const NEVER: Limits<'static> = Limits {
    objects: 10_000,
    is_over: &|| false,
};

/// The layouts of versions that count references in one place.
fn counting_layouts() -> Vec<&'static Layout> {
    let layouts = all_layouts().into_iter();
    layouts
        .filter(|layout| layout.references.count.is_some() && layout.version >= (3, 6))
        .collect()
}

fn builder(layout: &'static Layout) -> Builder {
    Builder::new(layout).with_types_of_types()
}

fn count(builder: &mut Builder, object: Address, references: u64) {
    let field = builder.layout.references.count.unwrap();
    builder.set(object, field, references);
}

/// A stack with one frame that owns these.
fn owns(objects: &[Address]) -> StackReferences {
    StackReferences {
        frames: vec![FrameReferences {
            owned: objects.iter().copied().collect(),
            ..FrameReferences::default()
        }],
        is_cut: false,
    }
}

fn reader<'a>(builder: &'a Builder) -> ObjectReader<'a> {
    ObjectReader {
        memory: builder,
        layout: builder.layout,
    }
}

/// An object in a tuple in a dict in a list, in a cell, and in a second thread's set.
#[test]
fn an_account_is_closed_when_each_reference_was_found() {
    for layout in counting_layouts() {
        let mut builder = builder(layout);
        let target = builder.sequence("tuple", &[]);
        let tuple = builder.sequence("tuple", &[target]);
        let key = builder.text("key");
        let dict = builder.dict(&[(key, tuple)]);
        let list = builder.sequence("list", &[dict]);
        let cell = builder.cell(target);
        let set = builder.set_of("set", &[target]);
        for (object, references) in [
            (target, 3),
            (tuple, 1),
            (dict, 1),
            (list, 2),
            (cell, 1),
            (set, 1),
        ] {
            count(&mut builder, object, references);
        }
        let (one, two) = (owns(&[list, cell, list]), owns(&[set]));
        let account = |builder: &Builder, further| {
            let reader = reader(builder);
            let mut graph = Graph::walk(reader, &[Some(&one), Some(&two)], NEVER);
            assert_eq!(graph.threads_reaching(target), [0, 1]);
            assert_eq!(graph.threads_reaching(cell), [0]);
            assert!(!graph.is_cut());
            graph.account(target, further, reader)
        };
        let found = account(&builder, 0);
        let version = layout.version;
        assert_eq!((found.counted, found.found), (Some(3), 3), "{version:?}");
        assert!(found.is_closed, "{version:?}");
        assert_eq!(found.threads, [0, 1]);
        // One more than there are, and one less.
        assert!(!account(&builder, 1).is_closed);
        count(&mut builder, target, 4);
        assert!(!account(&builder, 0).is_closed);
        assert!(account(&builder, 1).is_closed);
        // So it is with what leads to it.
        count(&mut builder, target, 3);
        count(&mut builder, dict, 2);
        assert!(!account(&builder, 0).is_closed);
        // An immortal object has no count.
        count(&mut builder, dict, 1);
        count(&mut builder, target, 0xffff_ffff);
        assert!(!account(&builder, 0).is_closed);
    }
}

#[test]
fn a_reference_that_may_be_none_is_not_counted() {
    for layout in counting_layouts() {
        let mut builder = builder(layout);
        let target = builder.sequence("tuple", &[]);
        count(&mut builder, target, 2);
        let mut stack = owns(&[target]);
        stack.frames[0].loose.push(target);
        let reader = reader(&builder);
        let mut graph = Graph::walk(reader, &[None, Some(&stack)], NEVER);
        assert_eq!(graph.threads_reaching(target), [1]);
        assert!(!graph.account(target, 0, reader).is_closed);
        assert!(graph.account(target, 1, reader).is_closed);
    }
}

/// The items of a deque lie in blocks of 64, the first of them anywhere in the first block.
#[test]
fn a_deque_is_followed_from_block_to_block() {
    for layout in counting_layouts() {
        let mut builder = builder(layout);
        let items: Vec<Address> = (0..150).map(|_| builder.sequence("tuple", &[])).collect();
        let first = 50;
        let blocks: Vec<Address> = (0..4).map(|_| builder.put(&[0; 66 * 8])).collect();
        for (index, item) in items.iter().enumerate() {
            let (block, slot) = ((first + index) / 64, (first + index) % 64);
            let at = Address(blocks[block].0 + 8 * (1 + slot as u64));
            builder.overwrite(at, &item.0.to_le_bytes());
        }
        for pair in blocks.windows(2) {
            let link = Address(pair[0].0 + 8 * 65);
            builder.overwrite(link, &pair[1].0.to_le_bytes());
        }
        let deque = builder.object("collections.deque", 128);
        builder.set(deque, layout.object.ob_size, items.len() as u64);
        let behind = layout.object.ob_size.offset() + 8;
        let members = [blocks[0].0, blocks[3].0, first as u64];
        for (index, member) in members.iter().enumerate() {
            let at = Address(deque.0 + behind + 8 * index as u64);
            builder.overwrite(at, &member.to_le_bytes());
        }
        let stack = owns(&[deque]);
        let graph = Graph::walk(reader(&builder), &[Some(&stack)], NEVER);
        for item in items {
            assert_eq!(graph.threads_reaching(item), [0], "{:?}", layout.version);
        }
        assert!(!graph.is_cut());
    }
}

#[test]
fn limits_are_kept_and_told() {
    for layout in counting_layouts() {
        let mut builder = builder(layout);
        let items: Vec<Address> = (0..500).map(|_| builder.sequence("tuple", &[])).collect();
        let list = builder.sequence("list", &items);
        let stack = owns(&[list]);
        let reader = reader(&builder);
        let few = Limits {
            objects: 100,
            ..NEVER
        };
        let graph = Graph::walk(reader, &[Some(&stack)], few);
        assert_eq!((graph.len(), graph.is_cut()), (100, true));
        let no_time = Limits {
            is_over: &|| true,
            ..NEVER
        };
        let graph = Graph::walk(reader, &[Some(&stack)], no_time);
        assert_eq!((graph.len(), graph.is_cut()), (1, true));
    }
}

/// More items than are looked at, by the list's own word, in memory that ends before.
#[test]
fn a_list_of_ten_million_items_is_cut() {
    for layout in counting_layouts() {
        let mut builder = builder(layout);
        let target = builder.sequence("tuple", &[]);
        let list = builder.sequence("list", &vec![target; 70_000]);
        builder.set(list, layout.object.ob_size, 10_000_000);
        let stack = owns(&[list]);
        let graph = Graph::walk(reader(&builder), &[Some(&stack)], NEVER);
        assert!(graph.is_cut());
        assert_eq!(graph.len(), 2);
    }
}

#[test]
fn a_ring_of_objects_is_gone_round_once() {
    for layout in counting_layouts() {
        let mut builder = builder(layout);
        let cell = builder.cell(Address::NULL);
        let list = builder.sequence("list", &[cell, cell]);
        builder.set(cell, layout.values.cell, list.0);
        count(&mut builder, cell, 2);
        count(&mut builder, list, 2);
        let stack = owns(&[list]);
        let reader = reader(&builder);
        let mut graph = Graph::walk(reader, &[Some(&stack)], NEVER);
        assert_eq!(graph.len(), 2);
        assert!(graph.account(cell, 0, reader).is_closed);
    }
}
