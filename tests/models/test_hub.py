"""What ``model`` may name, and what is said where it could be meant otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from headprobe.errors import HeadprobeError, HeadprobeWarning, UsageError
from headprobe.models.hub import find_files
from headprobe.models.loading import load_model
from headprobe.models.options import ModelOptions


def cached(cache: Path, directory: Path, *, revision: str) -> None:
    """Put a model into the hub's cache, at a revision beside those that are there."""
    repository = cache / "models--some--model"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    commit = str(len(list((repository / "refs").iterdir()))) * 40
    (repository / "refs" / revision).write_text(commit)
    shutil.copytree(directory, repository / "snapshots" / commit)


def test_a_revision_is_the_one_that_is_asked_for(directory: Path, offline: Path) -> None:
    cached(offline, directory, revision="main")
    config = directory / "config.json"
    config.write_text(
        config.read_text().replace('"num_attention_heads": 4', '"num_attention_heads": 2')
    )
    cached(offline, directory, revision="half")
    assert load_model("some/model", device="cpu").layout.num_heads == 4
    options = ModelOptions(name="some/model", device="cpu", revision="half")
    with pytest.raises(HeadprobeError, match="do not fit its configuration"):
        load_model(options)
    assert load_model(options, weights=False).layout.num_heads == 2
    with pytest.raises(HeadprobeError, match="not in the local cache, and no network"):
        load_model("some/model", device="cpu", revision="other")


def test_a_revision_of_what_lies_here_is_wrong_usage(directory: Path) -> None:
    for name in (str(directory), "nano"):
        with pytest.raises(UsageError, match=r"revision=main: .* lies on this machine"):
            find_files(name, revision="main")


def test_a_directory_with_an_alias_s_name_is_said_to_be_passed_over(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)
    (directory.parent / "nano").mkdir()
    assert find_files("nano").id == "nano"
    directory.rename(directory.parent / "nano" / "inner")
    shutil.copytree("nano/inner", "nano", dirs_exist_ok=True)
    told = "is the alias of the bundled model, not the directory of that name.*`model=./nano`$"
    with pytest.warns(HeadprobeWarning, match=told):
        assert find_files("nano").id == "nano"
    assert find_files("./nano").directory == Path("nano")


def test_a_name_too_long_for_a_file_is_no_model() -> None:
    with pytest.raises(UsageError, match="neither an alias nor a hub id"):
        find_files("x" * 5000)


@pytest.mark.usefixtures("offline")
def test_a_hub_adapter_names_its_base_model(directory: Path, offline: Path) -> None:
    (directory / "config.json").unlink()
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    cached(offline, directory, revision="main")
    with pytest.raises(HeadprobeError, match="some/model is an adapter of some/base, no model"):
        find_files("some/model")
    (directory / "adapter_config.json").unlink()


@pytest.mark.usefixtures("offline")
def test_a_repository_of_gguf_files_says_how_to_name_one(directory: Path, offline: Path) -> None:
    (directory / "config.json").unlink()
    cached(offline, directory, revision="main")
    with pytest.raises(HeadprobeError, match=r"is given as `model=some/model:FILE\.gguf`"):
        find_files("some/model")


def test_options_come_in_a_record_or_by_name(directory: Path) -> None:
    by_name = load_model(str(directory), device="cpu", dtype="bfloat16", max_context=64)
    record = ModelOptions(name=str(directory), device="cpu", dtype="bfloat16", max_context=64)
    assert load_model(record).fingerprint == by_name.fingerprint
    assert (by_name.max_context, by_name.dtype) == (64, "bfloat16")
    with pytest.raises(TypeError, match="divice"):
        load_model(str(directory), divice="cpu")
