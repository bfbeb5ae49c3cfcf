"""What a chaos run does to whom: decided by the seed, and never to somebody else's processes."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.chaos.nemesis import Nemesis, Step, children_of, long_plan, processes_of, short_plan

SLEEPER = "import time; time.sleep(60)"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like a gateway."""
    with subprocess.Popen([sys.executable, "-c", SLEEPER, "synaxis_gateway"]) as process:
        yield process
        process.kill()


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def test_a_short_run_kills_and_stops_one_of_each_within_a_minute() -> None:
    plan = short_plan(random.Random(1))
    assert sorted((step.service, step.kind) for step in plan) == [
        ("gateway", "kill"),
        ("gateway", "stop"),
        ("registry", "kill"),
        ("registry", "stop"),
    ]
    assert all(step.at_s + step.for_s < after.at_s for step, after in itertools.pairwise(plan))
    assert plan[-1].at_s + plan[-1].for_s < 45


def test_the_same_seed_makes_the_same_plan() -> None:
    assert long_plan(random.Random(7), 300) == long_plan(random.Random(7), 300)
    assert long_plan(random.Random(7), 300) != long_plan(random.Random(8), 300)


def test_a_long_run_hurts_everybody_and_stops_one_gateway_until_it_is_taken_for_dead() -> None:
    plan = long_plan(random.Random(1), 300)
    assert {step.service for step in plan} == {"gateway", "registry", "nats", "postgres"}
    assert sum(step.kind == "stop" and step.for_s > 15 for step in plan) == 1


def test_only_children_of_the_system_are_found(child: subprocess.Popen[bytes]) -> None:
    assert processes_of(os.getpid(), "gateway") == [child.pid]
    assert processes_of(os.getpid(), "registry") == []
    assert processes_of(child.pid, "gateway") == []


async def test_who_is_killed_is_noted(child: subprocess.Popen[bytes]) -> None:
    said: list[str] = []
    nemesis = Nemesis(os.getpid(), random.Random(0), said.append)
    await nemesis.run([Step(0.0, "gateway", "kill")])
    assert child.wait(5) == -signal.SIGKILL
    assert [str(wound) for wound in nemesis.wounds] == said == [f"kill gateway {child.pid}"]
    assert child.pid not in children_of(os.getpid())


async def test_who_is_stopped_goes_on_afterwards(child: subprocess.Popen[bytes]) -> None:
    nemesis = Nemesis(os.getpid(), random.Random(0), lambda _: None)
    await nemesis.run([Step(0.0, "gateway", "stop", 0.1)])
    assert nemesis.wounds[0].ended - nemesis.wounds[0].begun >= 0.1
    assert state_of(child.pid) in "SR"


async def test_where_nobody_is_left_to_be_hurt_that_is_said() -> None:
    said: list[str] = []
    await Nemesis(os.getpid(), random.Random(0), said.append).run([Step(0.0, "nats", "kill")])
    assert said == ["no nats is running that could be hurt"]
