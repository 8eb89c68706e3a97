"""ROUGE-L as LongBench and LooGLE compute it, with the package ``rouge`` (Lin 2004).

Texts are split into sentences at full stops, and sentences into words at spaces. Of each sentence
of the reference, the words that stand in a longest common subsequence with any sentence of the
response count; as the package does by default, different words count once.
"""

from __future__ import annotations

from collections.abc import Sequence

_EPSILON = 1e-8


def rouge_l(response: str, reference: str) -> tuple[float, float]:
    """Compute the F score and the recall of ROUGE-L, 0 to 1; 0 where a text has no words."""
    said, wanted = _sentences(response), _sentences(reference)
    of_response = {word for sentence in said for word in sentence}
    of_reference = {word for sentence in wanted for word in sentence}
    if not of_response or not of_reference:
        return 0.0, 0.0
    union: set[str] = set()
    for sentence in wanted:
        for other in said:
            union |= set(_common(sentence, other))
    precision, recall = len(union) / len(of_response), len(union) / len(of_reference)
    return 2 * precision * recall / (precision + recall + _EPSILON), recall


def _sentences(text: str) -> list[list[str]]:
    # A blank sentence has one word, "", as in the package.
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """Return a longest common subsequence: of several, the one that the package finds."""
    table = [[0] * (len(other) + 1)]
    for word in one:
        above, row = table[-1], [0]
        for column, candidate in enumerate(other):
            row.append(
                above[column] + 1 if word == candidate else max(above[column + 1], row[column])
            )
        table.append(row)
    found, i, j = [], len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            found.append(one[i])
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]
