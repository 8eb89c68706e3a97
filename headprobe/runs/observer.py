"""Observe the cases of a scoring run for the run engine, and watch how its first cases go."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

from headprobe.attention.finite import check_model
from headprobe.errors import HeadprobeWarning
from headprobe.prompts.case import Case
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.failures import LOOKED_AT, few_pass
from headprobe.runs.observation import Observation, decode
from headprobe.runs.payload import Payload, UnreadablePayload
from headprobe.runs.plan import PlannedRun
from headprobe.runs.text_reader import read_texts
from headprobe.scores.utility import FRACTIONS, SETTINGS

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

Watch = Callable[[Case, Observation, bool], None]
"""Called with a case, its observation, and whether it was not observed at an earlier start."""


def look_away(case: Case, seen: Observation, is_new: bool) -> None:
    """Watch nothing."""


class CaseObserver:
    """Observes the cases of some keys, and warns if few of the first cases pass."""

    def __init__(
        self,
        loaded: LoadedModel,
        run: PlannedRun,
        case_of: Mapping[str, Case],
        *,
        packed: bool,
        warns: bool,
        watch: Watch,
    ) -> None:
        self._loaded = loaded
        self._run = run
        self._case_of = case_of
        self._packed = packed
        self._warns = warns
        self._watch = watch
        self._first: list[Observation] = []
        self._checked = False

    def observe(self, wanted: Set[str]) -> Iterator[tuple[str, Observation]]:
        """Observe the cases of the wanted keys, in the order of the prefix tree."""
        key_of = {self._case_of[key].case_id: key for key in wanted}
        if key_of and not self._checked:
            check_model(self._loaded, self._run.cases[min(key_of)].input_ids)
            self._checked = True
        for seen in self._observations(key_of):
            yield key_of[seen.case_id], seen
            self._watch(self._run.cases[seen.case_id], seen, True)
            self._look_at(seen)

    def decode(self, key: str, payload: Payload) -> Observation:
        """Make the observation of an earlier start from its payload."""
        layout, task = self._loaded.layout, self._run.task
        curves = (len(SETTINGS), layout.layers, layout.num_kv_heads, FRACTIONS.size)
        seen = decode(
            payload,
            case_id=self._case_of[key].case_id,
            measures=task.measures,
            shape=(layout.layers, layout.num_heads),
            curves=curves if task.gathers_utility else None,
        )
        embedding: Any = self._loaded.model.get_input_embeddings()
        if max(seen.generated_ids, default=0) >= len(embedding.weight):
            raise UnreadablePayload("expected tokens of the vocabulary")
        self._watch(self._case_of[key], seen, False)
        return seen

    def _observations(self, wanted: Iterable[int]) -> Iterator[Observation]:
        loaded, run, sizes = self._loaded, self._run, self._run.chunk_sizes
        if run.task.reads_text:
            return read_texts(loaded, run.cases, run.task, wanted=wanted, chunk_sizes=sizes)
        return observe_cases(
            loaded,
            run.cases,
            run.task,
            wanted=wanted,
            tree=run.tree,
            decode=run.decode,
            chunk_sizes=sizes,
            packed=self._packed,
        )

    def _look_at(self, seen: Observation) -> None:
        if len(self._first) == LOOKED_AT:
            return
        self._first.append(seen)
        if self._warns and len(self._first) == LOOKED_AT:
            told = few_pass(self._run.cases, self._first)
            if told:
                warnings.warn(told, HeadprobeWarning, stacklevel=3)
