"""A run's scores: one number for each head, measure and case; their statistics and their file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import atomic_write
from headprobe.inputs.printable import brief
from headprobe.inputs.schemas import parse_header
from headprobe.inputs.strict_json import json_object
from headprobe.models.layout import HeadLayout
from headprobe.scores.statistics import QueryStatistics
from headprobe.scores.utility import UtilityCurves
from headprobe.stats.bootstrap import percentile_interval, resampled_means
from headprobe.stats.reliability import Reliability, split_half

FORMAT_VERSION = 1
FILE_NAME, REPORT = "scores.safetensors", "run.json"
# The types of numbers that numpy has, unlike bfloat16 and the floats of 8 bits.
_NUMPY_TYPES = {"BOOL", "F16", *(f"{kind}{bits}" for kind in "FIU" for bits in (32, 64))}
_NUMPY_TYPES |= {f"{kind}{bits}" for kind in "IU" for bits in (8, 16)}


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadStatistics:
    """Statistics of one measure for every head, over the passed cases.

    ``ci_low`` and ``ci_high`` bound the mean's 95 % bootstrap interval; ``rank`` is 1 for the head
    with the highest mean, ties in the order of layer and head.
    """

    mean: Float[np.ndarray, "layer query_head"]
    std: Float[np.ndarray, "layer query_head"]
    ci_low: Float[np.ndarray, "layer query_head"]
    ci_high: Float[np.ndarray, "layer query_head"]
    rank: Int[np.ndarray, "layer query_head"]


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadScores:
    """Scores of every query head on every passed case, higher meaning more of what is measured.

    ``per_case`` holds a matrix a case for each measure. ``needles`` names the needle of each of
    these cases: cases of one needle are alike, so intervals resample needles, not cases. ``plan``
    holds every option that changes the numbers. ``cases`` counts the passed and the failed.
    ``means`` holds what a file says of a measure's mean: it was taken before the file rounded the
    cases to float32, and budgets of other programs are met to the last entry only by it.
    ``utility`` holds the curves of every KV head's entries, ``query_statistics`` the mean
    queries of every head, if they were gathered.
    """

    layout: HeadLayout
    task: str
    per_case: Mapping[str, Float[np.ndarray, "case layer query_head"]]
    needles: tuple[int, ...]
    cases: int
    plan: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    means: Mapping[str, Float[np.ndarray, "layer query_head"]] = field(default_factory=dict)
    utility: UtilityCurves | None = None
    query_statistics: QueryStatistics | None = None

    def __post_init__(self) -> None:
        if not self.per_case:
            raise ValueError("expected the scores of at least one measure, got none")
        shape = (len(self.needles), self.layout.layers, self.layout.num_heads)
        for measure, cases in self.per_case.items():
            _check_numbers(f"{measure}.per_case", cases, shape)
        for measure, mean in self.means.items():
            _check_numbers(measure, mean, shape[1:])
            cases = self.per_case[measure]
            close = 1e-6 * float(np.abs(cases).max())
            if not np.allclose(mean, _mean(cases), atol=close):
                raise ValueError(f"expected {measure} to be the mean of {measure}.per_case")
        if not 1 <= len(self.needles) <= self.cases:
            raise ValueError(f"expected 1 to {self.cases} passed cases, got {len(self.needles)}")
        heads = (self.layout.layers, self.layout.num_kv_heads)
        if self.utility is not None and self.utility.query_aware.shape[:2] != heads:
            raise ValueError(
                f"expected utility of {heads} heads, got {self.utility.query_aware.shape}"
            )

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures' names, the task's own first."""
        return tuple(self.per_case)

    @property
    def passed(self) -> int:
        """Cases that the model answered well enough to be scored."""
        return len(self.needles)

    @property
    def few_passed(self) -> bool:
        """True where under half of the cases passed: the ranking rests on easy ones."""
        return 2 * self.passed < self.cases

    def resolve(self, measure: str | None) -> str:
        """Return the name of a measure of the run; ``None`` gives the task's own measure.

        Raises:
            UsageError: the run holds no such measure.
        """
        if measure is None:
            return self.measures[0]
        if measure not in self.per_case:
            raise UsageError(
                f"the run holds {', '.join(self.measures)}", option="measure", value=measure
            )
        return measure

    def mean(self, measure: str) -> Float[np.ndarray, "layer query_head"]:
        """Return the mean score of every head over the passed cases (float32)."""
        return self.means[measure] if measure in self.means else _mean(self.per_case[measure])

    def statistics(self, measure: str, *, seed: int = 0) -> HeadStatistics:
        """Compute the mean, spread, 95 % interval and rank of every head.

        The interval is a percentile bootstrap (Efron 1979) whose resampled units are needles, or
        cases where all cases share one needle. The same seed gives the same interval.
        """
        scores = self.per_case[measure].astype(np.float64)
        flat = scores.reshape(len(scores), -1)
        low, high = percentile_interval(resampled_means(flat, self.needles, seed=seed))
        mean = self.mean(measure)
        order = np.argsort(-mean, axis=None, kind="stable")
        rank = np.empty(mean.size, dtype=np.int64)
        rank[order] = np.arange(1, mean.size + 1)
        spread = flat.std(axis=0, ddof=1) if len(flat) > 1 else np.zeros(flat.shape[1])
        return HeadStatistics(
            mean=mean,
            std=spread.reshape(mean.shape),
            ci_low=low.reshape(mean.shape),
            ci_high=high.reshape(mean.shape),
            rank=rank.reshape(mean.shape),
        )

    def reliability(self, measure: str, *, seed: int = 0) -> Reliability:
        """Estimate how far two halves of the needles agree on the ranking of heads."""
        return split_half(self.per_case[measure], self.needles, seed=seed)

    def save(self, path: Path, *, files: Mapping[str, str] | None = None) -> None:
        """Write ``scores.safetensors`` as a whole or not at all.

        ``files`` holds the SHA-256, by name, of the other files of the run: readers refuse files
        with another digest.
        """
        from safetensors.numpy import save

        # save_file writes other than C-contiguous arrays wrongly, without a word.
        arrays = {f"{measure}.per_case": scores for measure, scores in self.per_case.items()}
        arrays |= {measure: self.mean(measure) for measure in self.measures}
        arrays |= self.utility.to_tensors() if self.utility else {}
        tensors = {name: np.ascontiguousarray(a, dtype=np.float32) for name, a in arrays.items()}
        tensors |= self.query_statistics.to_tensors() if self.query_statistics else {}
        header = {
            "format_version": FORMAT_VERSION,
            "model": self.layout.to_json(),
            "task": self.task,
            "plan": dict(self.plan),
            "accepted": self.passed,
            "cases": self.cases,
            "versions": dict(self.versions),
            "measures": list(self.measures),
            "needles": list(self.needles),
            "files": dict(files or {}),
            **({"statistics": dict(self.query_statistics.header)} if self.query_statistics else {}),
        }
        with atomic_write(path) as whole:
            whole.write_bytes(save(tensors, metadata={"headprobe": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path) -> HeadScores:
        """Read a run directory or its ``scores.safetensors``.

        Raises:
            UsageError: there is no such file, or it is of another kind.
            HeadprobeError: the file is damaged, or its header does not fit the schema of
                docs/scores.schema.json; the message names the field.
        """
        from safetensors import SafetensorError, safe_open

        file = path / FILE_NAME if path.is_dir() else path
        if not file.is_file():
            raise no_scores(file)
        try:
            with safe_open(file, framework="numpy") as opened:
                metadata = opened.metadata() or {}
                names = [*opened.keys()]
                types = {opened.get_slice(name).get_dtype() for name in names}
                unknown = sorted(types - _NUMPY_TYPES)
                tensors = {} if unknown else {name: opened.get_tensor(name) for name in names}
        except SafetensorError as error:
            if file.suffix.lower() != ".safetensors":
                json_file = file.suffix.lower() == ".json"
                kind = "is a budget or other JSON" if json_file else "holds no scores"
                raise UsageError(
                    f"{file} {kind}; give a run directory or its {FILE_NAME}", path=file
                ) from error
            raise HeadprobeError(
                f"{file} is damaged or no safetensors file ({error}); run `headprobe score` again",
                path=file,
            ) from error
        if unknown:
            message = f"{file} is not a valid run: expected float32 scores, got {unknown[0]}"
            raise HeadprobeError(message, path=file)
        if "headprobe" not in metadata:
            raise HeadprobeError(f"{file} was not written by headprobe: its header lacks our key")
        try:
            return cls._from_parts(parse_header(metadata["headprobe"], "scores"), tensors)
        except ValueError as error:
            raise HeadprobeError(f"{file} is not a valid run: {error}") from error

    @classmethod
    def _from_parts(cls, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> HeadScores:
        # Other programs may leave out what the contract does not ask for.
        measures = header.get("measures", [name for name in tensors if "." not in name])
        if len(set(measures)) < len(measures):
            raise ValueError(f"expected distinct measures, got {brief(measures)}")
        layout = HeadLayout.from_json(header["model"])
        for measure in measures:
            if f"{measure}.per_case" not in tensors:
                raise ValueError(f"it lacks '{measure}.per_case'")
        per_case = {measure: tensors[f"{measure}.per_case"] for measure in measures}
        passed = max((cases.shape[0] for cases in per_case.values() if cases.ndim), default=0)
        needles = tuple(map(int, header.get("needles", range(passed))))
        means = {measure: tensors[measure] for measure in measures if measure in tensors}
        shape = (len(needles), layout.layers, layout.num_heads)
        for measure, cases in per_case.items():
            _check_numbers(f"{measure}.per_case", cases, shape)
        for measure, mean in means.items():
            _check_numbers(measure, mean, shape[1:])
        if not needles or header["accepted"] != len(needles):
            raise ValueError(f"expected {header['accepted']} passed cases, got {len(needles)}")
        return cls(
            layout=layout,
            task=header["task"],
            per_case=per_case,
            needles=needles,
            cases=int(header["cases"]),
            plan=header["plan"],
            versions=header["versions"],
            means=means,
            utility=UtilityCurves.from_tensors(tensors),
            query_statistics=QueryStatistics.from_tensors(tensors, header.get("statistics")),
        )


def recorded_digests(run: Path) -> Mapping[str, str]:
    """Return the SHA-256, by name, of the files that were written with a run's scores.

    The mapping is empty where the directory holds no scores, or scores of an earlier version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(run / FILE_NAME, framework="numpy") as opened:
            header = (opened.metadata() or {}).get("headprobe", "")
        files: Mapping[str, str] = parse_header(header, "scores").get("files", {})
        return files
    except (OSError, SafetensorError, ValueError):
        return {}


def no_scores(file: Path) -> UsageError:
    """Build the error for a missing file of scores, which says how to get the file."""
    with suppress(OSError, ValueError):
        report = json_object((file.parent / REPORT).read_text(encoding="utf-8"))
        if report.get("status") == "stopped" and {"observed", "cases"} <= report.keys():
            return UsageError(
                f"the run in {file.parent} stopped after {report['observed']} of "
                f"{report['cases']} cases; give the score command again to go on"
            )
    return UsageError(f"no scores at {file}; make them with `headprobe score`", path=file)


def _check_numbers(name: str, numbers: Shaped[np.ndarray, "*size"], shape: tuple[int, ...]) -> None:
    if numbers.shape != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {numbers.shape}")
    if numbers.dtype.kind != "f":
        raise ValueError(f"expected floating-point scores, got {numbers.dtype} in {name}")
    # Not by isfinite(): float64 has numbers that would be infinite as float32.
    if not (np.abs(numbers) <= np.finfo(np.float32).max).all():
        raise ValueError(f"expected finite scores, got NaN or infinity in {name}")


def _mean(
    scores: Float[np.ndarray, "case layer query_head"],
) -> Float[np.ndarray, "layer query_head"]:
    mean: np.ndarray = scores.mean(axis=0, dtype=np.float64)
    return mean.astype(np.float32)
