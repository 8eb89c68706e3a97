"""Protocols of further rows: BABILong, LongBench-v2, SQuAD.

LongBench-v2's prompt is its own without thinking; BABILong's question is lm-evaluation-harness'
plain one. SQuAD has none of its own: LongBench's of passages is taken.
"""

from __future__ import annotations

from dataclasses import replace

from headprobe.evaluation.benchmarks import longbench
from headprobe.evaluation.benchmarks.protocol import Protocol

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
        question="What is the correct answer to this question: {question}\nChoices:{choices}\n\n"
        'Format your response as follows: "The correct answer is (insert answer here)".',
        style="chat",
        max_new_tokens=128,
        truncation="middle",
        metrics=("choice",),
    )
}
SQUAD = {"squad": replace(longbench.PROTOCOLS["hotpotqa"], name="squad:squad")}
