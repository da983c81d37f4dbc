"""The agent, the unit and the other host of the incidents that happen in a lab machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.agent import Agent
from lab.stranger import Stranger
from labkit import pace
from labkit.lio import IQN
from labkit.target import Unit

from incidents.scene import NODE2, SECONDS, Scene


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with Agent() as running:
        running.settled(pace.limit(SECONDS))
        yield running


@pytest.fixture
def scene(agent: Agent, unit: Unit) -> Scene:
    made = Scene(agent, unit)
    made.begin()
    return made


@pytest.fixture
def node2() -> Iterator[Stranger]:
    """Another host."""
    session = Stranger("127.0.0.1:3260", IQN, NODE2)
    yield session
    session.close()
