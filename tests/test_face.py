import subprocess
import sys
from pathlib import Path

import pytest

import headprobe
from headprobe.allocators import allocate, parse_budget
from headprobe.budgets import HeadBudgets
from headprobe.compression import HeadBudgetCache
from headprobe.evaluation.answering import evaluate
from headprobe.models.loading import load_model
from headprobe.runs.score import score
from headprobe.scores import HeadScores


def test_the_package_offers_what_a_caller_needs() -> None:
    assert headprobe.load_model is load_model
    assert headprobe.score is score
    assert headprobe.HeadScores is HeadScores
    assert headprobe.allocate is allocate
    assert headprobe.parse_budget is parse_budget
    assert headprobe.HeadBudgets is HeadBudgets
    assert headprobe.HeadBudgetCache is HeadBudgetCache
    assert headprobe.evaluate is evaluate
    assert headprobe.__version__ == "0.1.0"
    assert set(headprobe.__all__) <= set(dir(headprobe))


def test_all_but_five_modules_live_in_rooms() -> None:
    root = {file.stem for file in Path(headprobe.__file__).parent.glob("*.py")}
    assert root == {"__init__", "__main__", "errors", "files", "registry"}


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'headprobe' has no attribute 'allocates'"):
        headprobe.allocates  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys; import headprobe; "
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'matplotlib', 'typer', 'rich'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
