"""The part of layout_probe.py that is about coroutines and tasks, which versions before 3.5 can't parse."""

import asyncio
import ctypes
import weakref


def run(probe):
    t = probe.LAYOUT["asyncio"]
    task, generator = t["task"], t["generator"]

    async def leaf(future):
        await future

    async def outer(future):
        await leaf(future)

    async def awaiting(other):
        await other

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        coroutine = outer(future)
        waiting = loop.create_task(coroutine)
        waiting.set_name("a name")
        above = loop.create_task(awaiting(waiting))
        await asyncio.sleep(0)
        at = id(waiting)
        probe.check("asyncio.task.size", type(waiting).__basicsize__, task["size"])
        probe.check("asyncio.task.event_loop", probe.u64(at + task["event_loop"]), id(loop))
        probe.check("asyncio.task.coroutine", probe.u64(at + task["coroutine"]), id(coroutine))
        probe.check("asyncio.task.name", probe.u64(at + task["name"]), id(waiting.get_name()))
        probe.check("asyncio.task.waiter", probe.u64(at + task["waiter"]), id(future))
        probe.check("asyncio.task.state of a pending one", probe.i32(at + task["state"]), 0)
        reference = weakref.ref(waiting)
        probe.check("asyncio.weak_target", probe.u64(id(reference) + t["weak_target"]), at)
        frame = id(coroutine) + generator["frame"] if generator["states"] else probe.u64(id(coroutine) + generator["frame"])
        if generator["states"]:
            state = ctypes.c_int8.from_address(id(coroutine) + generator["states"]["state"]).value
            probe.check("asyncio.generator.state", generator["states"]["suspended"] <= state < generator["states"]["executing"], True)
        else:
            code = outer.__code__
            probe.check("asyncio.generator.bytecode", probe.u64(id(code) + generator["bytecode"]), id(code.co_code))
        top, below = generator["top"], 8 * generator["awaited_slot"]
        if top["variant"] == "Pointer":
            slot = probe.u64(frame + top["field"]) - below
        elif top["variant"] == "Depth":
            slot = probe.u64(frame + probe.LAYOUT["evaluation"]["value_stack"]) + 8 * probe.i32(frame + top["field"]) - below
        else:
            slot = frame + probe.FRAME["size"] + 8 * probe.i32(frame + top["field"]) - below
        probe.check("asyncio.generator.top", probe.u64(slot) & ~3, id(coroutine.cr_await))
        state = probe.thread_state()
        if t["running_loop"]:
            probe.check("asyncio.running_loop", probe.u64(state + t["running_loop"]), id(loop))
        else:
            probe.check("asyncio.thread_dict", "__asyncio_running_event_loop__" in ctypes.cast(
                probe.u64(state + t["thread_dict"]), ctypes.py_object).value, True)
        if t["running_task"]:
            probe.check("asyncio.running_task", probe.u64(state + t["running_task"]), id(asyncio.current_task()))
            probe.check("asyncio.task.awaited_by", probe.u64(at + task["awaited_by"]), id(above))
            seen, node = [], probe.u64(state + t["thread_tasks"])
            while node != state + t["thread_tasks"] and len(seen) < 10:
                seen.append(node - task["node"])
                node = probe.u64(node)
            probe.check("asyncio.thread_tasks", sorted(seen), sorted(map(id, asyncio.all_tasks())))
            interpreter = probe.u64(state + probe.LAYOUT["thread"]["interp"]) + t["interpreter_tasks"]
            probe.check("asyncio.interpreter_tasks", [probe.u64(interpreter), probe.u64(interpreter + 8)], [interpreter] * 2)
        future.set_result(None)
        await above
        probe.check("asyncio.task.state of a finished one", probe.i32(at + task["state"]), 2)

    asyncio.run(main())
