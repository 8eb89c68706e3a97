from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Read when the libraries are imported: one thread a worker, no network, plain text.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS"):
    os.environ.pop(name, None)

import pytest
from hypothesis import settings

# The process that starts the workers reads this file too, and is spared what only they need.
if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

pytest.register_assert_rewrite("tests._support")

# As the command line does it: looking for garbage among what imports leave takes a fifth of them.
gc.set_threshold(50_000)

# The same examples on every run, and no time limit that a busy machine would break.
settings.register_profile("headprobe", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("headprobe")


# Rooms whose tests run commands, whole runs or thousands of files, train, or draw.
SLOW_ROOMS = {"cli", "hostile", "nano", "plots", "report", "runs"}
# Of these, rooms whose tests run from end to end what the other rooms' tests check by its arrays'
# shapes: that check is two fifths of their time.
END_TO_END = {"cli", "hostile", "plots", "report"}
HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file of which no test is wanted."""
    unwanted = "not slow" in config.option.markexpr and collection_path.name in SLOW_ROOMS
    return True if unwanted and collection_path.parent == HERE else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and begin with files that hold some, so that no worker ends with one."""
    for item in items:
        scores = "nano_scored" in getattr(item, "fixturenames", ())
        if scores or _room(item) in SLOW_ROOMS:
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none; leave shapes alone from end to end."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", _room(item) in END_TO_END)
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


def _room(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0]


SCORED = ["score", "--lengths", "128", "--depths", "0,50,100", "--limit", "48"]


@pytest.fixture(scope="session")
def nano_scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which nano was scored on 48 cases of r2; it is for all tests, so look only."""
    # Not before jaxtyping has put its hook on our imports.
    from tests._support.command_line import succeed

    folder = tmp_path_factory.mktemp("nano-scored")
    succeed(*SCORED, cwd=folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield folder
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def scored(nano_scored: Path, tmp_path: Path) -> Path:
    """A folder of the test's own in which nano was scored on 48 cases of r2."""
    return Path(shutil.copytree(nano_scored, tmp_path / "scored"))


@pytest.fixture
def tiny_llama() -> LlamaForCausalLM:
    """Two layers with 4 query and 2 KV heads, random weights, float32, a window of 128."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()
