import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.inputs.schemas import read_schema
from headprobe.models.layout import HeadLayout

LAYOUT = HeadLayout(
    id="tiny", architecture="LlamaForCausalLM", layers=3, num_heads=4, num_kv_heads=2, head_dim=8
)


def budgets(**changes: Any) -> HeadBudgets:
    fields: dict[str, Any] = {
        "layout": LAYOUT,
        "strategy": {"name": "headkv", "budget": "1.5%", "beta": 1.2, "context_length": None},
        "granularity": "kv",
        "window": 8,
        "sinks": 4,
        "compensation": True,
        "selection": np.array([["attention", "streaming"]] * 3),
        "tokens": np.array([[8, 9], [10, 2000], [0, 12]]),
        "ratio": np.array([[0.0, 1.0], [0.1, 1 / 3], [5e-324, 0.015]]),
    }
    return HeadBudgets(**(fields | changes))


def test_a_head_keeps_the_larger_of_tokens_and_share_but_no_more_than_there_is() -> None:
    assert budgets().kept(30).tolist() == [[8, 30], [10, 30], [0, 12]]
    assert budgets().kept(300).tolist() == [[8, 300], [30, 300], [0, 12]]
    assert budgets().kept(9000).tolist() == [[8, 9000], [900, 3000], [0, 135]]
    assert budgets().kept(0).tolist() == [[0, 0]] * 3
    assert budgets().fraction(300) == (8 + 300 + 30 + 300 + 0 + 12) / 1800


@settings(deadline=None, derandomize=True)
@given(hundredths=st.integers(0, 100), context_length=st.integers(0, 2_000_000))
def test_a_decimal_share_is_rounded_up_as_in_decimal_arithmetic(
    hundredths: int, context_length: int
) -> None:
    ratio = np.full((3, 2), hundredths / 100)
    kept = budgets(ratio=ratio, tokens=np.zeros((3, 2), dtype=np.int64)).kept(context_length)
    assert (kept == -(-hundredths * context_length // 100)).all()


def test_the_footprint_counts_the_compensation_and_a_key_and_a_value_an_entry() -> None:
    kept = [8, 300, 30, 300, 0, 12]
    plain = budgets(compensation=False).footprint(300)
    assert (plain.context_length, plain.tokens) == (300, sum(kept))
    assert plain.bytes == sum(kept) * 2 * 8 * 2
    assert plain.full_bytes == 1800 * 2 * 8 * 2
    assert plain.fraction == sum(kept) / 1800
    assert budgets(compensation=False).footprint(300, number_bytes=4).bytes == 2 * plain.bytes
    # Four heads drop something.
    assert budgets().footprint(300).tokens == sum(kept) + 4
    full = budgets(ratio=np.ones((3, 2))).footprint(4096)
    assert (full.tokens, full.fraction) == (6 * 4096, 1.0)
    assert full.bytes == full.full_bytes


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    before = budgets()
    before.save(tmp_path / "sub" / "budget.json")
    after = HeadBudgets.load(tmp_path / "sub" / "budget.json")
    for field in dataclasses.fields(HeadBudgets):
        old, new = getattr(before, field.name), getattr(after, field.name)
        assert np.array_equal(old, new) if isinstance(old, np.ndarray) else old == new


def test_what_json_output_adds_for_readers_is_no_part_of_the_budget(tmp_path: Path) -> None:
    (tmp_path / "budget.json").write_text(edited(keeps=[{"context_length": 4096, "tokens": 3}]))
    assert HeadBudgets.load(tmp_path / "budget.json").to_json() == budgets().to_json()


def test_a_saved_budget_validates_and_has_a_line_for_each_row(tmp_path: Path) -> None:
    budgets().save(tmp_path / "budget.json")
    text = (tmp_path / "budget.json").read_text()
    schema = read_schema("budget")
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(text))
    assert "\n  [10, 2000],\n" in text
    assert len(text.splitlines()) == 8 + 3 * (1 + LAYOUT.layers)


def test_the_schema_asks_for_the_fields_of_the_record() -> None:
    names = {field.name for field in dataclasses.fields(HeadBudgets)}
    assert set(read_schema("budget")["required"]) == names - {"layout"} | {
        "model",
        "format",
        "version",
    }


def test_a_strategy_that_is_not_json_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        budgets(strategy={"name": "mine", "beta": float("nan")}).save(tmp_path / "budget.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"strategy": {}}, "strategy: expected a name"),
        ({"granularity": "head"}, "granularity: expected kv or query, got 'head'"),
        ({"granularity": "query"}, r"selection: expected shape \(3, 4\), got \(3, 2\)"),
        ({"window": -1}, "window: expected an integer of at least 0, got -1"),
        ({"sinks": True}, "sinks: expected an integer of at least 0, got True"),
        ({"tokens": np.array([[8, 9], [10, -1], [0, 12]])}, r"tokens\[1\]\[1\]: .*, got -1"),
        ({"ratio": np.full((3, 2), np.nan)}, r"ratio\[0\]\[0\]: expected 0 to 1, got nan"),
        ({"ratio": np.full((3, 2), 1.5)}, r"ratio\[0\]\[0\]: expected 0 to 1, got 1\.5"),
        ({"selection": np.full((3, 2), "newest")}, r"selection\[0\]\[0\]: .*, got 'newest'"),
    ],
)
def test_the_record_refuses_what_makes_no_sense(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        budgets(**changes)


def edited(**changes: Any) -> str:
    return json.dumps({**budgets().to_json(), **changes})


def without(name: str) -> str:
    return json.dumps({key: value for key, value in budgets().to_json().items() if key != name})


MODEL = LAYOUT.to_json()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "not JSON"),
        ('{"format": ', "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "format: expected 'headprobe-budget', got None"),
        ('{"0-0": [0.1]}', "format: expected 'headprobe-budget', got None"),
        (edited(version=2), "version: written by a newer headprobe .*; upgrade headprobe"),
        (edited(version=0), "version: expected 1, got 0"),
        (edited(version="1"), 'version: expected 1, got "1"'),
        (without("tokens"), "'tokens' is a required property"),
        (without("version"), "'version' is a required property"),
        (edited(sink=4), "'sink' was unexpected"),
        (edited(model=3), 'model: expected type "object", got 3'),
        (edited(model={**MODEL, "layers": 0}), "model.layers: expected 1 or more, got 0"),
        (
            edited(model={**MODEL, "layers": 4}),
            "selection: expected 4 rows of 2 heads, got 3 rows of 2",
        ),
        (edited(model={**MODEL, "kv_heads": 3}), "multiple of kv_heads"),
        (edited(granularity="head"), 'granularity: expected one of .*, got "head"'),
        (edited(granularity="query"), "selection: expected 3 rows of 4 heads, got 3 rows of 2"),
        (edited(window=-8), "window: expected 0 or more, got -8"),
        (edited(window=7.5), 'window: expected type "integer", got 7.5'),
        (edited(window=True), 'window: expected type "integer", got true'),
        (edited(window=float("nan")), "window: expected a finite number, got nan"),
        (edited(compensation=1), 'compensation: expected type "boolean", got 1'),
        (edited(strategy={"name": "x", "beta": 1e999}), "strategy.beta: expected a finite"),
        (edited(strategy={}), "strategy: 'name' is a required property"),
        (edited(tokens=[[1, 2], [3, 4]]), "tokens: expected 3 rows of 2 heads, got 2 rows of 2"),
        (
            edited(tokens=[[1, 2], [3, 4], [5]]),
            "tokens: expected 3 rows of 2 heads, got 3 rows of 1 or 2",
        ),
        (edited(tokens=[]), "tokens: expected 3 rows of 2 heads, got 0 rows"),
        (edited(tokens=[[1, 2], [3, -4], [5, 6]]), r"tokens\[1\]\[1\]: .* 0 or more, got -4"),
        (edited(tokens=[[1, 2], [3, 4], [5, 1e30]]), r"tokens\[2\]\[1\]: .* or less, got 1e\+30"),
        (edited(ratio=[[0, 0], [0, 1.5], [0, 0]]), r"ratio\[1\]\[1\]: .* 1 or less, got 1.5"),
        (edited(ratio=[[0, 0], [0, float("nan")], [0, 0]]), r"ratio\[1\]\[1\]: .*, got nan"),
        (edited(ratio=[[0, 0], [0, float("inf")], [0, 0]]), r"ratio\[1\]\[1\]: .*, got inf"),
        (edited(selection=[["newest"] * 2] * 3), r"selection\[0\]\[0\]: .*, got 'newest'"),
        (edited(tokens={str(i): i for i in range(99)}), r"tokens: .*\.\.\.$"),
    ],
)
def test_a_bad_file_is_one_line_that_names_file_and_field(
    tmp_path: Path, content: str, problem: str
) -> None:
    (tmp_path / "budget.json").write_text(content)
    with pytest.raises(HeadprobeError, match=problem) as caught:
        HeadBudgets.load(tmp_path / "budget.json")
    message = str(caught.value)
    assert str(tmp_path / "budget.json") in message
    assert "\n" not in message
    assert len(message.removeprefix(str(tmp_path))) < 300
    assert caught.value.exit_code == 1


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "budget.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HeadprobeError, match="no UTF-8 text"):
        HeadBudgets.load(tmp_path / "budget.json")


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError, match=r"no budget file at .*headprobe allocate"):
            HeadBudgets.load(path)


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headprobe.budgets.head_budgets.LARGEST_FILE", 10)
    (tmp_path / "budget.json").write_text('{"format": "headprobe-budget"}')
    with pytest.raises(HeadprobeError, match="not a valid budget: it has more than 10 bytes"):
        HeadBudgets.load(tmp_path / "budget.json")
