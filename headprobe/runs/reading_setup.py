"""The record of how a model reads and answers cases, which does not change from case to case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from headprobe.measures import Measure, get_measure
from headprobe.runs.greedy import GreedyRules
from headprobe.runs.memory import ChunkSizes
from headprobe.tasks import Task

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

Decode = Literal["greedy", "forced"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ReadingSetup:
    """A model, a task, and how the model reads and answers the task's cases.

    ``decode`` is ``greedy`` for the model's own answers, by ``rules``, and ``forced`` for the
    expected ones. ``chunk_sizes`` are the tokens and the attention rows that are computed at a
    time; a model that ``reads_whole`` takes a text in one forward pass, whatever its length, and
    one with ``has_recurrent_state`` cannot go back to any earlier token. ``sequences`` are run in
    one batch; the attention of one alone can be observed.
    """

    loaded: LoadedModel
    task: Task
    decode: Decode
    rules: GreedyRules
    chunk_sizes: ChunkSizes
    has_recurrent_state: bool
    reads_whole: bool
    sequences: int = 1

    @cached_property
    def measures(self) -> Mapping[str, Measure]:
        """The measures that are computed, by name."""
        return {name: get_measure(name) for name in self.task.measures}
