import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.errors import HeadprobeError, UsageError
from headprobe.prompts.haystacks import sentences, split_sentences
from headprobe.prompts.noise import filler
from tests._support.refusals import refused


def first(source: str | Path, count: int) -> list[str]:
    return list(itertools.islice(sentences(str(source), seed=0), count))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One fish. Two fish!  Red?\nBlue.", ["One fish.", "Two fish!", "Red?", "Blue."]),
        ("It cost 3.50 in all. Cheap!", ["It cost 3.50 in all.", "Cheap!"]),
        ('He said "go." She went.', ['He said "go."', "She went."]),
        ("(So he said 'no.') And left.", ["(So he said 'no.')", "And left."]),
        ("“Go.” She went.", ["“Go.”", "She went."]),
        (
            "A title\n\nThe first\nsentence. The next",
            ["A title", "The first sentence.", "The next"],
        ),
        ("雨が降る。「晴れる。」と言う。", ["雨が降る。", "「晴れる。」", "と言う。"]),
        ("No end", ["No end"]),
        (" \n\n ", []),
    ],
)
def test_a_text_is_cut_behind_its_sentences(text: str, expected: list[str]) -> None:
    assert list(split_sentences([text])) == expected


@given(st.text(alphabet="ab .!?\"')\n。」”", max_size=40))
def test_cutting_loses_no_character_but_white_space(text: str) -> None:
    assert "".join("".join(split_sentences([text])).split()) == "".join(text.split())


def test_texts_are_never_joined_into_one_sentence() -> None:
    assert list(split_sentences(["no full stop", "another"])) == ["no full stop", "another"]


def test_a_text_starts_over_when_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "essay.txt"
    path.write_text("One. Two. Three.")
    assert first(path, 7) == ["One.", "Two.", "Three.", "One.", "Two.", "Three.", "One."]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "essay.txt"
    path.write_text("One. Two.", encoding="utf-8-sig")
    assert first(path, 1) == ["One."]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Third.")
    (tmp_path / "a.md").write_text("First. Second.")
    (tmp_path / "c.jsonl").write_text('{"text": "Fourth."}')
    (tmp_path / "0.png").write_bytes(b"\x89PNG")
    assert first(tmp_path, 5) == ["First.", "Second.", "Third.", "Fourth.", "First."]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": 7, "text": "Right."}, "Right."),
        ({"title": "Wrong.", "text": "Right."}, "Right."),
        ({"title": "Wrong.", "content": "Right."}, "Right."),
        ({"id": 7, "body": "Right.", "note": "Wrong."}, "Right."),
        ({"text": None, "body": "Right."}, "Right."),
        ("Right.", "Right."),
        ({"text": "Right\u2028here."}, "Right here."),
    ],
)
def test_a_row_of_jsonl_gives_its_text(tmp_path: Path, row: object, expected: str) -> None:
    path = tmp_path / "book.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert first(path, 1) == [expected]


@pytest.mark.parametrize(
    ("line", "problem"), [("{", "not JSON"), ("3", "a text field"), ('{"a": 1}', "a text field")]
)
def test_a_row_of_jsonl_that_cannot_be_used_is_named(
    tmp_path: Path, line: str, problem: str
) -> None:
    path = tmp_path / "book.jsonl"
    path.write_text(f'{{"text": "One."}}\n\n{line}\n')
    with pytest.raises(UsageError, match=rf"book\.jsonl, line 3: .*{problem}"):
        first(path, 2)


def test_a_source_without_sentences_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n ")
    with pytest.raises(UsageError, match=r"blank\.txt holds no sentence"):
        sentences(str(tmp_path / "blank.txt"), seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"holds no \.txt, \.md or \.jsonl file"):
        sentences(str(tmp_path / "empty"), seed=0)
    with refused("not there; expected a text file", option="haystack", value=Path("nowhere")):
        sentences("nowhere", seed=0)
    (tmp_path / "latin.txt").write_bytes("Café.".encode("latin-1"))
    with pytest.raises(UsageError, match=r"cannot read the haystack .*latin\.txt"):
        sentences(str(tmp_path / "latin.txt"), seed=0)


def test_noise_is_prose_of_the_bundled_language_drawn_by_the_seed() -> None:
    drawn = [list(itertools.islice(sentences("noise", seed=seed), 50)) for seed in (3, 3, 4)]
    rng = random.Random(3)
    assert drawn[0] == drawn[1] == [filler(rng) for _ in range(50)]
    assert drawn[0] != drawn[2]
    assert len(set(drawn[0])) > 45


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    folder = tmp_path / "letters"
    folder.mkdir()
    rows = [{"id": i, "title": f"Title {i}.", "content": f"Text {i}. More."} for i in range(2)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.usefixtures("offline")
def test_a_data_set_gives_its_text_or_the_column_named(data_set: Path) -> None:
    assert first(f"hf:{data_set}", 5) == ["Text 0.", "More.", "Text 1.", "More.", "Text 0."]
    assert first(f"hf:{data_set}:title", 2) == ["Title 0.", "Title 1."]


@pytest.mark.usefixtures("offline")
def test_one_of_several_configurations_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "several"
    folder.mkdir()
    listed = "".join(
        f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("one", "two")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    for name in ("one", "two"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": f"From {name}."}))
    assert first(f"hf:{folder}@two", 1) == ["From two."]
    assert first(f"hf:{folder}@one:text", 1) == ["From one."]
    with pytest.raises(HeadprobeError, match="several@<configuration>") as error:
        first(f"hf:{folder}", 1)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("offline")
def test_a_data_set_without_a_training_split_gives_the_split_it_has(data_set: Path) -> None:
    (data_set / "train.jsonl").rename(data_set / "test.jsonl")
    assert first(f"hf:{data_set}:title", 1) == ["Title 0."]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("column", ["nowhere", "id"])
def test_a_column_without_text_is_named_beside_those_there_are(data_set: Path, column: str) -> None:
    problem = rf"no text in {column}; its columns are id, title, content"
    with pytest.raises(UsageError, match=problem):
        first(f"hf:{data_set}:{column}", 1)


@pytest.mark.usefixtures("offline")
def test_a_data_set_out_of_reach_is_one_clear_error() -> None:
    problem = "cannot load the data set nobody/nothing: .*; check its name and the network"
    with pytest.raises(HeadprobeError, match=problem) as error:
        first("hf:nobody/nothing", 1)
    assert error.value.exit_code == 1


def test_a_data_set_without_the_library_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headprobe.prompts.haystacks.find_spec", lambda _: None)
    with refused("pip install datasets", option="haystack", value="hf:some/set"):
        first("hf:some/set", 1)


def test_text_files_are_read_without_the_heavy_libraries(tmp_path: Path) -> None:
    (tmp_path / "essay.txt").write_text("One.")
    script = (
        "import sys; from headprobe.prompts.haystacks import sentences; "
        f"assert next(sentences({str(tmp_path / 'essay.txt')!r}, seed=0)) == 'One.'; "
        "sys.exit(any(name in sys.modules for name in ('datasets', 'torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_text_without_full_stops_is_parted_between_words() -> None:
    words = [f"word{i}" for i in range(500)]
    found = list(split_sentences(["\n".join(words)]))
    assert len(found) > 5
    assert max(map(len, found)) <= 400
    assert " ".join(found).split() == words


def test_abbreviations_end_no_sentence_and_other_full_stops_do() -> None:
    text = "Dr. Ash met Mrs. Birch, e.g. in St. Ives. यह है। वह है। Done."
    wanted = ["Dr. Ash met Mrs. Birch, e.g. in St. Ives.", "यह है।", "वह है।", "Done."]
    assert list(split_sentences([text])) == wanted
