"""Draft the next tokens of an answer, to be verified by the model.

Greedy decoding is exact whatever is drafted: as far as the model agrees with a draft, the draft is
its answer (speculative decoding, arXiv 2211.17192). Drafts cost a few tokens of a forward pass that
is run anyway, and each accepted token saves a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headprobe.prompts.case import Case

# The most tokens of a draft other than an answer's or a needle's rest: chat models quote the needle
# to its end, and what goes on otherwise is drafted again.
_LOOKED_UP = 10
# The newest tokens that are looked for, and the fewest that must match outside answer and needle.
_LONGEST_MATCH, _SHORTEST_MATCH = 4, 2


def drafts(
    case: Case, generated: Sequence[int], *, most: int, similar: Sequence[int] = ()
) -> list[list[int]]:
    """Return drafts of what follows ``generated`` in a case's answer, the likeliest first.

    Of a similar answer, the needle, by prompt lookup the whole text so far, and the expected
    answer: what follows the newest tokens there. To begin with, the starts of a similar answer, the
    expected one, the needle and the watched sentence.

    Args:
        case: the case.
        generated: the tokens of the answer so far.
        most: the most tokens of a draft.
        similar: the answer that a similar model gave to the case, if there is one.
    """
    found: list[list[int]] = []
    for draft in _candidates(case, generated, list(similar)):
        short = draft[:most]
        if short and not any(short == other[: len(short)] for other in found):
            found.append(short)
    return found


def _candidates(case: Case, generated: Sequence[int], similar: list[int]) -> Iterator[list[int]]:
    # With the full stop after the watched span, which may be the answer alone.
    needle = list(case.input_ids[case.position : case.span_end + 1])
    answer = list(case.answer_ids)
    if not generated:
        yield similar
        yield answer
        yield needle[:_LOOKED_UP]
        yield list(case.input_ids[case.span])[:_LOOKED_UP]
        return
    yield _after(similar, generated, shortest=_SHORTEST_MATCH)[:_LOOKED_UP]
    yield _after(needle, generated, shortest=1)
    text = [*case.input_ids, *generated]
    yield _after(text, generated, shortest=_SHORTEST_MATCH)[:_LOOKED_UP]
    yield _after(answer, generated, shortest=1)


def _after(text: Sequence[int], newest: Sequence[int], *, shortest: int) -> list[int]:
    """Return what follows the longest end of ``newest`` that stands in a text, at its last place.

    >>> _after([1, 2, 3, 1, 4, 5], [7, 2, 3, 1], shortest=2)
    [4, 5]
    """
    for size in range(min(_LONGEST_MATCH, len(newest)), shortest - 1, -1):
        wanted = list(newest[-size:])
        # The text's own end is followed by nothing.
        for at in range(len(text) - size - 1, -1, -1):
            if text[at] == wanted[0] and list(text[at : at + size]) == wanted:
                return list(text[at + size :])
    return []
