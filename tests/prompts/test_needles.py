import json
import os
import unicodedata
from pathlib import Path

import pytest

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.prompts.needles import Needle, language_of, parse_needle, read_needles

# As Retrieval Head and HeadKV write them: their fields, their order of fields, their quirks.
RETRIEVAL_HEAD = [
    {
        "needle": "The best thing to do in Lisbon is to ride the yellow tram at dawn.",
        "question": "What is the best thing to do in Lisbon ?",
        "real_needle": "ride the yellow tram at dawn",
    },
    {
        "question": "Why does everyone avoid Mr Brown ?",
        "needle": "Mr Brown is avoided by everyone because he sings off key and can't swim.",
        "real_needle": "Because he sings off key and can't swim.",
    },
]
HEADKV = {
    "needle": "Ann's favorite thing is a kite. Bob's favorite thing is a drum. "
    "Bob is 12 years old. Ann is 13 years old.",
    "question": "What is the favorite thing of the older one?",
    "answer": "a kite",
    "real_needle": "Ann's favorite thing is a kite.",
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def watched(needle: Needle) -> str:
    return needle.text[needle.start : needle.stop]


def test_retrieval_heads_file_is_read_as_it_is(tmp_path: Path) -> None:
    first, second = read_needles(write(tmp_path / "needles.jsonl", *RETRIEVAL_HEAD))
    assert first.text == RETRIEVAL_HEAD[0]["needle"]
    assert first.question == RETRIEVAL_HEAD[0]["question"]
    assert first.answer == watched(first) == "ride the yellow tram at dawn"
    # The span is the needle's own spelling, the answer the file's.
    assert watched(second) == "because he sings off key and can't swim."
    assert second.answer == "Because he sings off key and can't swim."


def test_headkvs_file_is_read_as_it_is(tmp_path: Path) -> None:
    (needle,) = read_needles(write(tmp_path / "needles.jsonl", HEADKV))
    assert needle.text == HEADKV["needle"]
    assert needle.answer == "a kite"
    assert (needle.start, needle.stop) == (0, len("Ann's favorite thing is a kite."))


def test_fields_of_no_use_are_left_alone_and_spaces_around_texts_go() -> None:
    needle = parse_needle(
        {"needle": "\nIt is red.\n", "question": " Which? ", "real_needle": " red ", "asks": 3}
    )
    assert (needle.text, needle.question, needle.answer) == ("It is red.", "Which?", "red")
    assert watched(needle) == "red"


def test_empty_lines_windows_line_ends_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "needles.jsonl"
    lines = [json.dumps(row).encode() for row in RETRIEVAL_HEAD]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n  \r\n".join(lines))
    assert len(read_needles(path)) == 2


def test_the_wrong_answer_and_the_kind_are_read_where_they_are_told(tmp_path: Path) -> None:
    told = HEADKV | {"wrong_answer": " a drum ", "kind": "comparing"}
    untold = RETRIEVAL_HEAD[0] | {"wrong_answer": None}
    one, other = read_needles(write(tmp_path / "needles.jsonl", told, untold))
    assert (one.wrong_answer, one.kind) == ("a drum", "comparing")
    assert (other.wrong_answer, other.kind) == (None, None)


@pytest.mark.parametrize(
    ("needle", "real_needle", "watched_part"),
    [
        ("The code is 4471.", 4471, "4471"),
        ("It costs 2.5 crowns.", 2.5, "2.5"),
        ("The cafe\u0301 opens at dawn.", "café", "cafe\u0301"),
        ("The café opens at dawn.", "cafe\u0301 opens", "café opens"),
        ("Ann’s “red” kite – hers.", 'Ann\'s "red" kite - hers', "Ann’s “red” kite – hers"),  # noqa: RUF001
        ("Ride the\nyellow\r\n tram.", "the yellow tram", "the\nyellow\r\n tram"),
        ("Ride\u00a0the tram.", "ride the\u2009tram", "Ride\u00a0the tram"),
        ("The ﬁrst soft\u00adware.", "first software", "ﬁrst soft\u00adware"),
        ("서울에서 만나자.", unicodedata.normalize("NFD", "서울에서"), "서울에서"),
        ("The ＷＩＤＥ road.", "wide", "ＷＩＤＥ"),  # noqa: RUF001
        ("Not a café but a cafe.", "cafe", "cafe"),
        ("Café, cafe\u0301, cafes, CAFE", "cafe", "cafe"),
    ],
)
def test_the_watched_part_is_found_however_it_is_spelled(
    needle: str, real_needle: object, watched_part: str
) -> None:
    found = parse_needle({"needle": needle, "question": "?", "real_needle": real_needle})
    assert watched(found) == watched_part


@pytest.mark.parametrize("part", ["cafe", "\u200b", "in"])
def test_half_of_a_letter_is_no_part_of_a_text(part: str) -> None:
    with pytest.raises(ValueError, match="does not stand in 'needle'"):
        parse_needle({"needle": "The café, ﬁn.", "question": "?", "real_needle": part})


def test_copies_in_other_quotes_and_another_case_count_once(tmp_path: Path) -> None:
    copy = {name: text.replace("'", "’") for name, text in HEADKV.items()}  # noqa: RUF001
    loud = HEADKV | {name: HEADKV[name].upper() for name in ("needle", "real_needle")}
    with pytest.warns(HeadprobeWarning, match="2 of 3 needles"):
        assert len(read_needles(write(tmp_path / "needles.jsonl", HEADKV, copy, loud))) == 1


def test_a_needle_pasted_twice_counts_once_and_a_warning_says_so(tmp_path: Path) -> None:
    respaced = HEADKV | {"needle": HEADKV["needle"].replace(" ", "  "), "question": "Whose?"}
    respaced["real_needle"] = HEADKV["real_needle"].replace(" ", "  ")
    wide = HEADKV | {key: HEADKV[key].replace("A", "Ａ") for key in ("needle", "real_needle")}  # noqa: RUF001
    path = write(tmp_path / "needles.jsonl", HEADKV, *RETRIEVAL_HEAD, HEADKV, respaced, wide)
    with pytest.warns(HeadprobeWarning, match="3 of 6 needles in .* 3 distinct needles are asked"):
        needles = read_needles(path)
    assert [needle.question for needle in needles] == [
        row["question"] for row in (HEADKV, *RETRIEVAL_HEAD)
    ]


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["The heron sings."], "english"),
        (["白鹭在唱歌。"], "chinese"),
        (["白鹭在唱歌。", "B7 号船在等 Ewa。"], "chinese"),
        (["The sign said 出口, and nobody went."], "english"),
        (["12!"], "english"),
    ],
)
def test_the_language_of_texts_is_that_of_most_letters(texts: list[str], language: str) -> None:
    assert language_of(" ".join(texts)) == language


def test_another_part_of_the_same_text_is_another_needle(tmp_path: Path) -> None:
    other = HEADKV | {
        "question": "What is the favorite thing of the younger one?",
        "answer": "a drum",
        "real_needle": "Bob's favorite thing is a drum.",
    }
    assert len(read_needles(write(tmp_path / "needles.jsonl", HEADKV, other))) == 2


def test_line_separators_that_json_allows_in_a_text_do_not_end_a_line(tmp_path: Path) -> None:
    row = HEADKV | {"question": "Whose\u2028thing\u0085is it?"}
    path = tmp_path / "needles.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert read_needles(path)[0].question == row["question"]


@pytest.mark.parametrize(
    ("needle", "real_needle", "start"),
    [
        ("The party loves art.", "art", 16),
        ("Whose Anna is Ann?", "Ann", 14),
        ("它在北京的公园里。", "公园", 5),
        ("İt is İstanbul, says Ida.", "says ida", 16),
        ("One (two) three.", "(two)", 4),
    ],
)
def test_the_watched_part_is_found_as_whole_words_where_there_are_words(
    needle: str, real_needle: str, start: int
) -> None:
    found = parse_needle({"needle": needle, "question": "?", "real_needle": real_needle})
    assert (found.start, found.stop) == (start, start + len(real_needle))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "expected a JSON object"),
        (json.dumps({"question": "q", "real_needle": "r"}), "field 'needle', got None"),
        (json.dumps(HEADKV | {"question": "  "}), "field 'question'"),
        (json.dumps(HEADKV | {"answer": True}), "field 'answer', got True"),
        (json.dumps(HEADKV | {"question": 3}), "field 'question', got 3"),
        (json.dumps(HEADKV | {"needle": "x" * 1_000_001}), "field 'needle' has 1,000,001 bytes"),
        ('{"needle": "a", "needle": "b"}', "key 'needle' is given twice"),
        ('{"needle": ' + "[" * 100_000, "nested too deeply"),
        (json.dumps(HEADKV | {"answer": "\ud800"}), "field 'answer' has half a surrogate pair"),
        (json.dumps(HEADKV | {"real_needle": "elsewhere"}), "does not stand in 'needle'"),
        (json.dumps(HEADKV | {"kind": 3}), "field 'kind', got 3"),
        (json.dumps(HEADKV | {"kind": " "}), "field 'kind', got ' '"),
        (json.dumps(HEADKV | {"wrong_answer": ["a drum"]}), "field 'wrong_answer', got"),
        (json.dumps(HEADKV | {"wrong_answer": "a  kite"}), "another text in 'wrong_answer'"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f"{json.dumps(HEADKV)}\n\n{line}\n")
    with pytest.raises(UsageError, match=rf"mine\.jsonl, line 3: .*{problem}"):
        read_needles(path)


def test_a_json_array_of_needles_is_read_and_its_entries_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("\n" + json.dumps([*RETRIEVAL_HEAD, HEADKV], indent=2))
    assert [needle.question for needle in read_needles(path)] == [
        row["question"] for row in (*RETRIEVAL_HEAD, HEADKV)
    ]
    path.write_text(json.dumps([HEADKV, HEADKV | {"needle": None}, 3]))
    with pytest.raises(UsageError, match=r"mine\.json, entry 2: expected a text in field 'needle'"):
        read_needles(path)
    path.write_text(json.dumps([HEADKV])[:-1])
    with pytest.raises(UsageError, match=r"mine\.json, a JSON array: not JSON"):
        read_needles(path)


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "needles.jsonl")
    with pytest.raises(UsageError, match="it is no regular file"):
        read_needles(tmp_path / "needles.jsonl")


@pytest.mark.parametrize("content", ["", "\n  \n", "[]"])
def test_an_empty_file_is_a_usage_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match="holds no needle"):
        read_needles(path)


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no needle file .*nowhere"):
        read_needles(tmp_path / "nowhere.jsonl")
    with pytest.raises(UsageError, match="cannot read the needle file"):
        read_needles(tmp_path)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes("{é}".encode("latin-1"))
    with pytest.raises(UsageError, match=r"cannot read the needle file .*latin\.jsonl"):
        read_needles(latin)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 2), (3, 2), (0, 6)])
def test_a_watched_part_outside_the_needle_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="expected a watched part inside 5 characters"):
        Needle(text="A cat", question="?", answer="cat", start=start, stop=stop)
