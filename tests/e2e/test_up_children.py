"""The processes that `synaxis up` keeps alive, with small programs in place of the services."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from synaxis_cli.children import Child

PROGRAMS = {
    "lasting": """
        import signal, sys, pathlib
        signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[1] + ".end").touch(), sys.exit(0)))
        pathlib.Path(sys.argv[1]).open("a").write("x")
        while True:
            signal.pause()
    """,
    "stubborn": """
        import signal, sys, pathlib
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pathlib.Path(sys.argv[1]).open("a").write("x")
        while True:
            signal.pause()
    """,
    "misled": "import sys; sys.exit(78)",
    "keeper": """
        import asyncio, os, sys
        from synaxis_cli.children import Child

        async def main():
            child = Child("lasting", "lasting", os.environ, print, sys.argv[1])
            await child.start()
            print(child.pid, flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
    """,
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which the programs can be run as modules."""
    for name, source in PROGRAMS.items():
        lines = source.strip().splitlines()
        (tmp_path / f"{name}.py").write_text("\n".join(line.removeprefix(" " * 8) for line in lines))
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}


@pytest.fixture
def said() -> list[str]:
    return []


Run = Callable[..., Awaitable[Child]]


@pytest.fixture
async def run(environment: dict[str, str], said: list[str], tmp_path: Path) -> AsyncIterator[Run]:
    """Starts a program that adds a character to the file `started` each time it starts."""
    children: list[Child] = []

    async def start(program: str) -> Child:
        children.append(Child(program, program, environment, said.append, str(tmp_path / "started")))
        await children[-1].start()
        return children[-1]

    yield start
    for child in children:
        child.kill()
        await child.stop()


async def eventually(what: str, holds: Callable[[], bool]) -> None:
    """Wait until `holds`, or fail saying that `what` did not come true."""
    try:
        async with asyncio.timeout(15):
            while not holds():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within 15 s: {what}")


def starts(folder: Path) -> int:
    file = folder / "started"
    return len(file.read_text()) if file.exists() else 0


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_child_that_dies_is_started_again_and_said_so(
    run: Run, said: list[str], tmp_path: Path
) -> None:
    child = await run("lasting")
    await eventually("it runs", lambda: starts(tmp_path) == 1)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    await eventually("it runs again", lambda: starts(tmp_path) == 2)
    assert said == ["lasting ended (signal SIGKILL); started again in 0.5 s"]


async def test_a_stopped_child_may_finish_and_stays_stopped(
    run: Run, said: list[str], tmp_path: Path
) -> None:
    child = await run("lasting")
    await eventually("it runs", lambda: starts(tmp_path) == 1)
    await child.stop()
    assert (tmp_path / "started.end").exists()
    assert said == []
    assert starts(tmp_path) == 1


async def test_a_child_that_does_not_stop_is_killed_after_its_grace(
    run: Run, said: list[str], tmp_path: Path
) -> None:
    child = await run("stubborn")
    await eventually("it runs", lambda: starts(tmp_path) == 1)
    assert child.pid is not None
    await child.stop(grace_s=0.2)
    assert not is_alive(child.pid)
    assert said == ["stubborn did not stop within 0.2 s and is killed"]


async def test_wrong_settings_are_told_apart_from_a_crash(run: Run) -> None:
    child = await run("misled")
    await eventually("it is known to be misconfigured", lambda: child.is_misconfigured)


async def test_a_child_dies_with_a_parent_that_is_killed(environment: dict[str, str], tmp_path: Path) -> None:
    keeper = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keeper", str(tmp_path / "started")),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    assert keeper.stdout is not None
    pid = int(await keeper.stdout.readline())
    await eventually("the child runs", lambda: starts(tmp_path) == 1)
    keeper.kill()
    await keeper.communicate()
    await eventually("the child is gone", lambda: not is_alive(pid))
