import errno
import os
from pathlib import Path

import pytest

from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import atomic_write, make_directory, remove_temporaries


def test_the_file_holds_what_was_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "heat.map.png"
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".png"
        assert not target.exists()
        temporary.write_bytes(b"\x89PNG\x00")
    assert target.read_bytes() == b"\x89PNG\x00"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_as_it_was(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    target = tmp_path / "budget.json"
    target.write_text("old")
    with pytest.raises(failure), atomic_write(target) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise failure
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_clear_line_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "budget.json"
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    problem = "No space left on device; free some disk space"
    with pytest.raises(HeadprobeError, match=problem), atomic_write(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_met_by_the_writer_itself_is_the_same(tmp_path: Path) -> None:
    target = tmp_path / "budget.json"
    problem = r"cannot write .*budget\.json: No space left"
    with pytest.raises(HeadprobeError, match=problem), atomic_write(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_an_error_about_another_file_passes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"input\.json"), atomic_write(tmp_path / "a"):
        (tmp_path / "input.json").read_text()
    assert list(tmp_path.iterdir()) == []


def test_missing_permission_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, exist_ok: bool = True) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    problem = "Permission denied; write where you have permission"
    with pytest.raises(HeadprobeError, match=problem), atomic_write(tmp_path / "a"):
        pytest.fail("the block must not run")


def test_a_parent_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(HeadprobeError, match="cannot write"), atomic_write(tmp_path / "runs" / "a"):
        pytest.fail("the block must not run")


def test_directories_and_devices_are_never_replaced(tmp_path: Path) -> None:
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(UsageError, match="give the name of a file"), atomic_write(path):
            pytest.fail("the block must not run")


def test_a_symbolic_link_keeps_pointing_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    link = tmp_path / "latest.json"
    link.symlink_to("real.json")
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


def test_a_file_gets_the_permissions_that_open_would_give(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("new")
    (tmp_path / "b").write_text("new")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_directory_is_made_or_one_line_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_directory(tmp_path / "a" / "b")
    make_directory(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(UsageError, match="is no directory"):
            make_directory(path)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(HeadprobeError, match="c: Read-only file system; write to a file system"):
        make_directory(tmp_path / "c")


def test_an_old_files_permissions_are_kept(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("old")
    (tmp_path / "secret").chmod(0o600)
    with atomic_write(tmp_path / "secret") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secret").read_text() == "new"


def test_names_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not in UTF-8"), atomic_write(tmp_path / "b\udcff.csv"):
        pytest.fail("the block must not run")
    with pytest.raises(UsageError, match="not in UTF-8"):
        make_directory(tmp_path / "b\udcff")
    with pytest.raises(HeadprobeError, match="too long"), atomic_write(tmp_path / ("a" * 300)):
        pytest.fail("the block must not run")
    with pytest.raises(HeadprobeError, match="too long"):
        make_directory(tmp_path / ("a" * 300))
    with atomic_write(tmp_path / ("a" * 250 + ".json")) as temporary:
        temporary.write_text("{}")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".heads.0a1b2c3d.csv", ".heads.csv", ".heads.0a1b2c3d.txt", ".my.0a1b2c3d.csv"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path, ["heads.csv", "run.json"])
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".heads.0a1b2c3d.txt", ".heads.csv", ".my.0a1b2c3d.csv"]
