"""LooGLE's protocol (Li et al., arXiv 2311.04939): its prompts and lengths.

Answers are graded by token F1 and by its ROUGE-L, a recall; masked entities by exact match. Prompts
too long lose their middle.
"""

from __future__ import annotations

from dataclasses import replace

from headprobe.evaluation.benchmarks.protocol import Protocol
from headprobe.prompts.documents import CLOZE, LONG, SHORT, SUMMARY

_SHORT = Protocol(
    name=f"loogle:{SHORT}",
    context="Please answer the question based on the long texts below. \n{context}\n",
    question="Question: {question}\n",
    answer_prefix="Answer: ",
    style="chat",
    max_new_tokens=300,
    truncation="middle",
    metrics=("qa_f1", "rouge_l_recall"),
)
PROTOCOLS = {
    SHORT: _SHORT,
    LONG: replace(_SHORT, name=f"loogle:{LONG}", max_new_tokens=500),
    SUMMARY: replace(
        _SHORT,
        name=f"loogle:{SUMMARY}",
        context="Please generate a summary of the below paper. \n{context}\n",
        question="",
        answer_prefix=" Summarization: ",
        max_new_tokens=500,
        metrics=("rouge_l", "rouge_l_recall"),
    ),
    CLOZE: replace(
        _SHORT,
        name=f"loogle:{CLOZE}",
        context="Please fill in the clozes based on the given long texts below. Each of the "
        "placeholder '<mask-n>' in the question could be an entity of Person, Location or "
        "Organiocation. The same masks represent the same entity. Output a json format answer, "
        "for example: {'<mask-0>': 'Bob', '<mask-1>': 'Gorrosion Magazine',"
        "'<mask-2>': 'Bethel Horizon'}\n{context}\n",
        question=" Question: {question} What are the masked entities? \n",
        answer_prefix="Answer:",
        max_new_tokens=50,
        metrics=("cloze",),
    ),
}
