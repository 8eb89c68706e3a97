"""RULER's prompts (Hsieh et al., arXiv 2404.06654): their lines are its protocol.

A prompt is a text to read, a question and an opened answer. Prompts that were written by RULER are
parted where its templates part them, as kvpress does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """Tasks of one form; ``question`` and ``answer`` match where the two begin.

    ``template`` is the whole prompt up to the answer prefix, which follows with a space.
    """

    context: str
    question: str
    answer_prefix: str
    begins: re.Pattern[str]
    max_new_tokens: int
    metric: str = "string_match_all"


FAMILIES = {
    "niah": Family(
        context="Some special magic {kind} are hidden within the following text. Make sure to "
        "memorize it. I will quiz you about the {kind} afterwards.\n{context}\n",
        question="What are all the special magic {kind} for {query} mentioned in the provided "
        "text?",
        answer_prefix=" The special magic {kind} for {query} mentioned in the provided text are",
        begins=re.compile(r"What (?:is|are all) the special magic"),
        max_new_tokens=128,
    ),
    "vt": Family(
        context="Memorize and track the chain(s) of variable assignment hidden in the following "
        "text.\n\n{context}\n",
        question="Question: Find all variables that are assigned the value {query} in the text "
        "above.",
        answer_prefix=" Answer: According to the chain(s) of variable assignment in the text "
        "above, {count} variables are assigned the value {query}, they are: ",
        begins=re.compile("Question: Find all variables that are assigned the value"),
        max_new_tokens=30,
    ),
    "cwe": Family(
        context="Below is a numbered list of words. In these words, some appear more often than "
        "others. Memorize the ones that appear most often.\n{context}\n",
        question="Question: What are the 10 most common words in the above list?",
        answer_prefix=" Answer: The top 10 words that appear most often in the list are:",
        begins=re.compile(r"Question: What are the 10 most common words in the above list\?"),
        max_new_tokens=120,
    ),
    "fwe": Family(
        context="Read the following coded text and track the frequency of each coded word. Find "
        "the three most frequently appeared coded words. {context}\n",
        question="Question: Do not provide any explanation. Please ignore the dots '....'. What "
        "are the three most frequently appeared words in the above coded text?",
        answer_prefix=" Answer: According to the coded text above, the three most frequently "
        "appeared words are:",
        begins=re.compile(r"Question: Do not provide any explanation\."),
        max_new_tokens=50,
    ),
    "qa": Family(
        context="Answer the question based on the given documents. Only give me the answer and do "
        "not output any other words.\n\nThe following are given documents.\n\n{context}\n\n",
        question="Answer the question based on the given documents. Only give me the answer and "
        "do not output any other words.\n\nQuestion: {query}",
        answer_prefix=" Answer:",
        begins=re.compile(r"Answer the question based on the given documents\."),
        max_new_tokens=32,
        metric="string_match_part",
    ),
}
_ANSWERS = {name: re.compile(r"\s*Answer:") for name in FAMILIES} | {
    "niah": re.compile(r"\s*The special magic")
}


def family_of(task: str) -> str:
    """Return the family of a task: ``niah`` of ``niah_multikey_3``; ``KeyError`` if it has none."""
    name = task.partition("_")[0]
    FAMILIES[name]
    return name


def split_prompt(prompt: str) -> tuple[str, str, str, str]:
    """Part a prompt that RULER wrote.

    Returns:
        The family of its task; the text to read; the question; and the answer prefix, with the
        white space before it.

    Raises:
        ValueError: no template of RULER has written the prompt.
    """
    for name, family in FAMILIES.items():
        # The last place: worked examples ask the same before.
        starts = [found.start() for found in family.begins.finditer(prompt)]
        opened = _ANSWERS[name].search(prompt, starts[-1]) if starts else None
        if opened is not None:
            start, end = starts[-1], opened.start()
            return name, prompt[:start], prompt[start:end], prompt[end:]
    raise ValueError("field 'input' holds no prompt of RULER")
