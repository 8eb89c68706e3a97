from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headprobe.allocators import BudgetSize, allocate
from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError
from headprobe.formats import export_budget, export_scores
from headprobe.formats.import_run import KnownModel, import_run
from headprobe.scores import HeadScores


def entries(path: Path, layers: int, heads: int, target: int) -> np.ndarray:
    """What the program gives each head; one that is missing gets the target."""
    fractions = json.loads(path.read_text())
    tokens = np.empty((layers, heads), dtype=int)
    for layer in range(layers):
        for head in range(heads):
            fraction = fractions.get(f"L{layer}H{head}")
            whole = target if fraction is None else int(fraction * target * layers * heads)
            tokens[layer, head] = whole
    return tokens


@pytest.mark.parametrize("seed", range(20))
def test_a_budget_is_given_out_exactly(
    seed: int, make_budget: Callable[..., HeadBudgets], tmp_path: Path
) -> None:
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, 10 ** (1 + seed % 5), (3, 4))
    tokens[0, 0] += -tokens.sum() % 12
    budgets = make_budget(tokens=tokens)
    notes = export_budget(budgets, tmp_path / "fractions.json", to="attention-matching")
    assert notes == (f"the budget is got with a target of {tokens.mean():g} entries a head",)
    assert sum(json.loads((tmp_path / "fractions.json").read_text()).values()) == pytest.approx(1)
    given = entries(tmp_path / "fractions.json", 3, 4, target=int(tokens.sum()) // 12)
    assert np.array_equal(given, tokens)


def test_scores_are_shared_out_by_headkvs_rule(
    make_run: Callable[..., HeadScores], tmp_path: Path
) -> None:
    run = make_run()
    export_scores(run, tmp_path / "fractions.json", to="attention-matching", beta=1.5)
    fractions = json.loads((tmp_path / "fractions.json").read_text())
    assert list(fractions) == [f"L{layer}H{head}" for layer in range(3) for head in range(4)]
    assert sum(fractions.values()) == pytest.approx(1)
    budgets = allocate(
        run.mean("r2"), run.layout, budget=BudgetSize(tokens=500), beta=1.5, window=0
    )
    given = entries(tmp_path / "fractions.json", 3, 4, target=500)
    assert 0 <= 500 * 12 - given.sum() <= 12
    assert np.abs(given - budgets.tokens).max() <= 1


def test_one_head_with_all_the_score_still_leaves_the_others_their_floor(
    make_run: Callable[..., HeadScores], tmp_path: Path
) -> None:
    cases = np.zeros((1, 3, 8))
    cases[0, 1, 5] = 1
    export_scores(make_run(cases), tmp_path / "fractions.json", to="attention-matching", beta=2.0)
    fractions = json.loads((tmp_path / "fractions.json").read_text())
    assert fractions.pop("L1H2") == pytest.approx(0.5 + 0.5 / 12)
    assert list(fractions.values()) == pytest.approx([0.5 / 12] * 11)


def test_what_is_written_is_read_and_a_missing_head_gets_the_even_fraction(tmp_path: Path) -> None:
    path = tmp_path / "fractions.json"
    path.write_text('{"L0H0": 0.5, "L1H1": 0.1, "L0H1": 0.2}')
    run, notes = import_run(path, tmp_path / "run", source="attention-matching")
    assert run.mean("attention-matching").tolist() == [
        [0.5, np.float32(0.2)],
        [0.25, np.float32(0.1)],
    ]
    assert notes[0] == "1 heads are missing and get the even fraction, as in the program"
    assert "give `heads` if they share KV heads" in notes[1]
    known = KnownModel(layers=2, heads=6, kv_heads=3)
    run, notes = import_run(path, tmp_path / "wider", source="attention-matching", known=known)
    assert run.mean("attention-matching").shape == (2, 6)
    assert notes == ("3 heads are missing and get the even fraction, as in the program",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ("[]", "expected an object"),
        ("{}", "it names no head"),
        ('{"L0H0": 0.5, "L0H0": 0.5}', "key 'L0H0' is given twice"),
        ('{"L0H0": 0.5, "L0H00": 0.5}', "a head is named twice"),
        ('{"L0H0": 0.5} {"L0H1": 0.5}', "it holds 2 JSON documents"),
        ('{"L0H0": 0.5, ', "not JSON, or cut short"),
        ('{"0-0": 0.5}', "'0-0' names no head; expected L0H0"),
        ('{"L0H0": [0.5]}', "expected a number"),
        ('{"L0H0": -0.5}', "L0H0: expected a fraction of 0 or more, got -0.5"),
        ('{"L0H0": NaN}', "expected finite float32 numbers, got nan"),
        ('{"L99999H0": 1}', "it names layer 99999"),
    ],
)
def test_a_file_of_another_kind_is_one_clear_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "fractions.json").write_text(text)
    with pytest.raises(HeadprobeError) as error:
        import_run(tmp_path / "fractions.json", tmp_path / "run", source="attention-matching")
    assert problem in str(error.value)
    assert "is not a valid attention-matching file" in str(error.value)
