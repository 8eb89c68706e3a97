import itertools
import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.errors import HeadprobeError, HeadprobeWarning, UsageError
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
def test_a_text_is_cut_after_its_sentences(text: str, expected: list[str]) -> None:
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
    assert first(tmp_path, 5) == ["First.", "Second.", "Third.", "Fourth.", "First."]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": 7, "text": "Right."}, "Right."),
        ({"id": 7, "text": "Right.", "tags": ["Wrong."], "more": {"text": "Wrong."}}, "Right."),
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
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("3", "no text in 3: expected a text, or an object with one"),
        ('{"a": 1}', "no text in column 'text'; its columns are a"),
        ('{"text": 3}', "no text in column 'text'"),
        ('{"text": "a", "text": "b"}', "key 'text' is given twice"),
        ('{"text": "\\ud83d"}', "its text has half a surrogate pair"),
        ('{"text": ' + 100_000 * "[", "nested too deeply"),
        (json.dumps({"text": "w" * 1_000_001}), "a word of 1,000,001 characters"),
    ],
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
    with pytest.raises(UsageError, match=r"empty holds no \.txt, \.md, .* file"):
        sentences(str(tmp_path / "empty"), seed=0)
    with refused("not there; expected a file", option="haystack", value=Path("nowhere")):
        sentences("nowhere", seed=0)
    (tmp_path / "latin.txt").write_bytes("Café.".encode("latin-1"))
    with pytest.raises(UsageError, match=r"cannot read the haystack file .*latin\.txt"):
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
    with pytest.warns(HeadprobeWarning, match="the column 'content' is read"):
        found = first(f"hf:{data_set}", 5)
    assert found == ["Text 0.", "More.", "Text 1.", "More.", "Text 0."]
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
    problem = rf"row 1: no text in column '{column}'; its columns are id, title, content"
    with pytest.raises(UsageError, match=problem):
        first(f"hf:{data_set}:{column}", 1)


@pytest.mark.usefixtures("offline")
def test_a_data_set_out_of_reach_is_one_clear_error() -> None:
    problem = "cannot read the data set nobody/nothing: .*; check its name and the network"
    with pytest.raises(HeadprobeError, match=problem) as error:
        first("hf:nobody/nothing", 1)
    assert error.value.exit_code == 1


def test_a_data_set_without_the_library_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headprobe.prompts.data_sets.find_spec", lambda _: None)
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


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


NEEDLE = {"needle": "The heron rides the tram.", "question": "?", "real_needle": "the tram"}


@pytest.mark.parametrize("name", ["needles.jsonl", "z.JSON", "part1/needles.jsonl"])
def test_a_folder_is_read_through_but_for_the_needles_in_it(tmp_path: Path, name: str) -> None:
    """Retrieval Head keeps its needles beside folders of essays."""
    write(tmp_path / "part1" / "b.TXT", "Second.")
    write(tmp_path / "a.Md", "First.")
    write(tmp_path / "part2" / "deep" / "c.jsonl", '{"id": "x", "body": "A third one."}')
    write(tmp_path / name, json.dumps(NEEDLE))
    with warnings.catch_warnings(record=True, action="always") as told:
        found = first(tmp_path, 4)
    assert found == ["First.", "Second.", "A third one.", "First."]
    assert f"is left out: {name} (needles)" in " ".join(str(one.message) for one in told)


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "First.")
    for name in (".hidden.txt", ".git/x.txt", "run.py", "b.html", "logo.png"):
        write(tmp_path / name, "Wrong.")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.warns(HeadprobeWarning, match=r"b\.html, logo\.png, pipe\.txt and 3 more$"):
        assert first(tmp_path, 2) == ["First.", "First."]


def test_needles_are_no_haystack(tmp_path: Path) -> None:
    path = write(tmp_path / "needles.jsonl", json.dumps(NEEDLE))
    with pytest.raises(UsageError, match=r"needles\.jsonl holds needles, not prose"):
        first(path, 1)


ROWS = [
    {"id": "a1", "url": "http://x", "body": "A long text. Of two."},
    {"id": "a2", "url": "http://y", "body": None},
    {"id": "a3", "url": "http://z", "body": " "},
    {"id": "a4", "url": "http://z", "body": "Another, too."},
]


def table(path: Path) -> Path:
    if path.suffix == ".parquet":
        pd.DataFrame(ROWS).to_parquet(path)
    elif path.suffix == ".csv":
        pd.DataFrame(ROWS).to_csv(path, index=False, sep=";" if "semicolon" in path.name else ",")
    else:
        content = {
            "object.json": {"version": "1.1", "data": ROWS},
            "column.json": {"name": "essays", "body": [row["body"] for row in ROWS]},
        }.get(path.name, ROWS)
        lines = "\n".join(map(json.dumps, ROWS))
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(content, indent=1))
    return path


TABLES = ["t.jsonl", "t.json", "object.json", "t.csv", "semicolon.csv", "t.parquet"]


@pytest.mark.parametrize("name", [*TABLES, "column.json"])
def test_of_a_table_the_longest_texts_are_read_and_it_is_said(tmp_path: Path, name: str) -> None:
    path = table(tmp_path / name)
    with warnings.catch_warnings(record=True, action="always") as told:
        found = first(path, 4)
    assert "'body' is read" in str(told[-1].message)
    assert found == ["A long text.", "Of two.", "Another, too.", "A long text."]


@pytest.mark.parametrize("name", TABLES)
def test_the_column_that_is_named_is_read(tmp_path: Path, name: str) -> None:
    path = table(tmp_path / name)
    with warnings.catch_warnings(action="ignore" if name == "object.json" else "error"):
        assert first(f"{path}:id", 3) == ["a1", "a2", "a3"]
        assert first(f"{path}:body", 3) == ["A long text.", "Of two.", "Another, too."]
    problem = r"(line|entry|row) \d: no text in column 'nowhere'; its columns are id, url, body"
    with (
        pytest.raises(UsageError, match=problem),
        warnings.catch_warnings(action="ignore", category=HeadprobeWarning),
    ):
        first(f"{path}:nowhere", 1)


def test_a_path_with_a_colon_in_it_is_a_path(tmp_path: Path) -> None:
    assert first(write(tmp_path / "a:b.txt", "One."), 1) == ["One."]
    with pytest.raises(UsageError, match=r"a:b\.txt is prose and has no column body"):
        first(f"{tmp_path / 'a:b.txt'}:body", 1)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("book", "One.", "is of another kind than .txt"),
        ("book.html", "<p>One.</p>", "is of another kind than .txt"),
        ("book.txt", "w" * 1_000_001, "a word of 1,000,001 characters"),
        ("t.json", '{"a": {"text": "One."}}', "entry 1: no text in any column; its columns are a"),
        ("t.json", "7", "entry 1: no text in 7"),
        ("t.json", '{"text": "One."} {"text": "Two."}', "not JSON .more than one document"),
        ("t.csv", "a,b\n1,2,3\n", "line 2: expected 2 cells, got 3"),
        ("t.csv", "a,a\n1,2\n", "expected a header with a name a column"),
        ("t.csv", 'a,b\n1,"2\n', "line 2: no CSV"),
        ("t.parquet", "PAR1", "cannot read the haystack file .*t.parquet"),
    ],
)
def test_what_cannot_be_read_as_prose_is_one_line(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UsageError, match=problem) as error:
        first(f"{path}", 1)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("source", ["", "hf:", "hf::", "hf::text", "hf:@x", "x.jsonl:", "x" * 999])
def test_a_source_that_names_nothing_is_wrong_usage(source: str) -> None:
    with refused(option="haystack", value=source):
        first(source, 1)


def test_a_fifo_is_no_haystack(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with refused("no regular file", option="haystack", value=tmp_path / "pipe.txt"):
        first(tmp_path / "pipe.txt", 1)
