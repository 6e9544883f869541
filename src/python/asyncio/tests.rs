//! Tests of event loops in made-up memory, on every version.

use proptest::prelude::*;

use super::*;
use crate::python::layout::{EvaluationLayout, FrameLayout, StackTop};
use crate::python::testing::{Builder, all_layouts};
use crate::sys::memory::RemoteMemory;

const LIMITS: Limits = Limits {
    counted: 100,
    described: 10,
    frames: 50,
};

/// A thread whose loop runs the first of its tasks; the others wait for the one before, as the last coroutine of two does.
struct Scene {
    builder: Builder,
    state: ThreadState,
    interpreter: Interpreter,
    tasks: Vec<Address>,
    coroutines: Vec<Address>,
    /// Everything up to here was built.
    end: u64,
}

fn layouts() -> impl Iterator<Item = (Builder, AsyncioLayout)> {
    let layouts = all_layouts().into_iter();
    layouts.filter_map(|layout| Some((Builder::new(layout), layout.asyncio?)))
}

/// A coroutine that does not run and awaits `inner`, which is null for one that has not begun.
fn coroutine(builder: &mut Builder, layout: &AsyncioLayout, name: &str, inner: Address) -> Address {
    let code = builder.code(name, "/a.py", 7);
    let generator = &layout.generator;
    let at = builder.object("coroutine", 1024);
    let plain = builder.frame(code, Address::NULL, Address::NULL);
    let size = match &builder.layout.frame {
        FrameLayout::Object(frame) => frame.size,
        FrameLayout::Interpreter(frame) => frame.size,
    };
    let mut bytes = vec![0; size as usize];
    builder.read(plain, &mut bytes).unwrap();
    // A local, what is awaited, and what else lies on it.
    let slots = u64::from(generator.awaited_slot) + 1;
    for slot in [7, inner.0, 0].into_iter().take(slots as usize) {
        bytes.extend_from_slice(&u64::to_le_bytes(slot));
    }
    let frame = match generator.states {
        Some(states) => {
            let waits = match states.suspended + 1 < states.executing {
                true => states.suspended + 1,
                false => states.suspended,
            };
            let state = if inner.is_null() {
                states.created
            } else {
                waits
            };
            builder.set(at, states.state, u64::from(state.cast_unsigned()));
            let frame = Address(at.0 + generator.frame.offset());
            builder.overwrite(frame, &bytes);
            frame
        }
        None => {
            let frame = builder.put(&bytes);
            builder.set(at, generator.frame, frame.0);
            frame
        }
    };
    if let FrameLayout::Object(layout) = &builder.layout.frame
        && inner.is_null()
    {
        builder.set(frame, layout.lasti, u64::MAX);
    }
    let first = frame.0 + u64::from(size);
    match generator.top {
        StackTop::Pointer(field) => builder.set(frame, field, first + 8 * slots),
        StackTop::Count(field) => builder.set(frame, field, slots),
        StackTop::Depth(field) => {
            if let EvaluationLayout::Blocks { value_stack, .. } = builder.layout.evaluation {
                builder.set(frame, value_stack, first + 8);
            }
            builder.set(frame, field, slots - 1);
        }
    }
    // The instruction that comes next says that it awaits.
    if let Some(field) = generator.bytecode {
        let bytes = builder.bytes(&[72; 40]);
        builder.set(code, field, bytes.0);
    } else if let Some(field) = builder.layout.code.bytecode {
        builder.overwrite(Address(code.0 + field.offset() + 11), &[3]);
    }
    at
}

impl Scene {
    /// With tasks whose members are `moved` bytes further on than the table has them.
    fn new(mut builder: Builder, layout: AsyncioLayout, count: usize, moved: u32) -> Scene {
        let event_loop = builder.object("BaseEventLoop", 64);
        let mut tasks: Vec<Address> = Vec::new();
        let mut coroutines = Vec::new();
        for index in 0..count {
            let created = coroutine(&mut builder, &layout, "inner", Address::NULL);
            let outer = coroutine(&mut builder, &layout, "outer", created);
            coroutines.push(outer);
            let task = builder.object("_asyncio.Task", 512);
            let name = builder.text(&format!("Task-{index}"));
            let type_at = builder.layout.object.ob_type.offset();
            let mut type_object = [0; 8];
            builder
                .read(Address(task.0 + type_at), &mut type_object)
                .unwrap();
            let basicsize = builder.layout.type_object.basicsize;
            let size = u64::from(layout.task.size + moved);
            builder.set(Address(u64::from_le_bytes(type_object)), basicsize, size);
            let members = Address(task.0 + u64::from(moved));
            builder.set(task, layout.task.event_loop, event_loop.0);
            builder.set(members, layout.task.coroutine, outer.0);
            builder.set(members, layout.task.name, name.0);
            if let Some(before) = tasks.last() {
                builder.set(members, layout.task.waiter, before.0);
            }
            tasks.push(task);
        }
        let state = builder.put(&[0; 8192]);
        let references: Vec<Address> = tasks
            .iter()
            .map(|task| {
                let reference = builder.object("weakref", 64);
                builder.set(reference, layout.weak_target, task.0);
                reference
            })
            .collect();
        let data = builder.set_of("set", &references);
        let eager = builder.set_of("set", &tasks[..1]);
        let all = builder.module(&[("data", data)]);
        let current = builder.dict(&[(event_loop, tasks[0])]);
        let module = builder.module(&[
            ("_scheduled_tasks", all),
            ("_current_tasks", current),
            ("_eager_tasks", eager),
        ]);
        let key = builder.text("asyncio.tasks");
        let modules = builder.dict(&[(key, module)]);
        let (interpreter, _) = builder.interpreter(modules);
        if let Some(field) = layout.thread_dict {
            let key = builder.text("__asyncio_running_event_loop__");
            let dict = builder.dict(&[(key, event_loop)]);
            builder.set(state, field, dict.0);
        }
        if let Some(field) = layout.running_loop {
            builder.set(state, field, event_loop.0);
        }
        if let Some(field) = layout.running_task {
            builder.set(state, field, tasks[0].0);
        }
        if let (Some(head), Some(ended), Some(node)) = (
            layout.thread_tasks,
            layout.interpreter_tasks,
            layout.task.node,
        ) {
            let nodes = tasks
                .iter()
                .map(|task| task.0 + u64::from(moved) + node.offset());
            let head = state.0 + head.offset();
            let ended = interpreter.0 + ended.offset();
            let ring: Vec<u64> = [head].into_iter().chain(nodes).collect();
            for (index, at) in ring.iter().enumerate() {
                let next = ring[(index + 1) % ring.len()];
                builder.overwrite(Address(*at), &next.to_le_bytes());
                builder.overwrite(Address(next + 8), &at.to_le_bytes());
            }
            builder.overwrite(Address(ended), &ended.to_le_bytes());
            builder.overwrite(Address(ended + 8), &ended.to_le_bytes());
        }
        let end = builder.put(&[0]).0;
        Scene {
            builder,
            state: ThreadState {
                address: state,
                interpreter,
                thread_id: 1,
                native_thread_id: None,
            },
            interpreter: Interpreter::at(interpreter, modules),
            tasks,
            coroutines,
            end,
        }
    }

    fn read(&self, limits: Limits) -> Option<EventLoop> {
        let reader = ObjectReader {
            memory: &self.builder,
            layout: self.builder.layout,
        };
        let around = Surroundings {
            interpreter: &self.interpreter,
            states: std::slice::from_ref(&self.state),
            tids: &[1],
        };
        let mut decoder = FrameDecoder::default();
        read_event_loop(reader, &mut decoder, &self.state, around, limits)
    }
}

#[test]
fn tasks_and_their_chains_on_every_version() {
    for (builder, layout) in layouts() {
        for moved in [0, 8] {
            let version = builder.layout.version;
            let scene = Scene::new(Builder::new(builder.layout), layout, 3, moved);
            let seen = scene.read(LIMITS).unwrap();
            assert_eq!(seen.total, 3, "{version:?} {:?}", seen.missing);
            assert_eq!(seen.type_name, "BaseEventLoop");
            let running = seen.running.as_ref().unwrap();
            assert_eq!(
                (running.name.as_str(), running.state),
                ("Task-0", TaskState::Running)
            );
            assert_eq!(running.coroutine.as_deref(), Some("outer"));
            assert_eq!(running.awaited_by, [scene.tasks[1]]);
            let [first, second] = &seen.tasks[..] else {
                panic!("{version:?}: {:?}", seen.tasks);
            };
            let functions: Vec<_> = first.frames.iter().map(|frame| &*frame.function).collect();
            assert_eq!(functions, ["inner", "outer"], "{version:?}");
            assert_eq!(first.state, TaskState::Waiting);
            let awaits = first.awaits.as_ref().unwrap();
            assert_eq!(
                (awaits.id, awaits.task.as_deref()),
                (running.id, Some("Task-0"))
            );
            assert_eq!(first.awaited_by, [second.id]);
            assert!(seen.missing.is_empty(), "{:?}", seen.missing);
        }
    }
}

#[test]
fn what_is_too_much_is_left_out_and_said() {
    for (builder, layout) in layouts() {
        let scene = Scene::new(builder, layout, 120, 0);
        let seen = scene.read(LIMITS).unwrap();
        assert!(seen.total <= 101, "{}", seen.total);
        assert_eq!(seen.tasks.len(), 10);
        assert!(seen.missing.len() >= 2, "{:?}", seen.missing);
        let few = Limits {
            frames: 5,
            ..LIMITS
        };
        let frames = scene.read(few).unwrap().tasks;
        let frames: usize = frames.iter().map(|task| task.frames.len()).sum();
        assert!(frames <= 5, "{frames}");
    }
}

#[test]
fn coroutines_in_a_circle_and_rings_that_are_broken_end() {
    for (mut builder, layout) in layouts() {
        // One that awaits itself, as its slot says once it is there.
        let round = coroutine(&mut builder, &layout, "round", Address(1));
        let round_again = coroutine(&mut builder, &layout, "round", round);
        let mut scene = Scene::new(builder, layout, 2, 0);
        let task = scene.tasks[1];
        scene
            .builder
            .set(task, layout.task.coroutine, round_again.0);
        if layout.generator.states.is_none() {
            // The frame of the inner one becomes that of the outer one: it awaits itself for ever.
            scene.builder.set(round, layout.generator.frame, {
                let mut bytes = [0; 8];
                let at = Address(round_again.0 + layout.generator.frame.offset());
                scene.builder.read(at, &mut bytes).unwrap();
                u64::from_le_bytes(bytes)
            });
        }
        let limits = Limits {
            frames: usize::MAX,
            ..LIMITS
        };
        let seen = scene.read(limits).unwrap();
        assert!(seen.tasks[0].frames.len() <= 2000);
        if let Some(head) = layout.thread_tasks {
            let at = Address(scene.state.address.0 + head.offset() + 8);
            scene.builder.overwrite(at, &[1; 8]);
            let seen = scene.read(LIMITS).unwrap();
            assert!(!seen.missing.is_empty());
        }
    }
}

#[test]
fn a_parents_loop_does_not_run_in_its_fork() {
    for (mut builder, _) in layouts() {
        let size = builder.layout.object.size;
        let event_loop = builder.object("BaseEventLoop", 64);
        let holder = builder.object("_RunningLoopHolder", 64);
        let members = Address(holder.0 + u64::from(size));
        builder.overwrite(members, &event_loop.0.to_le_bytes());
        builder.overwrite(Address(members.0 + 8), &70_i32.to_le_bytes());
        let reader = ObjectReader {
            memory: &builder,
            layout: builder.layout,
        };
        assert_eq!(held_loop(reader, holder, &[70, 71]), Some(event_loop));
        assert_eq!(held_loop(reader, holder, &[7]), None);
        assert_eq!(held_loop(reader, event_loop, &[7]), Some(event_loop));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn garbage_anywhere_is_borne(
        changes in proptest::collection::vec((any::<u64>(), any::<u64>()), 1..40),
        pointers in any::<bool>(),
    ) {
        for (builder, layout) in layouts() {
            let start = builder.layout.object.size as u64 + 0x10_0000;
            let mut scene = Scene::new(builder, layout, 4, 0);
            let targets: Vec<u64> = scene.tasks.iter().chain(&scene.coroutines).map(|at| at.0).collect();
            for (at, value) in &changes {
                // Near the objects that are looked at, so that something comes of it.
                let target = targets[(at % targets.len() as u64) as usize];
                let at = (target + (at >> 8) % 512) & !7;
                let value = match pointers {
                    true => start + value % (scene.end - start),
                    false => *value,
                };
                if at + 8 < scene.end {
                    scene.builder.overwrite(Address(at), &value.to_le_bytes());
                }
            }
            if let Some(seen) = scene.read(LIMITS) {
                prop_assert!(seen.tasks.len() <= LIMITS.described);
            }
        }
    }
}
