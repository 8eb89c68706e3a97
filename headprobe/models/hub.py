"""Where a model's files are: an alias, a directory or a hub id to a directory on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from transformers.utils import logging

from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.aliases import ALIASES, NANO
from headprobe.models.bundled import bundled

_TEXT_FILES = ["*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja"]
# Repositories also hold the weights in other layouts: original/, onnx/, consolidated.safetensors.
_DUPLICATES = ["*/*", "consolidated*"]
_ANSWER_SECONDS = 5


def find_files(name: str, *, python: bool = False, weights: bool = True) -> tuple[Path, str]:
    """The directory that holds a model, and the id that names it in headprobe's files.

    A hub id (or an alias of one) is downloaded unless it is in the hub's cache; ``python`` also
    fetches the Python files that it brings, ``weights`` the weights.

    Raises:
        UsageError: no such directory, or no model in it.
        HeadprobeError: the hub does not give the model.
    """
    if name == NANO:
        return bundled("models", NANO), NANO
    path = Path(name).expanduser()
    if name not in ALIASES and (path.exists() or name.startswith((".", "/", "~"))):
        if not path.is_dir():
            raise UsageError("no such directory", option="model", value=name)
        if not (path / "config.json").is_file():
            message = "no config.json there, so no model in this directory"
            raise UsageError(message, option="model", value=name)
        return path, name
    repository = ALIASES[name].repository if name in ALIASES else name
    return _download(repository, python=python, weights=weights), repository


def _download(repository: str, *, python: bool, weights: bool) -> Path:
    """Fetch what is missing in the hub's cache.

    A whole snapshot is asked for because its one request fails at once without a network, where
    ``from_pretrained`` tries for half a minute, file by file. If the files are cached, they do.
    """
    files = [*_TEXT_FILES, *(["*.py"] if python else []), *(["*.safetensors"] if weights else [])]
    with nullcontext() if sys.stderr.isatty() else quiet(), _fetching(repository):
        path = _snapshot(repository, files)
        if weights and not any(path.glob("*.safetensors")):
            path = _snapshot(repository, [*files, "pytorch_model*.bin"])
    if not (path / "config.json").is_file():
        raise HeadprobeError(f"{repository} has no config.json: it is no transformers model")
    return path


def _snapshot(repository: str, files: list[str]) -> Path:
    return Path(
        snapshot_download(
            repository,
            allow_patterns=files,
            ignore_patterns=_DUPLICATES,
            etag_timeout=_ANSWER_SECONDS,
        )
    )


@contextmanager
def _fetching(repository: str) -> Iterator[None]:
    """Say what to do when the hub does not give the files."""
    try:
        yield
    except HFValidationError:
        raise UsageError(
            "no such directory, and neither an alias nor a hub id", option="model", value=repository
        ) from None
    except GatedRepoError:
        raise HeadprobeError(
            f"{repository} is gated: ask for access at https://huggingface.co/{repository}, "
            "then log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise HeadprobeError(
            f"no model {repository}: not an alias (see `headprobe list models`), not a directory, "
            "and not on the hub, or private (then `hf auth login` first)"
        ) from None
    except LocalEntryNotFoundError:
        if "/" not in repository:
            raise HeadprobeError(
                "not an alias (see `headprobe list models`), not a directory, not in the local "
                "cache, and no network to look for it on the hub",
                option="model",
                value=repository,
            ) from None
        raise HeadprobeError(
            f"no network and not in the local cache; run `hf download {repository}` where there is "
            "a network, or give a local directory",
            option="model",
            value=repository,
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise HeadprobeError(f"cannot download {repository}: {first_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and bars of transformers on stderr."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def first_line(error: BaseException) -> str:
    """The start of an exception's message, fit for one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:;")[:200]
