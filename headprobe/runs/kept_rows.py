"""The attention rows that a run keeps of a few cases, for people to look at: choice, record, file.

Rows of all cases would take far more room than the scores. So a run keeps those of a few telling
cases, of every head coarsely and of the heads with the highest scores token by token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16, Int32, UInt8

from headprobe.errors import HeadprobeError
from headprobe.files import atomic_write, file_digest
from headprobe.inputs.strict_json import json_object
from headprobe.models.layout import Head
from headprobe.prompts.case import Case
from headprobe.runs.directory import ROWS
from headprobe.runs.observation import Observation
from headprobe.scores import recorded_digests
from headprobe.stats.ranks import usual_top

FORMAT_VERSION = 2
BINS = 256
"""The number of equal stretches of the context by which the rows of all heads are kept."""
TOP_HEADS, TOP_TOKENS = 24, 128
"""The heads whose rows are kept by token, and the most attended tokens kept of each row."""
MOST_STEPS = 256
"""The most steps of a case whose rows are kept."""
REASONS = ("failed", "best", "worst", "deepest")


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptCase:
    """The rows of one case, and all that is needed to read them without the tokenizer.

    ``why`` is one of ``REASONS``. ``tokens`` are the texts of the tokens that the model read: the
    prompt, then the answer but its last token. Step s is the query at token ``first_query + s``;
    ``chosen`` holds the texts of the tokens that the steps chose, none where nothing is asked, and
    the steps from ``step_start`` to ``step_end`` write the answer; the scores count those of
    ``counted``. ``needle``, ``span``, ``question`` and ``counted`` are half open.

    ``bins`` is the attention of every head summed over ``BINS`` equal stretches of the tokens
    (token t of n lies in stretch ``t * BINS // n``), its mean over the counted steps, stored as
    ``round(255 * sqrt(attention))``.
    ``top_tokens`` are each row's most attended tokens, strongest first, of the heads of the file,
    and ``top_weights`` the attention that they get.
    """

    case_id: int
    why: str
    tokens: tuple[str, ...]
    first_query: int
    chosen: tuple[str, ...]
    step_start: int
    step_end: int
    counted: tuple[int, int]
    needle: tuple[int, int]
    span: tuple[int, int]
    question: tuple[int, int] | None
    answer: str
    wrong_answer: str | None
    bins: UInt8[np.ndarray, "layer query_head bin"]
    top_tokens: Int32[np.ndarray, "head step kept"]
    top_weights: Float16[np.ndarray, "head step kept"]


_ARRAYS = ("bins", "top_tokens", "top_weights")


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptRows:
    """The kept cases of a run; ``heads`` are the heads whose rows are kept by token."""

    heads: tuple[Head, ...]
    cases: tuple[KeptCase, ...]

    def save(self, path: Path) -> None:
        """Write ``rows.safetensors``, whole or not at all: arrays, and the rest in its header."""
        from safetensors.numpy import save

        header = {
            "format_version": FORMAT_VERSION,
            "heads": self.heads,
            "cases": [
                {name: value for name, value in _fields(case).items() if name not in _ARRAYS}
                for case in self.cases
            ],
        }
        tensors = {
            f"{case.case_id}.{name}": np.ascontiguousarray(getattr(case, name))
            for case in self.cases
            for name in _ARRAYS
        }
        with atomic_write(path) as whole:
            whole.write_bytes(save(tensors, metadata={"headprobe": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path) -> KeptRows:
        """Read ``rows.safetensors``.

        Raises:
            HeadprobeError: the file is damaged, or of another version.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as opened:
                header = json_object((opened.metadata() or {}).get("headprobe", ""))
                if header.get("format_version") != FORMAT_VERSION:
                    found = header.get("format_version")
                    raise ValueError(f"expected format_version {FORMAT_VERSION}, got {found}")
                return cls(
                    heads=tuple((layer, head) for layer, head in header["heads"]),
                    cases=tuple(_case(fields, opened) for fields in header["cases"]),
                )
        except (OSError, SafetensorError, ValueError) as error:
            message = f"{path} is damaged ({error}); run `headprobe score` with `keep_rows` again"
            raise HeadprobeError(message, path=path) from error


def _fields(case: KeptCase) -> dict[str, Any]:
    return {name: getattr(case, name) for name in KeptCase.__dataclass_fields__}


def _case(fields: Mapping[str, Any], opened: Any) -> KeptCase:
    lacks = KeptCase.__dataclass_fields__.keys() - fields.keys() - {*_ARRAYS}
    if lacks:
        raise ValueError(f"expected {min(lacks)} of a case, got none")
    arrays = {name: opened.get_tensor(f"{fields['case_id']}.{name}") for name in _ARRAYS}
    lists: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return KeptCase(**lists, **arrays)


def read_rows(run: Path) -> KeptRows | None:
    """Read the kept rows of a run directory; ``None`` where none were kept with its scores.

    Raises:
        HeadprobeError: the file is damaged.
    """
    path = run / ROWS
    if not path.is_file() or recorded_digests(run).get(ROWS) != file_digest(path):
        return None
    return KeptRows.load(path)


def strongest_heads(
    scores: Float[np.ndarray, "layer query_head"], *, count: int = TOP_HEADS
) -> tuple[Head, ...]:
    """Return the heads with the highest scores, the highest first."""
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    layers, heads = np.unravel_index(order, scores.shape)
    return tuple(zip(layers.tolist(), heads.tolist(), strict=True))


def choose_cases(
    cases: Sequence[Case], observations: Sequence[Observation], measure: str, *, count: int
) -> dict[int, str]:
    """Choose the cases whose rows are kept; return the reason for each by ``case_id``.

    In turn the next failed case, the passed case on which the top heads score highest and the one
    on which they score lowest by ``measure``, and the case whose needle lies deepest in tokens.
    """
    scored = {seen.case_id: seen.scores[measure] for seen in observations}
    passed = [seen.case_id for seen in observations if seen.passed]
    failed = sorted((s for s in observations if not s.passed), key=lambda seen: seen.score)
    mean = np.mean([scored[case_id] for case_id in passed or scored], axis=0)
    layers, heads = zip(*strongest_heads(mean, count=usual_top(mean.size)), strict=True)
    rising = sorted(passed, key=lambda case_id: float(scored[case_id][layers, heads].mean()))
    orders = {
        "failed": [seen.case_id for seen in failed],
        "best": rising[::-1],
        "worst": rising,
        "deepest": sorted(scored, key=lambda case_id: -cases[case_id].position),
    }
    chosen: dict[int, str] = {}
    left = {why: iter(orders[why]) for why in REASONS}
    while len(chosen) < min(count, len(scored)):
        for why in REASONS:
            found = next((case_id for case_id in left[why] if case_id not in chosen), None)
            if found is not None and len(chosen) < count:
                chosen[found] = why
    return chosen
