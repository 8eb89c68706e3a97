"""What a run will do, from its options: its cases, in which pieces, and what they take."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe.errors import UsageError
from headprobe.prompts.case import Case
from headprobe.prompts.sampling import balanced_order
from headprobe.prompts.style import PromptDecision, PromptOptions
from headprobe.runs.case_runner import Decode, question_of, shared_prefixes, watches_question
from headprobe.runs.directory import directory_for
from headprobe.runs.draw import DrawnCases, draw_cases
from headprobe.runs.memory import ChunkSizes, cache_bytes, chunk_sizes_for, parse_bytes
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.runs.prompt_trial import decide_style
from headprobe.tasks import Steps, Task, asks, get_task

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run takes: tokens, and memory in bytes.

    ``prompt_tokens`` are the prompts' tokens, prompts that ask "N/A" included where a measure
    wants them; ``unique_tokens`` are those that are run, tokens that prompts share once;
    ``saving`` is how many times fewer. ``cache`` is the KV cache of the longest prompt,
    ``activation_bytes`` what is set aside for everything else beside the weights; ``peak`` is the
    sum.
    """

    prompt_tokens: int
    unique_tokens: int
    saving: float
    prefill_chunk: int
    weights: int
    cache: int
    activation_bytes: int
    peak: int


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedRun:
    """Everything that is known before the model runs.

    ``plan`` holds every option that changes the numbers; a run is resumed only under an equal
    plan. ``task`` has the measures that are taken. ``possible`` counts the cases of the whole grid,
    of which ``cases`` were drawn. ``tree`` is over what their prompts can share; ``cost`` says what
    the run takes. With ``until_stable`` it stops once the ranking is more reliable than that.
    ``prompt`` says how questions are put.
    """

    task_name: str
    task: Task
    cases: Sequence[Case]
    possible: int
    plan: Mapping[str, Any]
    seed: int
    out: Path
    decode: Decode
    tree: PrefixTree
    chunk_sizes: ChunkSizes
    cost: Cost
    until_stable: float | None
    drawn: DrawnCases
    prompt: PromptDecision

    def rounds(self) -> Iterator[set[int]]:
        """The cases, in the portions after which a run may stop: about one a needle."""
        if self.until_stable is None:
            yield set(range(len(self.cases)))
            return
        order = iter(balanced_order(self.cases, self.seed))
        size = len({case.needle_id for case in self.cases})
        while portion := {case.case_id for case in itertools.islice(order, size)}:
            yield portion

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        drawn = "" if len(self.cases) == self.possible else f" of {self.possible}, balanced"
        return (
            f"{self.task_name}: {len(self.cases)} cases{drawn}, {self.cost.prompt_tokens:,} prompt "
            f"tokens, of which {self.cost.unique_tokens:,} are run"
            + (f"; prompt {self.prompt.describe()}" if self.drawn.writer else "")
        )


def prepare(
    loaded: LoadedModel,
    *,
    task: str,
    measures: str | None = None,
    lengths: str | None = None,
    depths: str | None = None,
    needles: Path | None = None,
    haystack: str | None = None,
    limit: int | None = 200,
    seed: int = 0,
    out: Path | None = None,
    decode: Decode = "greedy",
    prefill_chunk: int | None = None,
    activation_memory: str = "1GiB",
    until_stable: float | None = None,
    steps: Steps = "aligned",
    prompt: PromptOptions | None = None,
    decision: PromptDecision | None = None,
) -> PlannedRun:
    """Build a task's cases and its plan; the model's weights are not needed for it.

    Left out, the ``decision`` about the prompt style is what can be said before a trial.

    Raises:
        UsageError: an option that makes no sense, or a file that is not there or not usable.
    """
    if until_stable is not None and not 0 < until_stable < 1:
        message = "expected a number between 0 and 1"
        raise UsageError(message, option="until_stable", value=until_stable)
    chosen = get_task(task).measuring(measures).counting(steps)
    if decode == "forced" and chosen.probe.draw is not None:
        message = f"task {task} has no answers to force: leave it out"
        raise UsageError(message, option="decode", value=decode)
    activation_bytes = parse_bytes(activation_memory)
    options = prompt or PromptOptions()
    decision = decision or PromptDecision.known(options, loaded.tokenizer)
    drawn = draw_cases(
        loaded,
        chosen.probe,
        lengths=lengths,
        depths=depths,
        needles=needles,
        haystack=haystack,
        limit=limit,
        seed=seed,
        prompt=decision.settle(options) if asks(task) else options,
    )
    cases = drawn.cases
    tree = PrefixTree.of(shared_prefixes(cases, chosen))
    longest = max(case.length + chosen.probe.max_new_tokens(case) for case in cases)
    element = loaded.model.dtype.itemsize
    chunk_sizes = chunk_sizes_for(
        loaded.model.config,
        longest=longest,
        activation_bytes=activation_bytes,
        element=element,
        prefill_chunk=prefill_chunk,
    )
    return PlannedRun(
        task_name=task,
        task=chosen,
        cases=cases,
        possible=drawn.possible,
        plan={
            "task": task,
            "measures": list(chosen.measures),
            "model": loaded.layout.id,
            "weights": loaded.fingerprint,
            "dtype": loaded.dtype,
            "attention": loaded.attention,
            "device": loaded.device.type,
            "decode": decode,
            "until_stable": until_stable,
            **({"steps": steps} | decision.in_plan() if asks(task) else {}),
            **drawn.options,
        },
        seed=seed,
        out=out or directory_for(loaded.label, task),
        decode=decode,
        tree=tree,
        chunk_sizes=chunk_sizes,
        cost=_cost(
            loaded,
            cases,
            chosen,
            tree,
            chunk_sizes=chunk_sizes,
            longest=longest,
            activation_bytes=activation_bytes,
        ),
        until_stable=until_stable,
        drawn=drawn,
        prompt=decision,
    )


def decide_prompt(loaded: LoadedModel, run: PlannedRun, prompt: PromptOptions) -> PromptDecision:
    """How the run's questions are put: by a trial where that is not decided."""
    if run.prompt.used is not None or not asks(run.task_name):
        return run.prompt
    return decide_style(
        loaded,
        run.task,
        run.drawn,
        prompt=prompt,
        run_tokens=run.cost.unique_tokens,
        seed=run.seed,
    )


def _cost(
    loaded: LoadedModel,
    cases: Sequence[Case],
    task: Task,
    tree: PrefixTree,
    *,
    chunk_sizes: ChunkSizes,
    longest: int,
    activation_bytes: int,
) -> Cost:
    weights = loaded.weight_bytes
    cache = cache_bytes(loaded.layout, tokens=longest, element=loaded.model.dtype.itemsize)
    asked = [question_of(case) for case in cases] if watches_question(task) else []
    blank = sum(len(question.blank_ids) for question in asked)
    prompts = sum(case.length for case in cases)
    tokens = prompts + sum(question.start for question in asked) + blank
    unique = tree.unique_tokens + prompts - int(tree.lengths.sum()) + blank
    return Cost(
        prompt_tokens=tokens,
        unique_tokens=unique,
        saving=tokens / unique,
        prefill_chunk=chunk_sizes.prefill_chunk,
        weights=weights,
        cache=cache,
        activation_bytes=activation_bytes,
        peak=weights + cache + activation_bytes,
    )
