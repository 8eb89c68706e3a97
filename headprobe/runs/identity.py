"""The identity of a run: the plan that makes it the same as an earlier one, and its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

# Labels that change the order of sums, and so the last digits of scores.
_MOVING = ("prefill_chunk", "row_bytes", "threads")
_MOST_SHOWN = 60


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """The settings that decide a run's numbers, as JSON can hold them.

    A run goes on only under a plan of equal ``identity``. ``labels`` are recorded with it and may
    differ: names (``identity`` has the digests of their contents, such as ``needles_digest`` for
    the label ``needles``), the number of wanted units, the chunk sizes.
    """

    identity: Mapping[str, Any]
    labels: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return identity and labels in one object, as result files record them."""
        return {**self.identity, **self.labels}

    def differences(self, other: Plan) -> list[str]:
        """List the options in which a later plan differs, as in ``seed was 0, now 1``.

        If the ``kind`` of run differs, only the kind is listed. A digest that depends on another
        option, as a haystack's depends on the seed, is listed only if nothing else differs.
        """
        names = [
            name
            for name in dict.fromkeys((*self.identity, *other.identity))
            if self.identity.get(name) != other.identity.get(name)
        ]
        if "kind" in names:
            names = ["kind"]
        told = [name for name in names if not self._is_bare_digest(name, other)]
        return [self._difference(name, other) for name in told or names]

    def drift(self, other: Plan) -> list[str]:
        """List the labels of a later plan that move numbers a little, as in ``threads was 2``."""
        pairs = ((name, self.labels.get(name), other.labels.get(name)) for name in _MOVING)
        return [
            f"{name} was {was}, now {now}" for name, was, now in pairs if was and now and was != now
        ]

    def _is_bare_digest(self, name: str, other: Plan) -> bool:
        label = name.removesuffix("_digest")
        return label != name and self.labels.get(label) == other.labels.get(label)

    def _difference(self, name: str, other: Plan) -> str:
        label = name.removesuffix("_digest")
        if label == name or self._is_bare_digest(name, other):
            label, was, now = name, self.identity.get(name), other.identity.get(name)
        else:
            was, now = self.labels.get(label), other.labels.get(label)
        return "{} was {}, now {}".format(label, *_excerpts(json.dumps(was), json.dumps(now)))


def model_identity(loaded: LoadedModel) -> dict[str, Any]:
    """Return the facts about a loaded model on which the results of a run depend."""
    return {
        "model_digest": loaded.fingerprint,
        "dtype": loaded.dtype,
        "attention": loaded.attention,
        "device": loaded.device.type,
    }


def _excerpts(*texts: str) -> list[str]:
    """Shorten long texts to the part where they begin to differ."""
    pairs = enumerate(zip(*texts, strict=False))
    common = next((at for at, letters in pairs if len(set(letters)) > 1), min(map(len, texts)))
    start = max(0, common - _MOST_SHOWN // 3) if max(map(len, texts)) > _MOST_SHOWN else 0
    parts = [text[start : start + _MOST_SHOWN] for text in texts]
    return [
        f"{'...' * (start > 0)}{part}{'...' * (start + len(part) < len(text))}"
        for part, text in zip(parts, texts, strict=True)
    ]
