from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats import duo, export_budget, export_scores
from headprobe.formats.import_run import KnownModel, import_run
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores
from tests._support.refusals import refused

MakeRun = Callable[..., HeadScores]
PATTERN = "duo_attention/Meta-Llama-3.1-8B-Instruct"


def load(folder: Path) -> tuple[np.ndarray, dict[str, float]]:
    """DuoAttention's load_attn_pattern."""
    gates = np.loadtxt(folder / "full_attention_heads.tsv", dtype=float, delimiter="\t")
    config = json.loads((folder / "config.json").read_text())
    return np.clip(gates, 0, 1), config


def by_quantile(gates: np.ndarray, sparsity: float, seed: int) -> np.ndarray:
    """DuoAttention's and LServe's sparsify_attention_heads; their noise is not seeded."""
    noisy = gates + np.random.default_rng(seed).uniform(0, 1e-6, gates.shape)
    threshold = np.quantile(noisy, sparsity)
    if sparsity >= 1:
        threshold = 2
    if sparsity <= 0:
        threshold = -1
    return noisy >= threshold


def by_half(gates: np.ndarray) -> np.ndarray:
    """The hard cut of readers that hold gates in bfloat16."""
    return (torch.tensor(gates).to(torch.bfloat16) > 0.5).numpy()


def by_kvpress(gates: np.ndarray, ratio: float) -> np.ndarray:
    """kvpress's DuoAttentionPress: the lowest heads stream."""
    full = np.ones(gates.shape, dtype=bool)
    lowest = np.argsort(gates, axis=None)[: round(gates.size * ratio)]
    full[np.unravel_index(lowest, gates.shape)] = False
    return full


def every_reader(folder: Path) -> list[np.ndarray]:
    gates, config = load(folder)
    sparsity = config["sparsity"]
    return [
        *(by_quantile(gates, sparsity, seed) for seed in range(10)),
        by_half(gates),
        by_kvpress(gates, sparsity),
        gates >= config["threshold"],
    ]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["spread", "tied", "tiny", "large", "negative"])
def test_every_reader_chooses_the_same_heads(
    kind: str, sparsity: float, make_run: MakeRun, tmp_path: Path
) -> None:
    draw = np.random.default_rng(3)
    scores = {
        "spread": draw.random((1, 3, 8)),
        "tied": draw.integers(0, 2, (1, 3, 8)).astype(float),
        "tiny": 1e-6 * draw.random((1, 3, 8)),
        "large": 40 * draw.random((1, 3, 8)),
        "negative": draw.normal(size=(1, 3, 8)),
    }[kind]
    export_scores(make_run(scores), tmp_path, to="duo", sparsity=sparsity)
    of_kv = scores[0].astype(np.float32).reshape(3, 4, 2).max(axis=2)
    ranked = sorted(np.ndindex(3, 4), key=lambda place: (-of_kv[place], place))
    expected = np.zeros((3, 4), dtype=bool)
    for place in ranked[: 12 - round(12 * sparsity)]:
        expected[place] = True
    for chosen in every_reader(tmp_path):
        assert np.array_equal(chosen, expected)


def test_gates_stand_apart_and_away_from_the_half(make_run: MakeRun, tmp_path: Path) -> None:
    notes = export_scores(make_run(np.ones((1, 3, 8)) / 2), tmp_path, to="duo")
    gates, config = load(tmp_path)
    assert np.diff(np.sort(gates, axis=None)).min() > 9e-6
    assert not ((gates > 0.41) & (gates < 0.59)).any()
    assert config == {
        "model_name": "tiny",
        "sink_size": 128,
        "recent_size": 256,
        "sparsity": 0.5,
        "threshold": 0.5,
    }
    assert notes == (
        "the 2 query heads of a KV head were reduced by max",
        "11 equal scores were set 1e-05 apart, first heads first",
        "6 of 12 KV heads are kept whole",
    )


def test_the_table_is_there_under_both_names_without_a_header_or_a_last_tab(
    make_run: MakeRun, tmp_path: Path
) -> None:
    export_scores(make_run(), tmp_path, to="duo")
    text = (tmp_path / "full_attention_heads.tsv").read_text()
    assert (tmp_path / "adapter_weights.tsv").read_text() == text
    assert [line.count("\t") for line in text.splitlines()] == [3, 3, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_weights.tsv",
        "config.json",
        "full_attention_heads.tsv",
    ]


def test_a_budgets_whole_heads_are_chosen_by_every_reader(
    streaming_budget: HeadBudgets, tmp_path: Path
) -> None:
    export_budget(streaming_budget, tmp_path, to="duo")
    _, config = load(tmp_path)
    assert (config["sink_size"], config["recent_size"]) == (4, 60)
    for chosen in every_reader(tmp_path):
        assert np.array_equal(chosen, streaming_budget.ratio >= 1)


def test_the_released_pattern_keeps_its_heads_through_import_and_export(
    published: Path, tmp_path: Path
) -> None:
    import_run(published / PATTERN, tmp_path / "run", source="duo")
    run = HeadScores.load(tmp_path / "run")
    before, _ = load(published / PATTERN)
    np.testing.assert_array_equal(run.mean("duo")[:, ::4], before.astype(np.float32))
    assert run.plan["details"] == {"sink_size": 128, "recent_size": 256, "sparsity": None}
    ties = {value for value, count in zip(*np.unique(before, return_counts=True)) if count > 1}  # noqa: B905
    same = 0
    for sparsity in np.arange(1, 256) / 256:
        export_scores(run, tmp_path / "out", to="duo", sparsity=float(sparsity))
        after, config = load(tmp_path / "out")
        assert config["sparsity"] == sparsity
        first, *others = every_reader(tmp_path / "out")
        assert all(np.array_equal(first, other) for other in others)
        # Where the cut falls between equal gates, the released file leaves it to the noise.
        if np.sort(before, axis=None)[round(sparsity * 256)] not in ties:
            assert np.array_equal(first, by_quantile(before, sparsity, seed=0))
            same += 1
    assert same > 30
    export_scores(run, tmp_path / "half", to="duo", sparsity=22 / 256)
    after, _ = load(tmp_path / "half")
    assert np.array_equal(by_half(after), by_half(before))


def test_a_pattern_alone_without_its_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "adapter_weights.tsv").write_text("0.25\t1.5\n-1\t0.5\n")
    for path in (tmp_path, tmp_path / "adapter_weights.tsv"):
        run, notes = import_run(path, tmp_path / "run", source="duo")
        assert run.mean("duo").tolist() == [[0.25, 1.0], [0.0, 0.5]]
        assert notes[0] == "2 gates were clipped to 0 to 1"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected lines of as many numbers"),
        ("0.1\t0.2\n0.3\n", "expected lines of as many numbers"),
        ("0.1\t0.2\t\n", "expected a number, got"),
        ("head0\thead1\n0.1\t0.2\n", "expected a number, got"),
        ("nan\t0.2\n", "layer 0, head 0 of duo: expected finite float32 numbers"),
    ],
)
def test_a_table_of_another_kind_is_one_clear_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "full_attention_heads.tsv").write_text(text)
    with pytest.raises(HeadprobeError, match=f"not a valid duo file: .*{problem}"):
        import_run(tmp_path, tmp_path / "run", source="duo")


TABLE = "0.25\t0.5\n0.75\t1.0\n0.125\t0.0\n"


def pattern(folder: Path, table: str = TABLE, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "full_attention_heads.tsv").write_text(table)
    (folder / "config.json").write_text(json.dumps({"sink_size": 4} | config))
    return folder


@pytest.mark.parametrize("end", range(1, len(TABLE) - 1))
def test_a_table_cut_anywhere_is_refused_or_told_of(tmp_path: Path, end: int) -> None:
    path = pattern(tmp_path / "cut", TABLE[:end])
    try:
        _, notes = import_run(path, tmp_path / "run", source="duo", known=KnownModel(heads=2))
    except HeadprobeError as error:
        assert "not a valid duo file" in str(error)  # noqa: PT017
        return
    lines = TABLE[:end].count("\n")
    assert TABLE[:end].endswith("\n")
    assert f"took the {lines} of the lines of the table; give `layers` or `model`" in notes[0]
    with pytest.raises(UsageError, match="`layers=3`"):
        import_run(path, tmp_path / "run", source="duo", known=KnownModel(layers=3))


def test_a_table_cut_between_lines_shows_where_the_model_is_known(tmp_path: Path) -> None:
    table = "".join("\t".join(["0.5"] * 8) + "\n" for _ in range(32))
    named = {"model_name": "models/Meta-Llama-3.1-8B-Instruct"}
    run, notes = import_run(
        pattern(tmp_path / "whole", table, **named), tmp_path / "run", source="duo"
    )
    assert (run.layout.num_heads, run.layout.num_kv_heads, notes) == (32, 8, ())
    cut = pattern(tmp_path / "cut", table[: len(table) // 2], **named)
    problem = r"the model that it names has `layers=32`: .*cut holds 16 layers of 8 KV heads"
    with pytest.raises(UsageError, match=problem):
        import_run(cut, tmp_path / "other", source="duo")


def test_the_one_folder_with_a_table_is_looked_into(tmp_path: Path) -> None:
    """DuoAttention's repository has a folder a training below the one of the model."""
    model = tmp_path / "Meta-Llama-3-8B"
    pattern(model / "lr=0.02-reg=0.05", sparsity=0.5)
    (model / "logs").mkdir()
    run, _ = import_run(model, tmp_path / "run", source="duo")
    assert (run.layout.id, run.plan["details"]["sparsity"]) == ("Meta-Llama-3-8B", 0.5)
    assert run.mean("duo").tolist() == [[0.25, 0.5], [0.75, 1.0], [0.125, 0.0]]
    before = run.plan["sha256"]
    pattern(model / "lr=0.02-reg=0.05", sparsity=0.25)
    again, _ = import_run(model, tmp_path / "again", source="duo")
    assert again.plan["sha256"] != before
    pattern(model / "second")
    with pytest.raises(UsageError, match=r"2 folders in .* name one: lr=0\.02-reg=0\.05, second"):
        import_run(model, tmp_path / "third", source="duo")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ('{"sink_size": 4} {"sink_size": 8}', "it holds 2 JSON documents"),
        ('{"sink_size": 4, "sink_size": 8}', "key 'sink_size' is given twice"),
        ('{"sink_size": NaN}', "not JSON compliant"),
        ("[]", "expected an object in config.json"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_configuration_with_a_fault_is_refused(tmp_path: Path, config: str, problem: str) -> None:
    (pattern(tmp_path / "p") / "config.json").write_text(config)
    with pytest.raises(HeadprobeError, match=problem):
        import_run(tmp_path / "p", tmp_path / "run", source="duo")


def test_a_folder_without_a_pattern_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither full_attention_heads\.tsv nor adapter_weights"):
        import_run(tmp_path, tmp_path / "run", source="duo")


@pytest.mark.parametrize(("layers", "kv_heads"), [(1, 4), (3, 1)])
def test_a_model_that_loadtxt_would_squeeze_is_refused(
    layers: int, kv_heads: int, make_run: MakeRun, tmp_path: Path
) -> None:
    layout = HeadLayout(
        id="m", architecture="llama", layers=layers, num_heads=4, num_kv_heads=kv_heads, head_dim=8
    )
    run = make_run(np.ones((1, layers, 4)), layout=layout)
    with pytest.raises(UsageError, match="need 2 layers of 2 KV heads or more"):
        export_scores(run, tmp_path / "out", to="duo")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "possible"),
    [
        ("sparsity", 1.1, "0 to 1"),
        ("sparsity", float("nan"), "0 to 1"),
        ("recent", 0, "1 or more"),
        ("sinks", -1, "0 or more"),
        ("reduce", "median", "mean, max, sum"),
    ],
)
def test_wrong_usage_says_what_is_possible(
    option: str, value: object, possible: str, make_run: MakeRun, tmp_path: Path
) -> None:
    with refused(possible, option=option, value=value):
        export_scores(make_run(), tmp_path, to="duo", **{option: value})


def test_an_option_of_other_formats_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    with refused("format duo .* it takes `measure`, `reduce`, `sparsity`", option="beta"):
        export_scores(make_run(), tmp_path, to="duo", beta=1.2)


@pytest.mark.parametrize("stop_at", range(4))
def test_an_export_over_an_older_one_that_stops_in_between_is_no_mixture(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    export_scores(make_run(), tmp_path / "old", to="duo", sparsity=0.25)
    export_scores(make_run(), tmp_path / "new", to="duo", sparsity=0.75)
    old, new = (
        {path.name: path.read_text() for path in (tmp_path / name).iterdir()}
        for name in ("old", "new")
    )
    written: list[Path] = []
    write = duo.atomic_write

    def stop(path: Path) -> AbstractContextManager[Path]:
        if len(written) == stop_at:
            raise KeyboardInterrupt
        written.append(path)
        return write(path)

    monkeypatch.setattr(duo, "atomic_write", stop)
    with suppress(KeyboardInterrupt):
        export_scores(make_run(), tmp_path / "old", to="duo", sparsity=0.75)
    found = {path.name: path.read_text() for path in (tmp_path / "old").iterdir()}
    tables = found.keys() - {"config.json"}
    assert not tables or found["config.json"] == new["config.json"] != old["config.json"]
    assert all(found[name] == new[name] for name in tables)
