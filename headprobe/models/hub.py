"""Find the files of the model that a user names, on this machine or on the hub."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging

from headprobe.errors import HeadprobeError, HeadprobeWarning, UsageError
from headprobe.models import adapters
from headprobe.models.aliases import ALIASES, NANO
from headprobe.models.bundled import bundled
from headprobe.models.gguf import refuse_parts
from headprobe.models.options import GGUF_SUFFIX
from headprobe.models.reading import first_line

_TEXT_FILES = ["*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja"]
# Repositories also hold the weights in other layouts: original/, onnx/, consolidated.safetensors.
_DUPLICATES = ["*/*", "consolidated*"]
_ANSWER_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The ``directory`` that holds a model, and the ``id`` that names it in headprobe's files.

    ``gguf`` is the file's name in the directory if the model is a GGUF file, else ``None``.
    """

    directory: Path
    id: str
    gguf: str | None = None

    @property
    def arguments(self) -> dict[str, str]:
        """Further arguments of ``from_pretrained`` besides the directory."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}


def find_files(
    name: str, *, revision: str | None = None, python: bool = False, weights: bool = True
) -> ModelFiles:
    """Find a model's files.

    Args:
        name: an alias, a directory, a GGUF file or a hub id; a hub id (or an alias of one) is
            downloaded unless it is in the hub's cache.
        revision: a branch, tag or commit of the hub.
        python: also fetch the Python files that the model brings.
        weights: also fetch the weights.

    Raises:
        UsageError: there is no such directory, or no model in it.
        HeadprobeError: the hub does not provide the model.
    """
    path = Path(name).expanduser()
    is_local = name not in ALIASES and (os.path.exists(path) or name.startswith((".", "/", "~")))
    if revision is not None and (is_local or name == NANO):
        message = f"{name} lies on this machine and has none: leave it out"
        raise UsageError(message, option="revision", value=revision)
    if is_local:
        return _local(path, name)
    if name in ALIASES:
        _name_twin(path, name)
    if name == NANO:
        return ModelFiles(directory=bundled("models", NANO), id=NANO)
    if name.endswith(GGUF_SUFFIX):
        return _download_gguf(name, revision)
    repository = ALIASES[name].repository if name in ALIASES else name
    directory = _download(repository, revision=revision, python=python, weights=weights)
    return ModelFiles(directory=directory, id=repository)


def _local(path: Path, name: str) -> ModelFiles:
    """Find a model in a directory of this machine, or in a GGUF file."""
    if path.is_file() and path.suffix == GGUF_SUFFIX:
        refuse_parts(path)
        return ModelFiles(directory=path.parent, id=name, gguf=path.name)
    if not path.is_dir():
        raise UsageError("no such directory", option="model", value=name)
    files = _gguf_files(path)
    if files and not any(path.glob("*.safetensors")) and not any(path.glob("pytorch_model*.bin")):
        refuse_parts(files[0])
        if len(files) > 1:
            raise UsageError(
                f"{len(files)} GGUF files are there; name the one you mean, such as "
                f"{path / files[0].name}",
                option="model",
                value=name,
            )
        return ModelFiles(directory=path, id=name, gguf=files[0].name)
    if (path / "config.json").is_file():
        return ModelFiles(directory=path, id=name)
    if (path / adapters.CONFIG).is_file():
        base = adapters.base_model(path)
        raise UsageError(
            f"an adapter of {base} lies there, no model; give `model={base}` and "
            f"`adapter={name}`, or merge it with peft's merge_and_unload and give the result",
            option="model",
            value=name,
        )
    message = "no config.json there, so no model in this directory"
    raise UsageError(message, option="model", value=name)


def _gguf_files(path: Path) -> list[Path]:
    """List a directory's GGUF files of language models; mmproj files are of vision towers."""
    return [
        file for file in sorted(path.glob(f"*{GGUF_SUFFIX}")) if not file.name.startswith("mmproj")
    ]


def _name_twin(path: Path, name: str) -> None:
    """Warn that ``name`` is taken as an alias although a model lies in a directory of that name."""
    if (path / "config.json").is_file() or any(path.glob(f"*{GGUF_SUFFIX}")):
        meant = "the bundled model" if name == NANO else ALIASES[name].repository
        warnings.warn(
            f"`model={name}` is the alias of {meant}, not the directory of that name here; for "
            f"that give `model=./{name}`",
            HeadprobeWarning,
            stacklevel=2,
        )


def _download_gguf(name: str, revision: str | None) -> ModelFiles:
    """Fetch one GGUF file of a repository, ``owner/name:file.gguf``."""
    repository, _, file = name.rpartition(":")
    refuse_parts(Path(file))
    with nullcontext() if sys.stderr.isatty() else quiet(), _fetching(repository):
        directory = _snapshot(repository, [file], revision, ignored=[])
    path = directory / file
    if not path.is_file():
        raise HeadprobeError(
            f"{repository} has no file {file}, or it is not in the local cache and there is no "
            "network"
        )
    return ModelFiles(directory=path.parent, id=name, gguf=path.name)


def _download(repository: str, *, revision: str | None, python: bool, weights: bool) -> Path:
    """Download the files of a repository that are missing in the hub's cache.

    A whole snapshot is requested because its one request fails at once without a network, while
    ``from_pretrained`` tries for half a minute, file by file. Cached files are used then.
    """
    files = [*_TEXT_FILES, *(["*.py"] if python else []), *(["*.safetensors"] if weights else [])]
    with nullcontext() if sys.stderr.isatty() else quiet(), _fetching(repository):
        path = _snapshot(repository, files, revision)
        if weights and not any(path.glob("*.safetensors")):
            path = _snapshot(repository, [*files, "pytorch_model*.bin"], revision)
    if (path / adapters.CONFIG).is_file() and not (path / "config.json").is_file():
        base = adapters.base_model(path)
        raise HeadprobeError(
            f"{repository} is an adapter of {base}, no model: download it with "
            f"`hf download {repository}`, and give `model={base}` and `adapter=DIR`"
        )
    if not (path / "config.json").is_file():
        raise HeadprobeError(
            f"{repository} has no config.json: it is no transformers model; "
            f"a GGUF file there is given as `model={repository}:FILE{GGUF_SUFFIX}`"
        )
    return path


def _snapshot(
    repository: str,
    files: list[str],
    revision: str | None,
    ignored: list[str] | None = None,
) -> Path:
    return Path(
        snapshot_download(
            repository,
            revision=revision,
            allow_patterns=files,
            ignore_patterns=_DUPLICATES if ignored is None else ignored,
            etag_timeout=_ANSWER_SECONDS,
        )
    )


@contextmanager
def _fetching(repository: str) -> Iterator[None]:
    """Turn errors of the hub into errors that say what to do next."""
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
    except RevisionNotFoundError:
        raise HeadprobeError(
            f"{repository} has no such `revision`: give a branch, tag or commit of it"
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
            "no directory of that name, not in the local cache, and no network to look for it; "
            f"run `hf download {repository}` where there is one, or give a local directory",
            option="model",
            value=repository,
        ) from None
    except (HfHubHTTPError, OSError) as error:
        # A file that cannot be read or written lies in the cache or beside it.
        advice = "; set HF_HOME to a directory that can be written" if error.filename else ""
        raise HeadprobeError(
            f"cannot download {repository}: {first_line(error)}{advice}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and progress bars of transformers inside the block."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
