"""The published schemas are schemas, and what the commands write fits them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from safetensors import safe_open

from headprobe.inputs.schemas import parse_header, read_schema

DOCS = Path(__file__).parents[2] / "docs"
FIRST_VERSION = Path(__file__).parents[1] / "runs" / "first_version" / "run"
NAMES = [path.name.removesuffix(".schema.json") for path in DOCS.glob("*.schema.json")]


def header(run: Path) -> str:
    with safe_open(run / "scores.safetensors", framework="numpy") as opened:
        return opened.metadata()["headprobe"]


@pytest.mark.parametrize("name", NAMES)
def test_a_published_schema_is_one_and_has_a_number(name: str) -> None:
    schema = read_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema == json.loads((DOCS / f"{name}.schema.json").read_text(encoding="utf-8"))
    assert schema["$id"] == f"urn:headprobe:{name}:1"


def test_every_leaf_of_a_scored_plan_is_in_the_schema(nano_scored: Path) -> None:
    plan = parse_header(header(nano_scored / "outputs" / "nano" / "r2"), "scores")["plan"]
    assert plan["kind"] == "score"
    assert plan.keys() <= read_schema("scores")["$defs"]["plan"]["properties"].keys()


def test_the_header_of_the_first_version_fits(nano_scored: Path) -> None:
    assert parse_header(header(FIRST_VERSION), "scores")["plan"]["seed"] == 0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "no UTF-8 text"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", 'expected type "object", got '),
        ('{"format_version": 1, "format_version": 1}', "given twice"),
    ],
)
def test_what_is_no_header_is_refused(content: str | bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_header(content, "scores")
