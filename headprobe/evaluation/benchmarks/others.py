"""Protocols of further rows: InfiniteBench, BABILong, LongBench-v2, SQuAD.

InfiniteBench's and LongBench-v2's prompts are those of kvpress' data sets; BABILong's question is
lm-evaluation-harness' plain one. SQuAD has none of its own: LongBench's of passages is taken.
"""

from __future__ import annotations

from dataclasses import replace

from headprobe.evaluation.benchmarks import longbench
from headprobe.evaluation.benchmarks.protocol import Protocol

_BOOK = Protocol(
    name="infinitebench:longbook_qa_eng",
    context="Read the book below and answer a question. Be very concise in your answer.\n\n"
    "{context}\n\n",
    question="{question}\n",
    answer_prefix="Answer:",
    style="prefix",
    max_new_tokens=60,
    truncation="middle",
    metrics=("qa_f1",),
)
_HIDDEN = (
    "There is an important info hidden inside a lot of irrelevant text. Find it{}. I will quiz you "
    "about the important information there.\n\n{{context}}\n\n"
)
INFINITEBENCH = {
    "passkey": replace(
        _BOOK,
        name="infinitebench:passkey",
        context=_HIDDEN.format(" and memorize them"),
        answer_prefix="The pass key is:",
        max_new_tokens=26,
        metrics=("substring",),
    ),
    "number_string": replace(
        _BOOK,
        name="infinitebench:number_string",
        context=_HIDDEN.format(""),
        answer_prefix="The sequence of digits is",
        max_new_tokens=32,
        metrics=("substring",),
    ),
    "kv_retrieval": replace(
        _BOOK,
        name="infinitebench:kv_retrieval",
        context="Extract the value corresponding to the specified key in the JSON object below."
        "\n\n{context}\n\n",
        answer_prefix="The value associated with the specified key is",
        max_new_tokens=70,
        metrics=("substring",),
    ),
    "longdialogue_qa_eng": replace(
        _BOOK,
        name="infinitebench:longdialogue_qa_eng",
        context="Below is a dialogue script where one random occurrence of a character name is "
        'replaced with "$$MASK$$", and you should try to guess who that character is.\n\n'
        "{context}\n\n",
        answer_prefix="The name that has been replaced with $$MASK$$ is likely",
        metrics=("substring",),
    ),
    "longbook_qa_eng": _BOOK,
    "longbook_choice_eng": replace(
        _BOOK,
        name="infinitebench:longbook_choice_eng",
        context="Read the book and answer the question.\n\n{context}\n\n",
        answer_prefix="The letter of the correct answer is",
        metrics=("choice",),
    ),
}
_PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
_LABELS = {
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), _PLACES),
    "qa5": ("bill", "fred", "jeff", "mary", "apple", "football", "milk"),
    "qa6": ("no", "yes"),
    "qa7": ("none", "one", "three", "two"),
    "qa8": ("apple", "football", "milk", "nothing"),
    "qa9": ("no", "yes"),
    "qa10": ("maybe", "no", "yes"),
}
BABILONG = {
    name: Protocol(
        name=f"babilong:{name}",
        context="{context}\n\n",
        question="Q: {question}\n",
        answer_prefix="A:",
        style="prefix",
        max_new_tokens=20,
        stops="line",
        truncation="middle",
        metrics=("label",),
        labels=labels,
    )
    for name, labels in _LABELS.items()
}
LONGBENCH_V2 = {
    "longbench-v2": Protocol(
        name="longbench-v2:longbench-v2",
        context="Please read the following text and answer the question below.\n\n<text>\n"
        "{context}\n</text>\n\n",
        question="What is the correct answer to this question: {question}\n\n"
        'Format your response as follows: "The correct answer is (insert answer here)".',
        style="chat",
        max_new_tokens=128,
        truncation="middle",
        metrics=("choice",),
    )
}
SQUAD = {"squad": replace(longbench.PROTOCOLS["hotpotqa"], name="squad:squad")}
