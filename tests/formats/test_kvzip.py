from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats import export_scores
from headprobe.formats.import_run import KnownModel, import_run
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores

MakeRun = Callable[..., HeadScores]


def kept_by_kvzip(path: Path, ratio: float, tokens: int = 10) -> torch.Tensor:
    """KVzip's load_head_score and _threshold: the heads that keep their entries."""
    head = torch.load(path).squeeze()
    score = head.unsqueeze(-1).expand(-1, -1, tokens).unsqueeze(1)
    ordered = torch.sort(score.reshape(-1), descending=True).values
    threshold = ordered[max(int(len(ordered) * ratio) - 1, 0)].item()
    return (score > threshold).squeeze(1).all(dim=-1)


@pytest.mark.parametrize("kind", ["spread", "tied", "beyond"])
def test_the_best_heads_are_kept_one_after_another(
    kind: str, make_run: MakeRun, tmp_path: Path
) -> None:
    draw = np.random.default_rng(2)
    cases = {
        "spread": draw.random((1, 3, 8)),
        "tied": draw.integers(0, 2, (1, 3, 8)).astype(float),
        "beyond": 5 * draw.normal(size=(1, 3, 8)),
    }[kind]
    run = make_run(cases)
    notes = export_scores(run, tmp_path / "heads.pt", to="kvzip")
    assert notes[0] == "the 2 query heads of a KV head were reduced by max"
    assert ("equal scores were set" in notes[-1]) == (kind == "tied")
    tensor = torch.load(tmp_path / "heads.pt", weights_only=True)
    assert (tensor.dtype, tensor.shape) == (torch.float32, (3, 4))
    assert tensor.min() >= 0
    assert tensor.max() <= 1
    of_kv = run.mean("r2").reshape(3, 4, 2).max(axis=2)
    ranked = sorted(np.ndindex(3, 4), key=lambda place: (-of_kv[place], place))
    for count in range(1, 12):
        # The reader keeps what lies strictly above the head on which its quantile falls.
        kept = kept_by_kvzip(tmp_path / "heads.pt", ratio=(count + 0.5) / 12)
        assert sorted(map(tuple, kept.nonzero().tolist())) == sorted(ranked[:count])


def test_scores_from_0_to_1_stay_as_they_are_and_come_back(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    export_scores(run, tmp_path / "heads.pt", to="kvzip", reduce="mean")
    back, notes = import_run(
        tmp_path / "heads.pt", tmp_path / "run", source="kvzip", known=KnownModel(heads=8)
    )
    assert notes == ()
    of_kv = run.mean("r2").reshape(3, 4, 2).mean(axis=2)
    np.testing.assert_allclose(back.mean("kvzip")[:, ::2], of_kv, atol=1e-6)
    assert np.array_equal(back.mean("kvzip")[:, ::2], back.mean("kvzip")[:, 1::2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_tensors_of_any_precision_and_with_axes_of_one_are_read(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.save(torch.tensor([[[0, 1], [1, 0]]]).to(dtype), tmp_path / "heads.pt")
    run, _ = import_run(tmp_path / "heads.pt", tmp_path / "run", source="kvzip")
    assert run.mean("kvzip").tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([1, 2], "expected a tensor, got list"),
        (torch.ones(3), r"expected a table of layers and KV heads, got \(3,\)"),
        (torch.ones(2, 3, 4), "expected a table of layers and KV heads"),
        (torch.ones(0, 4), "expected a table of layers and KV heads"),
        (
            torch.tensor([[1.0, float("nan")]]),
            "layer 0, head 1 of kvzip: expected finite float32 numbers",
        ),
        (torch.ones(2, 2, dtype=torch.complex64), "expected a tensor"),
    ],
)
def test_anything_else_is_one_clear_line(content: object, problem: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "heads.pt")
    with pytest.raises(HeadprobeError, match=f"is not a valid kvzip file: {problem}"):
        import_run(tmp_path / "heads.pt", tmp_path / "run", source="kvzip")


@pytest.mark.parametrize("source", ["kvzip", "razor"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (torch.zeros(1).expand(30_000, 30_000), "it holds 900,000,000 numbers"),
        (torch.zeros(1_100_000), "it has|it holds 1,100,000 numbers"),
        (torch.arange(900.0).reshape(30, 30), None),
        ({0: torch.ones(90, 90)}, None),
        ({"copying": [torch.ones(90, 90)] * 9}, None),
    ],
)
def test_large_tensors_take_no_memory_and_one_short_line(
    source: str, content: object, problem: str | None, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "heads.pt")
    if source == "kvzip" and isinstance(content, torch.Tensor) and problem is None:
        return
    with pytest.raises(HeadprobeError, match=f"is not a valid {source} file: {problem or ''}") as e:
        import_run(tmp_path / "heads.pt", tmp_path / "run", source=source)
    line = str(e.value).removeprefix(str(tmp_path))
    assert "\n" not in line
    assert len(line) < 240


def test_an_archive_that_unpacks_into_far_more_is_not_unpacked(tmp_path: Path) -> None:
    torch.save(torch.ones(2, 2), tmp_path / "heads.pt")
    with (
        zipfile.ZipFile(tmp_path / "heads.pt") as small,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in small.infolist():
            content = bytes(50_000_000) if entry.filename.endswith("/0") else small.read(entry)
            bomb.writestr(entry.filename, content)
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    with pytest.raises(HeadprobeError, match="it unpacks into 50,000,"):
        import_run(tmp_path / "bomb.pt", tmp_path / "run", source="kvzip")


def test_a_model_that_squeeze_would_flatten_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    layout = HeadLayout(
        id="m", architecture="llama", layers=3, num_heads=4, num_kv_heads=1, head_dim=8
    )
    with pytest.raises(UsageError, match="needs 2 layers of 2 KV heads or more"):
        export_scores(
            make_run(np.ones((1, 3, 4)), layout=layout), tmp_path / "heads.pt", to="kvzip"
        )


@pytest.mark.parametrize(
    ("said", "told"),
    [("the end is missing. Please report it", "the end is missing"), ("abcd " * 40, "abcd ...")],
)
def test_what_torch_says_of_a_damaged_file_is_not_cut_in_mid_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    def load(*_: object, **__: object) -> None:
        raise RuntimeError(said)

    (tmp_path / "heads.pt").touch()
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(HeadprobeError, match=rf"damaged or no \.pt file \(.*{told}\)$"):
        import_run(tmp_path / "heads.pt", tmp_path / "run", source="kvzip")
