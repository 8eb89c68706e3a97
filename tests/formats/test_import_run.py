from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headprobe.allocators import BudgetSize, allocate
from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats.import_run import KnownModel, import_run
from headprobe.runs.identity import Plan
from headprobe.runs.progress import FILE_NAME, open_progress
from headprobe.scores import HeadScores
from tests._support.refusals import refused

SCORES = {f"{layer}-{head}": [0.1 * head, 0.3 * layer] for layer in range(2) for head in range(4)}


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    path = tmp_path / "heads.json"
    path.write_text(json.dumps(SCORES))
    return path


def test_the_run_directory_holds_the_scores_their_table_and_where_they_come_from(
    heads: Path, tmp_path: Path
) -> None:
    known = KnownModel(id="meta/llama", kv_heads=2)
    run, notes = import_run(heads, tmp_path / "run", source="headkv", known=known)
    assert notes == ()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "heads.csv",
        "progress.sqlite",
        "run.json",
        "scores.safetensors",
    ]
    back = HeadScores.load(tmp_path / "run")
    assert back.layout == run.layout
    assert (back.layout.id, back.layout.num_heads, back.layout.num_kv_heads) == ("meta/llama", 4, 2)
    assert (back.passed, back.cases, back.measures) == (2, 2, ("headkv",))
    assert back.per_case["headkv"].dtype == np.float32
    assert back.plan["imported"] == "headkv"
    assert back.plan["file"] == "heads.json"
    assert len(back.plan["sha256"]) == 64
    assert len(pd.read_csv(tmp_path / "run" / "heads.csv")) == 8
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "imported"


def test_the_mean_is_that_of_the_file_not_of_rounded_cases(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    table = {f"0-{head}": (draw.random(101) ** 8).tolist() for head in range(400)}
    (tmp_path / "heads.json").write_text(json.dumps(table))
    import_run(tmp_path / "heads.json", tmp_path / "run", source="headkv")
    run = HeadScores.load(tmp_path / "run")
    exact = np.array([np.mean(cases) for cases in table.values()]).astype(np.float32)
    assert np.array_equal(run.mean("headkv")[0], exact)
    of_rounded = run.per_case["headkv"].mean(axis=0, dtype=np.float64).astype(np.float32)
    assert not np.array_equal(of_rounded[0], exact)


def test_numbers_of_kv_heads_stand_for_their_whole_group(tmp_path: Path) -> None:
    (tmp_path / "fractions.json").write_text('{"L0H0": 0.75, "L0H1": 0.25}')
    run, _ = import_run(
        tmp_path / "fractions.json",
        tmp_path / "run",
        source="attention-matching",
        known=KnownModel(heads=6),
    )
    mean = run.mean("attention-matching")
    assert mean.tolist() == [[0.75, 0.75, 0.75, 0.25, 0.25, 0.25]]
    for reduce in ("mean", "max"):
        budgets = allocate(mean, run.layout, budget=BudgetSize(tokens=108), beta=1.0, reduce=reduce)
        assert budgets.tokens.tolist() == [[158, 58]]


def test_what_a_file_does_not_say_is_taken_and_told(heads: Path, tmp_path: Path) -> None:
    run, notes = import_run(heads, tmp_path / "run", source="headkv")
    assert (run.layout.id, run.layout.num_kv_heads, run.layout.head_dim) == ("heads", 4, 128)
    assert notes == (
        "the file holds query heads: took as many KV heads, 4 a layer; "
        "give `kv_heads` if they share KV heads",
    )


def test_a_model_is_named_after_a_folder_with_a_point_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "Llama-3.1-8B"
    folder.mkdir()
    (folder / "full_attention_heads.tsv").write_text("0.1\t0.2\n0.3\t0.4\n")
    run, _ = import_run(folder, tmp_path / "run", source="duo")
    assert run.layout.id == "Llama-3.1-8B"


@pytest.mark.parametrize(
    ("known", "problem"),
    [
        (KnownModel(layers=3), "`layers=3`"),
        (KnownModel(layers=1), "`layers=1`"),
        (KnownModel(heads=2), "`heads=2`"),
        (KnownModel(heads=7, layers=9, kv_heads=7), "`layers=9` and `heads=7`"),
        (KnownModel(kv_heads=3), "`kv_heads=3`"),
        (
            KnownModel(layers=32, heads=8, told_by=dict.fromkeys(["layers", "heads"], "`model=m`")),
            "`model=m`",
        ),
        (KnownModel(layers=9, heads=4, told_by={"heads": "`model=m`"}), "`layers=9`"),
    ],
)
def test_sizes_that_are_not_the_files_are_wrong_usage(
    known: KnownModel, problem: str, heads: Path, tmp_path: Path
) -> None:
    with refused(rf"^{problem}: .*heads\.json holds 2 layers of 4 query heads$", path=heads):
        import_run(heads, tmp_path / "run", source="headkv", known=known)
    assert not (tmp_path / "run").exists()


def test_a_file_that_lacks_a_head_is_not_blamed_on_the_sizes(heads: Path, tmp_path: Path) -> None:
    heads.write_text(json.dumps({name: s for name, s in SCORES.items() if name != "0-2"}))
    with pytest.raises(HeadprobeError, match="is not a valid headkv file: it lacks 0-2") as error:
        import_run(heads, tmp_path / "run", source="headkv", known=KnownModel(layers=3))
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    ("known", "problem"),
    [
        (KnownModel(layers=3), "`layers=3`: .* holds 2 layers of 2 KV heads"),
        (KnownModel(kv_heads=4), "`kv_heads=4`: .* holds 2 layers of 2 KV heads"),
        (KnownModel(heads=3), "`heads=3`: .* holds 2 layers of 2 KV heads"),
    ],
)
def test_a_table_of_another_shape_is_refused(
    known: KnownModel, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "full_attention_heads.tsv").write_text("0.1\t0.2\n0.3\t0.4\n")
    with refused(problem, path=tmp_path):
        import_run(tmp_path, tmp_path / "run", source="duo", known=known)


def test_wrong_usage_says_what_is_possible(heads: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no format 'snap'; choose from headkv"):
        import_run(heads, tmp_path / "run", source="snap")
    with pytest.raises(UsageError, match="kvpress is only written; those that are read are headkv"):
        import_run(heads, tmp_path / "run", source="kvpress")
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(UsageError, match="no file at"):
            import_run(path, tmp_path / "run", source="headkv")


def test_a_run_that_was_scored_is_left_alone(heads: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with open_progress(tmp_path / "run" / FILE_NAME) as progress:
        progress.begin(Plan(identity={"kind": "score"}))
    with refused('kind was "score", now "import"', path=tmp_path / "run"):
        import_run(heads, tmp_path / "run", source="headkv")


def test_an_import_over_an_older_one_is_refused_if_it_is_another(
    heads: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    import_run(heads, out, source="headkv")
    import_run(heads, out, source="headkv")
    with pytest.raises(UsageError, match="kv_heads was 4, now 2"):
        import_run(heads, out, source="headkv", known=KnownModel(kv_heads=2))
    assert HeadScores.load(out).layout.num_kv_heads == 4
    import_run(heads, out, source="headkv", known=KnownModel(kv_heads=2), overwrite=True)
    assert HeadScores.load(out).layout.num_kv_heads == 2


def test_the_same_file_under_another_name_is_the_same_import(heads: Path, tmp_path: Path) -> None:
    known = KnownModel(id="meta/llama")
    import_run(heads, tmp_path / "run", source="headkv", known=known)
    heads.rename(tmp_path / "other.json")
    import_run(tmp_path / "other.json", tmp_path / "run", source="headkv", known=known)
    assert HeadScores.load(tmp_path / "run").plan["file"] == "other.json"


def test_a_file_is_not_imported_onto_itself(heads: Path, tmp_path: Path) -> None:
    table = heads.rename(tmp_path / "heads.csv")
    with pytest.raises(UsageError, match="would be replaced by what is imported from it"):
        import_run(table, tmp_path, source="headkv", overwrite=True)
    assert json.loads(table.read_text()) == SCORES


def test_text_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "heads.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HeadprobeError, match="is not a valid headkv file: it is no UTF-8 text"):
        import_run(tmp_path / "heads.json", tmp_path / "run", source="headkv")
