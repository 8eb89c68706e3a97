from __future__ import annotations

import ast
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats import export_budget, export_scores
from headprobe.formats.import_run import KnownModel, import_run
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores
from tests._support.refusals import refused

MakeRun = Callable[..., HeadScores]
LAYOUT = HeadLayout(
    id="wide", architecture="llama", layers=10, num_heads=20, num_kv_heads=10, head_dim=8
)


def razor_run(make_run: MakeRun) -> HeadScores:
    draw = np.random.default_rng(5)
    per_case = {m: draw.random((2, 10, 20)).astype(np.float32) for m in ("induction", "echo")}
    return make_run(per_case["echo"], layout=LAYOUT, per_case=per_case, task="razor")


def top(scores: np.ndarray, count: int) -> dict[int, list[int]]:
    """msModelSlim: the group's highest score, the best heads over all layers."""
    best = {
        layer: [max(row[i : i + 2]) for i in range(0, 20, 2)]
        for layer, row in enumerate(scores.tolist())
    }
    cut = sorted((value for values in best.values() for value in values), reverse=True)[:count]
    lists = {layer: [i for i, v in enumerate(vs) if v in cut] for layer, vs in best.items()}
    return {layer: heads for layer, heads in lists.items() if heads}


def test_the_heads_are_those_of_msmodelslim(make_run: MakeRun, tmp_path: Path) -> None:
    run = razor_run(make_run)
    notes = export_scores(run, tmp_path / "heads.pt", to="razor")
    content = torch.load(tmp_path / "heads.pt", weights_only=True)
    assert content == {
        "prefix_matching": top(run.mean("induction"), 14),
        "copying": top(run.mean("echo"), 1),
    }
    for lists in content.values():
        for layer, heads in lists.items():
            assert type(layer) is int
            assert {type(head) for head in heads} == {int}
    assert notes[0] == "the 2 query heads of a KV head were reduced by max"
    assert notes[1].endswith("of 100 KV heads are kept whole")


def test_golden_stick_gets_the_union_and_mindie_the_literal(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = razor_run(make_run)
    for name in ("heads.pt", "heads.json", "heads.py"):
        export_scores(run, tmp_path / name, to="razor", sparsity=0.6)
    content = torch.load(tmp_path / "heads.pt", weights_only=True)
    assert ast.literal_eval((tmp_path / "heads.py").read_text()) == content
    union: dict[str, set[int]] = {}
    for lists in content.values():
        for layer, heads in lists.items():
            union.setdefault(str(layer), set()).update(heads)
    assert json.loads((tmp_path / "heads.json").read_text()) == {
        layer: sorted(heads) for layer, heads in union.items()
    }


def test_another_measure_gives_induction_heads_alone(make_run: MakeRun, tmp_path: Path) -> None:
    cases = np.zeros((1, 3, 8))
    cases[0, 1, 5] = 1
    export_scores(make_run(cases), tmp_path / "heads.pt", to="razor")
    content = torch.load(tmp_path / "heads.pt", weights_only=True)
    assert content["copying"] == {}
    assert content["prefix_matching"][1] == [2]
    assert sum(map(len, content["prefix_matching"].values())) == round(0.15 * 12)


def test_a_budgets_whole_heads_are_listed(streaming_budget: HeadBudgets, tmp_path: Path) -> None:
    export_budget(streaming_budget, tmp_path / "heads.json", to="razor")
    assert json.loads((tmp_path / "heads.json").read_text()) == {
        "0": [0, 3],
        "1": [0],
        "2": [1, 3],
    }


@pytest.mark.parametrize("name", ["heads.pt", "heads.py"])
def test_what_is_written_is_read(name: str, make_run: MakeRun, tmp_path: Path) -> None:
    run = razor_run(make_run)
    export_scores(run, tmp_path / name, to="razor")
    known = KnownModel(layers=10, heads=20, kv_heads=10)
    back, notes = import_run(tmp_path / name, tmp_path / "run", source="razor", known=known)
    assert notes == ()
    for measure, count in (("induction", 14), ("echo", 1)):
        listed = top(run.mean(measure), count)
        for layer, head in np.ndindex(10, 20):
            kept = head // 2 in listed.get(layer, [])
            assert back.mean(measure)[layer, head] == kept
    export_scores(back, tmp_path / f"again-{name}", to="razor")
    assert (tmp_path / "again-heads.py").read_text() if name.endswith("py") else True


def test_sizes_that_the_lists_do_not_show_are_guessed_aloud(tmp_path: Path) -> None:
    (tmp_path / "heads.json").write_text('{"0": [1], "2": [0, 3]}')
    run, notes = import_run(tmp_path / "heads.json", tmp_path / "run", source="razor")
    assert run.mean("razor").tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert notes[0].startswith("the file lists kept heads only: took 3 layers of 4 KV heads")
    known = KnownModel(layers=4, kv_heads=8, heads=8)
    run, notes = import_run(
        tmp_path / "heads.json", tmp_path / "known", source="razor", known=known
    )
    assert run.mean("razor").shape == (4, 8)
    assert notes == ()


class Bomb:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("source", ["razor", "kvzip"])
@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_pickle_bomb_is_refused(source: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "heads.pt"
    content = {"prefix_matching": {0: [1]}, "copying": Bomb(tmp_path / "boom")}
    if kind == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(HeadprobeError, match="could run code, so it is not opened"):
        import_run(path, tmp_path / "run", source=source)
    assert not (tmp_path / "boom").exists()
    torch.load(path, weights_only=False) if kind == "torch" else pickle.loads(path.read_bytes())
    assert (tmp_path / "boom").exists()


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_one_clear_line(fraction: float, tmp_path: Path) -> None:
    path = tmp_path / "heads.pt"
    torch.save({"prefix_matching": {0: [1]}, "copying": {}}, path)
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(HeadprobeError, match="is not a valid razor file: it is damaged") as error:
        import_run(path, tmp_path / "run", source="razor")
    assert "\n" not in str(error.value)


def test_a_zip_of_something_else_is_one_clear_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "heads.pt", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(HeadprobeError, match="is not a valid razor file") as error:
        import_run(tmp_path / "heads.pt", tmp_path / "run", source="razor")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("heads.json", "", "it is empty"),
        ("heads.json", "[1]", "expected an object"),
        ("heads.json", "{}", "it names no head"),
        ("heads.json", '{"0": [1', "not JSON, or cut short"),
        ("heads.json", '{"0": [1.5]}', "layer '0': expected a list of heads, got [1.5]"),
        ("heads.json", '{"0": [true]}', "expected a list of heads"),
        ("heads.json", '{"0": [-1]}', "expected a list of heads"),
        ("heads.json", '{"0": 1}', "expected a list of heads"),
        ("heads.json", '{"first": [1]}', "layer 'first'"),
        ("heads.json", '{"0": [100000000]}', "head 100000000"),
        ("heads.json", '{"prefix_matching": [1]}', "expected lists of heads by layer"),
        ("heads.py", "{0: [1", "no Python literal, or cut short"),
        ("heads.py", "{[1]: 2}", "no Python literal"),
        ("heads.py", "__import__('os').getcwd()", "malformed"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    name: str, text: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(HeadprobeError, match="is not a valid razor file") as error:
        import_run(tmp_path / name, tmp_path / "run", source="razor")
    assert problem in str(error.value)


def test_a_suffix_that_says_nothing_and_a_fraction_out_of_range_are_wrong_usage(
    make_run: MakeRun, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"\.pt msModelSlim, \.json golden-stick, \.py MindIE"):
        export_scores(make_run(), tmp_path / "heads", to="razor")
    with refused(option="sparsity", value=1.0):
        export_scores(make_run(), tmp_path / "heads.pt", to="razor", sparsity=1.0)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("heads.json", '{"0": [1], "0": [2]}', "key '0' is given twice"),
        ("heads.json", '{"0": [1]} {"1": [2]}', "it holds 2 JSON documents"),
        ("heads.py", "{0: [1], 0: [2]}", "a key is given twice"),
        ("heads.py", "{0: [1], '0': [1]}", "a head is named twice"),
        ("heads.py", "{'copying': {0: [1, 1]}}", "a head is named twice"),
        ("heads.py", "{'copying': {0: [1]}, 'other': {}}", "got {'other'}"),
        ("heads.py", "{998: [998]}", "32,768 heads are the most"),
        ("heads.py", "{0: [1_" + "0" * 5000 + "]}", "it is no Python literal"),
        ("heads.py", "{0: [0x" + "f" * 5000 + "]}", "expected 1000 layers of 1000 heads"),
        ("heads.py", "[" * 10_000, "it is no Python literal"),
        ("heads.py", "-" * 10_000 + "1", "it is no Python literal"),
        ("heads.py", "{0: print(1)}", "it is no Python literal"),
        ("heads.py", "'" + "x" * 1_000_001 + "'", "it has 1,000,003 bytes"),
        ("heads.json", '{"٣": [1]}', "expected a list of heads"),
    ],
)
def test_lists_given_twice_too_large_or_too_deep_are_refused(
    name: str, text: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(HeadprobeError, match="is not a valid razor file") as error:
        import_run(tmp_path / name, tmp_path / "run", source="razor")
    assert problem in str(error.value)
    assert len(str(error.value)) < 400
