from __future__ import annotations

from typing import Any, Literal

import pytest

from headprobe.registry import read_options
from tests._support.refusals import refused


def method(
    scores: object,
    *,
    group: int = 1,
    floor: int,
    beta: float = 1.5,
    reduce: Literal["mean", "max"] = "mean",
    sparse: bool = False,
    name: str | None = None,
    top_k: int | Literal["all"] = 4,
    table: dict[str, int] | None = None,
) -> None:
    """Take options of every kind."""


def read(*texts: str) -> dict[str, Any]:
    return read_options("strategy mine", method, texts, hidden=("group",))


def test_options_are_read_by_the_types_that_are_declared() -> None:
    assert read() == {}
    typed = read("floor=3", "beta=2", "reduce=max", "sparse=true", "name=a=b", "top-k=all")
    assert typed == {
        "floor": 3,
        "beta": 2.0,
        "reduce": "max",
        "sparse": True,
        "name": "a=b",
        "top_k": "all",
    }
    assert read("top_k=7", "sparse=false", " beta = -1e-3 ") == {
        "top_k": 7,
        "sparse": False,
        "beta": -0.001,
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("floor", "strategy mine takes floor=..., beta=..., .* each once"),
        ("group=2", "strategy mine takes floor=..., beta=..., .* each once"),
        ("scores=2", "strategy mine takes floor"),
        ("other=2", "strategy mine takes floor"),
        ("floor=3.5", "of strategy mine: expected a whole number"),
        ("beta=nan", "expected a number"),
        ("beta=", "expected a number"),
        ("reduce=sum", "expected mean or max"),
        ("sparse=1", "expected true or false"),
        ("top_k=few", "expected a whole number or all"),
        ("table={}", "expected nothing that can be typed"),
    ],
)
def test_what_is_not_declared_so_is_refused(text: str, problem: str) -> None:
    with refused(problem, option="option", value=text):
        read(text)


def test_an_option_is_given_once() -> None:
    with refused("each once", option="option", value="top_k=2"):
        read("top-k=1", "top_k=2")
