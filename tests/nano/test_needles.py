import json
import random
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from headprobe.models.bundled import bundled
from headprobe.nano.needles import reasoning_needles, retrieval_needles
from headprobe.nano.tokenizer import build_tokenizer
from headprobe.prompts.noise import DESCRIBED_BY, KINDS, OLDER, RELATIONS, YOUNGER, words

FILES = ("retrieval.jsonl", "r2.jsonl")
HELD_OUT_SEED = 2
FOLDERS = {"": 0, "held-out/": HELD_OUT_SEED}
every_file = pytest.mark.parametrize(
    "name", [folder + name for folder in FOLDERS for name in FILES]
)
every_folder = pytest.mark.parametrize("folder", FOLDERS)


def rows(name: str) -> list[dict[str, Any]]:
    lines = bundled("needles", "nano", name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def pattern(template: str, **slots: str) -> re.Pattern[str]:
    text = re.escape(template[0].upper() + template[1:])
    for name in ("subject", "value"):
        text = text.replace(rf"\{{{name}\}}", f"(?P<{name}>{slots.get(name, '.+')})")
    return re.compile(text, re.IGNORECASE)


def matching(templates: Iterable[str], text: str) -> list[str]:
    return [template for template in templates if pattern(template).fullmatch(text)]


@every_file
def test_only_words_that_are_held_out_of_training_are_used(name: str) -> None:
    for row in rows(name):
        said = set(re.findall(r"\w+", f"{row['needle']} {row['question']}"))
        for kind in KINDS:
            assert said.isdisjoint(words(kind, "train"))
        assert any(said & set(words(kind, "held_out")) for kind in KINDS)


@every_file
def test_only_pairs_of_wordings_that_are_held_out_of_training_are_used(name: str) -> None:
    for row in rows(name):
        stated = row["needle"] if name.endswith("retrieval.jsonl") else row["real_needle"]
        pairs = [
            (statement, question)
            for relation in RELATIONS
            for statement in matching(relation.statements, stated)
            for question in matching(relation.questions, row["question"])
        ]
        held_out = {pair for relation in RELATIONS for pair in relation.wordings("held_out")}
        assert pairs
        assert set(pairs) <= held_out


@every_folder
def test_a_retrieval_needle_states_its_answer_of_the_subject_asked_about(folder: str) -> None:
    for row in rows(f"{folder}retrieval.jsonl"):
        (statement, relation) = next(
            (s, r) for r in RELATIONS for s in matching(r.statements, row["needle"])
        )
        said = pattern(statement).fullmatch(row["needle"])
        (question,) = matching(relation.questions, row["question"])
        asked = pattern(question).fullmatch(row["question"])
        assert said is not None
        assert asked is not None
        assert said["value"] == row["answer"] == row["real_needle"]
        assert said["subject"].lower() == asked["subject"].lower()


@every_folder
def test_a_reasoning_needles_answer_follows_from_its_text(folder: str) -> None:
    """Answered here by plain reading: who is meant, then what is said of them."""
    for row in rows(f"{folder}r2.jsonl"):
        sentences = re.findall(r"[^.]+\.", row["needle"].replace(". ", "."))
        facts = {
            s.split()[0]: s for s in sentences if row["answer"] in s or row["wrong_answer"] in s
        }
        told = {s.split()[0]: s for s in sentences if s not in facts.values()}
        assert len(facts) == len(told) == 2
        assert set(facts) == set(told)
        if OLDER in row["question"] or YOUNGER in row["question"]:
            ages = {who: int(re.findall(r"\d+", s)[0]) for who, s in told.items()}
            meant = (max if OLDER in row["question"] else min)(ages, key=lambda who: ages[who])
        else:
            (relation,) = (r for r in RELATIONS if r.name == row["quantity"])
            meant = next(
                who
                for who, sentence in told.items()
                for statement in relation.statements
                if (said := pattern(statement).fullmatch(sentence))
                and DESCRIBED_BY[relation.name].format(value=said["value"]) in row["question"]
            )
        assert facts[meant] == row["real_needle"]
        assert row["answer"] in facts[meant]


@every_folder
def test_the_shipped_files_are_what_the_program_writes(folder: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headprobe.nano.needles", "--out", str(tmp_path)]
    subprocess.run([*command, "--seed", str(FOLDERS[folder])], check=True)
    for name in FILES:
        shipped = bundled("needles", "nano", folder + name)
        assert (tmp_path / name).read_text() == shipped.read_text()


def test_the_seed_decides_what_is_drawn() -> None:
    for draw in (retrieval_needles, reasoning_needles):
        one, same, other = (list(draw(random.Random(seed))) for seed in (0, 0, 1))
        assert one == same
        assert one != other


@every_file
def test_every_word_of_a_needle_is_one_token(name: str) -> None:
    tokenizer = build_tokenizer()
    for row in rows(name):
        for text in (row["needle"], row["question"], row["answer"]):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert len(ids) == len(re.findall(r"\w+|[^\w ]", text))
