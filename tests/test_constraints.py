"""The versions that ``make test-oldest`` installs are the lowest that pyproject.toml takes."""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# Not needed to run tests.
CHECKERS = {"import-linter", "mypy", "pandas-stubs", "ruff", "types-jsonschema"}


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = chain(project["dependencies"], *project["optional-dependencies"].values())
    wanted = [Requirement(line) for line in listed if not line.startswith("headprobe[")]
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in lines)}
    lowest = {
        requirement.name: Version(bound.version)
        for requirement in wanted
        for bound in requirement.specifier
        if bound.operator == ">=" and requirement.name not in CHECKERS
    }
    assert {name: Version(pins[name]) for name in lowest} == lowest
    assert {requirement.name for requirement in wanted} - set(lowest) == CHECKERS
