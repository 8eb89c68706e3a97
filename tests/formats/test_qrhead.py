from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headprobe.errors import HeadprobeError
from headprobe.formats.import_run import KnownModel, import_run

# As QRRetriever's configurations are written.
CONFIG = """# Default configuration for QRRetriever

attn_head_set: "14-22,13-16,14-28,31-3" # top heads
model_base_class: "Llama-3.1-8B-Instruct"
model_name_or_path: "meta-llama/Llama-3.1-8B-Instruct"
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_named_heads_score_one_and_the_model_tells_the_sizes(tmp_path: Path) -> None:
    path = write(tmp_path / "heads.yaml", CONFIG)
    run, notes = import_run(path, tmp_path / "run", source="qrhead")
    layout = run.layout
    assert (layout.layers, layout.num_heads, layout.num_kv_heads) == (32, 32, 8)
    found = {tuple(head) for head in np.argwhere(run.mean("qrhead") == 1).tolist()}
    assert found == {(14, 22), (13, 16), (14, 28), (31, 3)}
    assert run.mean("qrhead").sum() == 4
    assert notes == ()


@pytest.mark.parametrize(
    "text", ['attn_head_set: "2_3, 0_1"', "attn_head_set: [2-3, 0-1]", "attn_head_set: 2-3,0-1"]
)
def test_other_ways_of_writing_are_read_and_guessed_sizes_are_said(
    tmp_path: Path, text: str
) -> None:
    path = write(tmp_path / "heads.yaml", text)
    run, notes = import_run(path, tmp_path / "run", source="qrhead")
    assert run.mean("qrhead").tolist() == [[0, 1, 0, 0], [0] * 4, [0, 0, 0, 1]]
    assert "took 3 layers of 4 query heads" in notes[0]
    known = KnownModel(layers=4, heads=8, kv_heads=2)
    run, notes = import_run(path, tmp_path / "told", source="qrhead", known=known)
    assert (run.mean("qrhead").shape, notes) == ((4, 8), ())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('attn_head_set: "full_heads"', "expected layer-head, as in 13-18, got 'full_heads'"),
        ("attn_head_set: 7", "expected layer-head, as in 13-18,14-22, got 7"),
        ("attn_head_set: [1-2, 1-2]", "a head is named twice"),
        ("attn_head_set: 1-2\nattn_head_set: 1-3", "a key is given twice"),
        ("attn_head_set: 1-2\nmodel_name_or_path: Qwen/Qwen3-8B\nattn: !!python/tuple [1]", "YAML"),
        ("attn_head_set: 40-2\nmodel_name_or_path: Qwen/Qwen3-8B", "names layer 40 and head 2"),
        ("attn_head_set: 998-998", "32,768 heads are the most"),
        ("attn_head_set: &a [*a]", "it has references"),
        ("heads: 1-2", "expected attn_head_set in it"),
        ("- 1-2", "expected attn_head_set in it"),
        ("a: [", "it is no YAML that can be read"),
        ("[" * 100_000, "it has 100,000 bytes, a table of heads 20,000 at most"),
        ("[" * 10_000, "it is nested too deeply"),
        ("- " * 10_000, "it is nested too deeply"),
        ("? {a: b}\n: c", "it is no YAML that can be read"),
        ("", "expected attn_head_set in it, got None"),
        ("\0", "it is no YAML that can be read"),
    ],
)
def test_what_names_no_heads_is_one_clear_line(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path / "heads.yaml", text)
    with pytest.raises(HeadprobeError, match="not a valid qrhead file") as error:
        import_run(path, tmp_path / "run", source="qrhead")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
