"""The lock that accounts share and a new tariff has alone."""

import asyncio

from gateway.app.control.sharing import SharedLock


async def test_sharers_go_together_and_one_alone_in_its_turn() -> None:
    """Two share at once; who wants it alone waits for both, and those after wait for that one."""
    lock, told = SharedLock(), list[str]()
    both, go_on = asyncio.Event(), asyncio.Event()

    async def share(name: str) -> None:
        async with lock.shared():
            told.append(name)
            if len(told) == 2:
                both.set()
            await go_on.wait()
            told.append(f"{name} over")

    async def have() -> None:
        async with lock.alone():
            told.append("alone")
            await asyncio.sleep(0)
            told.append("alone over")

    async with asyncio.TaskGroup() as group:
        for work in (share("a"), share("b"), have(), share("c")):
            group.create_task(work)
        await both.wait()
        assert told == ["a", "b"]
        go_on.set()
    assert told == ["a", "b", "a over", "b over", "alone", "alone over", "c", "c over"]


async def test_free_lock_is_taken_without_a_turn_of_the_loop() -> None:
    """Requests that are found together begin in their order, whichever lock they take."""
    lock, told = SharedLock(), list[str]()

    async def share() -> None:
        async with lock.shared():
            told.append("shared")

    async def plain() -> None:
        told.append("plain")

    await asyncio.gather(share(), plain())
    assert told == ["shared", "plain"]
