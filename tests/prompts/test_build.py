import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.nano.tokenizer import build_tokenizer
from headprobe.prompts.build import hide_needles
from headprobe.prompts.case import Case
from headprobe.prompts.needles import Needle, parse_needle
from headprobe.prompts.noise import filler
from headprobe.prompts.sampling import balanced_order
from headprobe.prompts.style import PromptWriter
from headprobe.prompts.template import INSTRUCTION
from headprobe.prompts.tokenize import PieceTokenizer
from headprobe.runs.prefix_tree import PrefixTree

ESSAYS = sorted((Path(__file__).parents[2] / "data" / "haystack" / "english").glob("*.txt"))
PROSE = [filler(random.Random(seed)) for seed in range(40)]
NEEDLES = [
    parse_needle(
        {
            "needle": "Ada is 40 years old. Ben is 12 years old. Ben likes tin drums. Ada hums.",
            "question": "What does the younger of the two like?",
            "real_needle": "Ben likes tin drums.",
            "answer": "tin drums",
        }
    ),
    parse_needle(
        {
            "needle": "The key lies beneath the third fig tree behind the mill.",
            "question": "Where does the key lie?",
            "real_needle": "beneath the third fig tree",
        }
    ),
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if enable_thinking is not defined or enable_thinking %}"
    "<think>\n{% endif %}"
)
INST = "{{ bos_token }}[INST]\n{{ messages[0].content }}\n[/INST]"


def byte_level(*, bos: bool, template: str | None = None) -> PreTrainedTokenizerFast:
    """As GPT-2's: byte-level BPE, a word together with the space before it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<|bos|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train([str(essay) for essay in ESSAYS], trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        chat_template=template,
    )


def sentence_piece(*, template: str | None = None) -> PreTrainedTokenizerFast:
    """As Llama-2's: BPE over words that begin with a visible space, bytes for the unknown."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    lines = (line for essay in ESSAYS for line in essay.read_text().splitlines())
    backend.train_from_iterator(lines, trainer)
    learned = json.loads(backend.to_str())["model"]
    vocabulary = learned["vocab"] | {
        f"<0x{byte:02X}>": len(learned["vocab"]) + byte for byte in range(256)
    }
    merges = [tuple(pair) for pair in learned["merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    )


BASE: dict[str, Callable[[], Any]] = {
    "bundled": build_tokenizer,
    "byte level": lambda: byte_level(bos=False),
    "byte level with BOS": lambda: byte_level(bos=True),
    "sentence piece": sentence_piece,
}
CHAT: dict[str, Callable[[], Any]] = {
    "byte level chat": lambda: byte_level(bos=True, template=CHATML),
    "sentence piece chat": lambda: sentence_piece(template=INST),
}
every_base = pytest.mark.parametrize("name", BASE)
every_chat = pytest.mark.parametrize("name", CHAT)
every_tokenizer = pytest.mark.parametrize("name", [*BASE, *CHAT])


@cache
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    return (BASE | CHAT)[name]()


def hide(name: str, **options: Any) -> list[Case]:
    prose: Sequence[str] = options.pop("prose", PROSE)
    defaults: dict[str, Any] = {"needles": NEEDLES, "lengths": [200], "depths": [50.0]}
    return hide_needles(
        sentences=itertools.cycle(prose), writer=PromptWriter(tokenizer(name)), **defaults | options
    )


def frame_of(name: str) -> tuple[int, int]:
    """How many tokens the plain whole tokenization has before and after the user's text."""
    tok = tokenizer(name)
    if not tok.chat_template:
        return len(tok("")["input_ids"]), 0
    text = tok.apply_chat_template(
        [{"role": "user", "content": "HERE"}], tokenize=False, enable_thinking=False
    )
    before = text.split("HERE")[0]
    ends = [
        len(tok(part, add_special_tokens=False)["input_ids"])
        for part in (before, f"{before}HERE", text)
    ]
    return ends[0], ends[2] - ends[1]


def pieces(name: str, case: Case) -> tuple[str, str, str]:
    """The text before the needle, the needle, and the haystack after it."""
    tok = tokenizer(name)
    encode = PieceTokenizer(tok).encode
    needle = NEEDLES[case.needle_id]
    before, after = frame_of(name)
    size = len(encode(INSTRUCTION.format(question=needle.question)))
    end = case.position + len(encode(" " + needle.text))
    ids = case.input_ids
    parts = ids[before : case.position], ids[case.position : end], ids[end : -size - after]
    one, two, three = (tok.decode(list(part)).strip() for part in parts)
    return one, two, three


random_place = given(
    length=st.integers(120, 700), depth=st.floats(0, 100), needle=st.integers(0, 1)
)


@every_tokenizer
@settings(max_examples=10, deadline=None)
@random_place
def test_a_case_is_a_needle_between_the_sentences_of_a_haystack(
    name: str, length: int, depth: float, needle: int
) -> None:
    case = hide(name, lengths=[length], depths=[depth])[needle]
    assert case.needle_id == needle
    assert len(case.input_ids) == case.length == length
    before, hidden, after = pieces(name, case)
    assert hidden == NEEDLES[needle].text
    prose = " ".join(itertools.islice(itertools.cycle(PROSE), 100))
    assert prose.startswith(f"{before} {after}".strip())
    whole = {" ".join(itertools.islice(itertools.cycle(PROSE), n)) for n in range(100)}
    assert before in whole


@every_tokenizer
@settings(max_examples=10, deadline=None)
@random_place
def test_the_span_is_the_watched_part_and_nothing_else(
    name: str, length: int, depth: float, needle: int
) -> None:
    case = hide(name, lengths=[length], depths=[depth])[needle]
    hidden = NEEDLES[needle]
    decoded = tokenizer(name).decode(list(case.input_ids[case.span]))
    assert decoded.strip() == hidden.text[hidden.start : hidden.stop]
    before = tokenizer(name).decode(list(case.input_ids[case.position : case.span_start]))
    assert before.strip() == hidden.text[: hidden.start].strip()


@every_tokenizer
@settings(max_examples=10, deadline=None)
@random_place
def test_special_tokens_stand_in_the_frame_only(
    name: str, length: int, depth: float, needle: int
) -> None:
    case = hide(name, lengths=[length], depths=[depth])[needle]
    tok = tokenizer(name)
    before, after = frame_of(name)
    assert set(tok.all_special_ids).isdisjoint(case.input_ids[before : length - after])
    plain = tok("")["input_ids"] if not tok.chat_template else case.input_ids[:before]
    assert list(case.input_ids[:before]) == list(plain)


def merging() -> PreTrainedTokenizerFast:
    """As GPT-4's: punctuation together with the line break after it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]+\n*|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(20 * ["Where?\nAnswer"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@every_tokenizer
@pytest.mark.parametrize("needle", [0, 1])
def test_the_question_stands_where_it_is_asked_and_n_a_can_take_its_place(
    name: str, needle: int
) -> None:
    case = hide(name)[needle]
    asked = case.question
    assert asked is not None
    decode = tokenizer(name).decode
    assert decode(list(case.input_ids[asked.start : asked.end])).strip() == NEEDLES[needle].question
    assert decode(list(asked.blank_ids)).strip() == "N/A"
    blank = [*case.input_ids[: asked.start], *asked.blank_ids]
    assert decode(blank).endswith("of the book, Question: N/A")
    assert decode(list(case.input_ids[asked.end :])).startswith("\nAnswer:")


def test_what_merges_with_the_question_belongs_to_it() -> None:
    case = hide_needles(
        NEEDLES[1:],
        sentences=itertools.cycle(PROSE),
        writer=PromptWriter(merging()),
        lengths=[600],
        depths=[50.0],
    )[0]
    asked = case.question
    assert asked is not None
    question = merging().decode(list(case.input_ids[asked.start : asked.end]))
    assert question.strip(" ") == NEEDLES[1].question + "\n"
    assert merging().decode(list(asked.blank_ids)).strip() == "N/A"


@every_base
@settings(max_examples=10, deadline=None)
@given(length=st.integers(120, 700), depth=st.floats(0, 100))
def test_the_needle_stands_at_the_boundary_nearest_to_the_wanted_depth(
    name: str, length: int, depth: float
) -> None:
    case = hide(name, lengths=[length], depths=[depth])[0]
    encode = PieceTokenizer(tokenizer(name)).encode
    question = len(encode(INSTRUCTION.format(question=NEEDLES[0].question)))
    front = frame_of(name)[0]
    capacity = length - front - question - len(encode(" " + NEEDLES[0].text))
    starts, at = [0], 0
    for sentence in itertools.cycle(PROSE):
        at += len(encode(" " + sentence))
        if at > capacity:
            break
        starts.append(at)
    nearest = min(abs(start - depth / 100 * capacity) for start in starts)
    assert case.position - front in starts
    assert abs(case.position - front - depth / 100 * capacity) == nearest


@every_base
def test_a_case_records_the_depth_that_it_got(name: str) -> None:
    grid: dict[str, Any] = {"lengths": [300, 500, 700], "depths": [0.0, 35.0, 70.0, 100.0]}
    for case in hide(name, **grid):
        before, _, after = pieces(name, case)
        encode = PieceTokenizer(tokenizer(name)).encode
        fraction = len(encode(" " + before)) if before else 0
        capacity = fraction + (len(encode(" " + after)) if after else 0)
        assert case.depth == pytest.approx(100 * fraction / capacity, abs=0.5)


def test_the_standard_grid_is_mostly_shared() -> None:
    lengths = list(range(1000, 10_001, 1000))
    depths = [100 / 9 * i for i in range(10)]
    cases = hide_needles(
        NEEDLES,
        sentences=itertools.cycle(PROSE),
        writer=PromptWriter(tokenizer("bundled")),
        lengths=lengths,
        depths=depths,
    )
    tree = PrefixTree.of([case.input_ids for case in cases])
    assert sum(case.length for case in cases) >= 5 * tree.unique_tokens
    for needle, length in itertools.product([0, 1], lengths):
        row = [c for c in cases if (c.needle_id, c.length) == (needle, length)]
        got = sorted(case.depth for case in row)
        assert len({case.position for case in row}) == len(depths)
        # A twentieth of the haystack, and half a sentence.
        np.testing.assert_allclose(got, depths, atol=5 + 100 * 6 / length)


def whole_prompt(needle: Needle, sentences_before: int, sentences: int) -> str:
    told = [*PROSE[:sentences_before], needle.text, *PROSE[sentences_before:sentences]]
    return " " + " ".join(told) + INSTRUCTION.format(question=needle.question)


@every_base
@pytest.mark.parametrize("needle", [0, 1])
@pytest.mark.parametrize("before", [0, 4, 9])
def test_a_prompt_has_the_tokens_of_its_whole_text(name: str, needle: int, before: int) -> None:
    tok = tokenizer(name)
    ids = tok(whole_prompt(NEEDLES[needle], before, 9))["input_ids"]
    cases = hide(name, lengths=[len(ids)], depths=[100 / 9 * before])
    assert list(cases[needle].input_ids) == ids


@every_chat
@pytest.mark.parametrize("needle", [0, 1])
@pytest.mark.parametrize("before", [0, 4, 9])
def test_a_chat_models_prompt_is_its_template_with_all_in_the_users_turn(
    name: str, needle: int, before: int
) -> None:
    tok = tokenizer(name)
    turn = [{"role": "user", "content": whole_prompt(NEEDLES[needle], before, 9)}]
    text = tok.apply_chat_template(turn, tokenize=False, enable_thinking=False)
    ids = tok(text, add_special_tokens=False)["input_ids"]
    case = hide(name, lengths=[len(ids)], depths=[100 / 9 * before])[needle]
    assert list(case.input_ids) == ids


def test_a_model_that_would_think_first_is_told_not_to() -> None:
    case = hide("byte level chat")[0]
    assert tokenizer("byte level chat").decode(list(case.input_ids)).endswith("assistant\n")


def test_a_template_that_drops_the_users_text_is_a_usage_error() -> None:
    tok = byte_level(bos=False, template="<|im_start|>assistant")
    with pytest.raises(UsageError, match="chat template drops the user's text"):
        hide_needles(
            NEEDLES, sentences=iter(PROSE), writer=PromptWriter(tok), lengths=[200], depths=[0.0]
        )


@every_base
def test_the_answers_tokens_are_those_that_follow_the_prompt(name: str) -> None:
    tok = tokenizer(name)
    for needle, case in zip(NEEDLES, hide(name), strict=True):
        assert case.answer == needle.answer
        prompt = f"Question: {needle.question}\nAnswer:"
        size = len(tok(prompt)["input_ids"])
        assert list(case.answer_ids) == tok(f"{prompt} {needle.answer}")["input_ids"][size:]


def test_a_chat_models_answer_starts_its_turn() -> None:
    tok = tokenizer("byte level chat")
    for needle, case in zip(NEEDLES, hide("byte level chat"), strict=True):
        turn = "<|im_start|>assistant\n"
        size = len(tok(turn)["input_ids"])
        assert list(case.answer_ids) == tok(turn + needle.answer)["input_ids"][size:]


SPELLED = "Write </s> or <s> or <|im_end|> or <unk><pad> here."


@every_tokenizer
def test_text_that_spells_a_special_token_stays_text(name: str) -> None:
    tok = tokenizer(name)
    needle = Needle(text=SPELLED, question="Is <s> it?", answer="</s> <|bos|>", start=6, stop=10)
    with pytest.warns(HeadprobeWarning, match="'</s>' stands in sentence 1 of the haystack"):
        (case,) = hide(name, needles=[needle], prose=["So </s> it <|im_start|> is."])
    before, after = frame_of(name)
    inside = list(case.input_ids[before : case.length - after])
    assert set(tok.all_special_ids).isdisjoint([*inside, *case.answer_ids])
    decoded = tok.decode(inside)
    assert f"is. {SPELLED} So" in decoded
    assert decoded.endswith(INSTRUCTION.format(question="Is <s> it?"))
    assert tok.decode(list(case.input_ids[case.span])).strip() == "</s>"
    assert tok.decode(list(case.answer_ids)).strip() == "</s> <|bos|>"


def test_a_tokenizer_without_special_tokens_is_one_too() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "tin": 1, "drum": 2, "\n": 3}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tok = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert tok.all_special_tokens == []
    assert PieceTokenizer(tok).encode(" tin drum") == [1, 2]
    chat_affixes = PromptWriter(tok).chat_affixes()
    assert (chat_affixes.head, chat_affixes.tail, chat_affixes.opening) == ((), (), "Answer:")


@every_tokenizer
@pytest.mark.parametrize(
    ("text", "watched"),
    [
        ('She said "sour plums" twice.', "sour plums"),
        ("It is (so far) unknown.", "so far"),
        ("Noah's dog barks.", "Noah"),
        ("The half-built boat.", "built"),
        ("Line one\nline two.", "line two"),
        ("The café in Kraków, naïve 日本 🦊.", "Kraków, naïve 日本 🦊"),
        ("我住在大城市里面。", "大城市"),
    ],
)
def test_watched_parts_start_and_end_anywhere_without_a_space_coming_in(
    name: str, text: str, watched: str
) -> None:
    start = text.index(watched)
    stop = start + len(watched)
    needle = Needle(text=text, question="?", answer=watched, start=start, stop=stop)
    (case,) = hide(name, needles=[needle], depths=[0.0])
    tok = tokenizer(name)
    assert tok.decode(list(case.input_ids[case.span])).strip() == watched
    assert f"{text} {PROSE[0][:20]}" in tok.decode(list(case.input_ids))


@every_tokenizer
def test_a_short_haystack_is_repeated(name: str) -> None:
    (case,) = hide(
        name, needles=NEEDLES[:1], prose=["It rained.", "It stopped."], lengths=[400], depths=[50.0]
    )
    before, _, after = pieces(name, case)
    assert f"{before} {after}".startswith("It rained. It stopped. It rained. It stopped. It ")
    assert len(case.input_ids) == 400


@every_tokenizer
def test_a_length_too_short_names_the_least_that_is_enough(name: str) -> None:
    with pytest.raises(UsageError, match=r"too short for needle 0 .* at least") as error:
        hide(name, lengths=[5])
    least = int(str(error.value).split()[-1])
    (case,) = hide(name, needles=NEEDLES[:1], lengths=[least], depths=[30.0])
    assert case.position == frame_of(name)[0]
    with pytest.raises(UsageError, match=f"at least {least}"):
        hide(name, lengths=[least - 1])


def test_every_needle_stands_at_every_length_and_depth() -> None:
    cases = hide("bundled", lengths=[150, 200], depths=[0.0, 50.0, 100.0])
    assert [case.case_id for case in cases] == list(range(12))
    assert [(case.needle_id, case.length) for case in cases] == [
        (needle, length) for needle in (0, 1) for length in (150, 200) for _ in range(3)
    ]
    for first, middle, last in zip(*[iter(cases)] * 3, strict=True):
        assert first.depth == 0 < middle.depth < last.depth
        assert first.position == 1 < middle.position < last.position


def test_a_limit_takes_some_of_the_cases_by_the_seed() -> None:
    grid: dict[str, Any] = {"lengths": [150, 170, 190, 210], "depths": [0.0, 25.0, 50.0, 100.0]}
    every = {(c.needle_id, c.input_ids) for c in hide("bundled", **grid)}
    one, same, other = (hide("bundled", limit=8, seed=s, **grid) for s in (0, 0, 1))
    for case in one:
        assert (case.needle_id, case.input_ids) in every
    assert [c.case_id for c in one] == list(range(8))
    assert [c.input_ids for c in one] == [c.input_ids for c in same]
    assert [c.input_ids for c in one] != [c.input_ids for c in other]


@pytest.mark.parametrize("limit", [None, 4, 5, 1000])
def test_a_limit_beyond_the_cases_takes_them_all(limit: int | None) -> None:
    assert len(hide("bundled", lengths=[150, 200], limit=limit)) == 4


@pytest.mark.parametrize("limit", [3, 8, 11, 15])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fewer_cases_than_needles_are_balanced_over_kinds(limit: int, seed: int) -> None:
    sizes = {"one-hop": 8, "two-hop": 5, None: 3}
    kinds = [kind for kind, size in sizes.items() for _ in range(size)]
    needles = [replace(NEEDLES[0], kind=kind) for kind in kinds]
    cases = hide("bundled", needles=needles, lengths=[150, 200], limit=limit, seed=seed)
    assert [case.kind for case in cases] == [kinds[case.needle_id] for case in cases]
    assert len({case.needle_id for case in cases}) == limit
    counts = Counter(case.kind for case in cases)
    for kind, size in sizes.items():
        most = max((counts[other] for other in sizes if counts[other] < sizes[other]), default=0)
        assert counts[kind] == size or most - counts[kind] <= 1


def test_where_every_needle_is_taken_kinds_change_nothing() -> None:
    kinds = ["linking", "linking", "comparing"]
    needles = [replace(NEEDLES[0], kind=kind) for kind in kinds]
    grid: dict[str, Any] = {"lengths": [150, 170, 190], "depths": [0.0, 50.0], "limit": 5}
    told, untold = (hide("bundled", needles=ones, **grid) for ones in (needles, [NEEDLES[0]] * 3))
    assert [case.input_ids for case in told] == [case.input_ids for case in untold]


def test_cases_are_visited_in_a_seeded_balanced_order() -> None:
    cases = hide("bundled", lengths=[150, 200], depths=[0.0, 50.0, 100.0])
    order = balanced_order(cases, 3)
    assert {id(case) for case in order} == {id(case) for case in cases}
    assert len(order) == len(cases) == 12
    assert [c.case_id for c in order] == [c.case_id for c in balanced_order(cases, 3)]
    assert [c.case_id for c in order] != [c.case_id for c in balanced_order(cases, 4)]
    assert {case.needle_id for case in order[:2]} == {0, 1}
    assert len({(case.length, round(case.depth, -1)) for case in order[:6]}) == 6


def test_a_template_that_names_the_day_gives_the_same_prompts_on_every_day() -> None:
    day = "{%- if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    dated, plain = (sentence_piece(template=text + INST) for text in (day, "26 Jul 2024"))
    assert PromptWriter(dated).chat_affixes() == PromptWriter(plain).chat_affixes()
    iso, plain = (
        sentence_piece(template=text + INST)
        for text in ("  {{ strftime_now('%Y-%m-%d') }}", "  2024-07-26")
    )
    assert PromptWriter(iso).chat_affixes() == PromptWriter(plain).chat_affixes()


def test_cases_that_fall_on_few_places_are_told() -> None:
    stops = itertools.cycle(["one sentence that goes on and on " * 20])
    with pytest.warns(HeadprobeWarning, match="10 cases are 1 prompts"):
        hide_needles(
            NEEDLES[:1],
            sentences=stops,
            writer=PromptWriter(tokenizer("bundled")),
            lengths=[200],
            depths=[100 * step / 9 for step in range(10)],
        )
