"""Make a run directory a repository of the Hugging Face hub, with a card that tells of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from headprobe import __version__
from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.runs.card import CARD, PICTURE, write_card
from headprobe.runs.hub import FILES, HubName, asking, check_run, check_sizes, run_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

_LONGEST_MESSAGE = 100


def publish_run(
    run: Path, name: str, *, draw: Callable[[Path, Path], None], private: bool = False
) -> str:
    """Put a run into a repository of the hub, with a card, in one commit; return its name there.

    A repository that exists gets another commit, in which files of an earlier run go.

    Args:
        run: the run directory, or its scores.
        name: the repository, ``owner/name``, or ``name`` of the user that is logged in.
        draw: draws the card's picture of the run in a directory, to a path.
        private: make the repository a private one.

    Raises:
        UsageError: the name cannot be one of the hub; or it is public, and ``private`` is set.
        HeadprobeError: a file of the run is damaged or too large, or the hub refuses.
    """
    from huggingface_hub import HfApi

    run = run if run.is_dir() else run.parent
    scores = check_run(run)
    if scores.layout.name != scores.layout.id:
        warnings.warn(
            f"the run names its model by a path of this machine, {scores.layout.id}: whoever pulls "
            "the run sees it",
            HeadprobeWarning,
            stacklevel=2,
        )
    files = run_files(run)
    check_sizes(files)
    named = HubName(repository=name)
    with asking(named):
        api = HfApi(library_name="headprobe", library_version=__version__)
        there = _repository(api, name, private=private)
    with TemporaryDirectory() as folder:
        picture, card = Path(folder) / PICTURE, Path(folder) / CARD
        draw(run, picture)
        write_card(card, run, scores, name=there.id, files=files)
        with asking(named):
            _commit(api, there, [card, picture, *files], f"{scores.layout.name}, {scores.task}")
    return there.id


def _repository(api: HfApi, name: str, *, private: bool) -> ModelInfo:
    """Make the repository where it is missing, and ask what it holds.

    Raises:
        UsageError: it is public, and ``private`` is set.
    """
    there = api.model_info(api.create_repo(name, private=private or None, exist_ok=True).repo_id)
    if private and there.private is False:
        message = f"{there.id} is there and public: make it private on its page, or leave this out"
        raise UsageError(message, option="private")
    return there


def _commit(api: HfApi, there: ModelInfo, files: list[Path], subject: str) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    names = {file.name for file in files}
    held = {file.rfilename for file in there.siblings or ()}
    api.create_commit(
        there.id,
        [
            *(CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in files),
            *(CommitOperationDelete(path_in_repo=old) for old in sorted(held & {*FILES} - names)),
        ],
        commit_message=f"Scores of {subject}"[:_LONGEST_MESSAGE],
    )
