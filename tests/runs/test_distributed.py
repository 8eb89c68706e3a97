"""Processes join when a launcher has started them all, and only then."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import pytest

from headprobe.errors import HeadprobeError, HeadprobeWarning
from headprobe.runs.distributed import Processes, init_distributed

VARIABLES = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def alone() -> None:
    with init_distributed(pytest.fail) as processes:
        assert processes == Processes()
        assert processes.is_main_process
        assert processes.all_gather("a") == processes.gather("a") == ["a"]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"WORLD_SIZE": ""},
        {"WORLD_SIZE": "1"},
        {"RANK": "0"},
        {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "29500"},
    ],
)
def test_a_process_of_its_own_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    alone()


@pytest.mark.parametrize(
    "given",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here"},
        {"WORLD_SIZE": "2", "RANK": "", "MASTER_ADDR": "here", "MASTER_PORT": "29500"},
        {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "here", "MASTER_PORT": "29500"},
        {"WORLD_SIZE": "2", "RANK": "-1", "MASTER_ADDR": "here", "MASTER_PORT": "29500"},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "x"},
    ],
)
def test_what_is_left_of_another_launcher_is_told_of_and_waited_for_by_nobody(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(HeadprobeWarning, match="WORLD_SIZE is .*: working as one process"):
        alone()


def test_others_that_do_not_come_are_named_and_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    values = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    with (
        pytest.raises(HeadprobeError, match=r"did not: .* or unset WORLD_SIZE"),
        init_distributed(said.append, start=timedelta(seconds=1)),
    ):
        pytest.fail("the block must not run")
    assert said == [f"waiting at localhost:{port} for all 2 processes, as WORLD_SIZE says"]
    assert os.environ["WORLD_SIZE"] == "2"
