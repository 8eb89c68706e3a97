from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from headprobe.models.loading import LoadedModel

# Which needs kvpress: the second half of `make test-real`.
collect_ignore = [] if find_spec("kvpress") else ["test_press.py"]


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    """SmolLM2-135M-Instruct as its GGUF file has it: 30 layers, 9 query and 3 KV heads, float32."""
    # Not before jaxtyping has put its hook on our imports.
    from headprobe.models.loading import load_model
    from tests.real.fetch import NAME

    path = Path(__file__).parents[2] / ".models" / NAME
    if not path.is_file():
        pytest.skip(f"no model at {path}: make test-real fetches it")
    return load_model(str(path), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def plain_smollm2(smollm2: LoadedModel) -> PreTrainedModel:
    """A copy of the model that computes attention as it is written."""
    plain = copy.deepcopy(smollm2.model)
    plain.set_attn_implementation("eager")
    return plain


@pytest.fixture(scope="module")
def smollm2_once(smollm2: LoadedModel) -> Iterator[LoadedModel]:
    """The model, which commands that are run in this process get instead of loading it."""
    from headprobe.models import loading

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_model", lambda *_, **__: smollm2)
        yield smollm2
