"""Files are there whole or not at all; every refusal is one line."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from eddycast.errors import InputError
from eddycast.files import read_json, write_bytes, write_json
from eddycast.progress import progress_bar


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_content_arrives_and_directories_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "weights"
    content = bytes(range(256)) * 5000
    write_bytes(path, content)
    assert path.read_bytes() == content and names(path.parent) == ["weights"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize(
    "stop, raised",
    [(OSError(errno.ENOSPC, "No space left on device"), InputError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_writing_that_stops_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, call, old, stop, raised
):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def fail(*arguments):
        raise stop

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(raised) as caught:
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert names(tmp_path) == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old
    if raised is InputError:
        message = str(caught.value)
        assert "\n" not in message and str(path) in message and "disk is full" in message


def test_name_appears_only_when_the_bytes_are_on_the_disk(tmp_path, monkeypatch):
    """The order that makes a power cut harmless: write, flush, fsync, then rename, then fsync of the folder."""
    order, fsync, replace = [], os.fsync, os.replace

    def watched_fsync(handle):
        fsync(handle)
        status = os.fstat(handle)
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        order.append(("fsync", size, (tmp_path / "file").exists()))

    def watched_replace(source, target):
        order.append(("replace", os.stat(source).st_size, (tmp_path / "file").exists()))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_bytes(tmp_path / "file", b"12345")
    assert order == [("fsync", 5, False), ("replace", 5, False), ("fsync", None, True)]


def test_place_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "file" / "below", tmp_path / "directory", tmp_path / ("n" * 300)):
        with pytest.raises(InputError, match="Cannot write") as caught:
            write_bytes(path, b"y")
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert names(tmp_path) == ["directory", "file"]


def test_json_there_and_back(tmp_path):
    content = {"a": [1, 2.5, None], "ä": {"b": "ü", "c": 0.1 + 0.2}}
    write_json(tmp_path / "c.json", content)
    assert read_json(tmp_path / "c.json") == content
    with pytest.raises(ValueError):
        write_json(tmp_path / "nan.json", float("nan"))
    assert names(tmp_path) == ["c.json"]


def test_unreadable_json_is_told_in_one_line(tmp_path):
    (tmp_path / "cut.json").write_text('{"a": [1, 2')
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "directory.json").mkdir()
    for name, words in {
        "none.json": "is missing",
        "cut.json": "is not JSON",
        "binary.json": "is not JSON",
        "directory.json": "Cannot read",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            read_json(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_progress_bar_is_silent_where_nobody_watches(capfd):
    with progress_bar("working") as observe:
        for done in range(3):
            observe(done + 1, 3)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err.strip() == ""
