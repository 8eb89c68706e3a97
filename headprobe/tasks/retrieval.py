"""Needle in a haystack, as in "Retrieval Head" (Wu et al., arXiv 2404.15574).

One fact stands in unrelated prose; the question asks for it, the answer copies it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from headprobe.prompts.case import Case

MOST_STEPS = 50
_CHARACTERS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"


def most_steps(case: Case) -> int:
    """Answer tokens watched at most: 50, whatever the case."""
    return MOST_STEPS


def success(response: str, case: Case) -> float:
    """ROUGE-1 recall of the response against the needle's answer, in per cent (stemmed).

    An answer without Latin letters or digits is parted into the words of its own script, Chinese,
    Japanese and Korean into characters.
    """
    latin = re.search(r"[a-z0-9]", case.answer.lower()) is not None
    recall: float = _scorer(latin).score(case.answer, response)["rouge1"].recall
    return 100 * recall


@cache
def _scorer(latin: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], use_stemmer=True, tokenizer=None if latin else _OtherScripts())


class _OtherScripts:
    """What rouge_score's own tokenizer, which knows a-z and 0-9 alone, leaves out."""

    def tokenize(self, text: str) -> list[str]:
        """Words, or characters where a script parts no words."""
        return re.findall(rf"[{_CHARACTERS}]|[^\W{_CHARACTERS}]+", text.casefold())
