"""Files that other users could have written are not loaded as code."""

import os
from pathlib import Path

import pytest

from segbench.kernels import native
from segbench.utils.private import why_insecure

compiled = pytest.mark.skipif(not native.available(), reason="no C compiler")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "cache" / "kernels"
    folder.mkdir(parents=True)
    (folder / "x.so").touch(mode=0o600)
    for part in (folder.parent, folder):
        part.chmod(0o700)
    return folder / "x.so"


def test_files_of_the_user_are_secure(file):
    assert why_insecure(file) is None
    assert why_insecure(file.parent) is None


@pytest.mark.parametrize("level", [0, 1, 2])
def test_world_writable_file_or_parent_is_insecure(file, level):
    part = [file, *file.parents][level]
    part.chmod(0o777)
    assert why_insecure(file) == f"{part} is writable by everyone"


def test_world_writable_folder_with_sticky_bit_is_secure(file):
    file.parents[1].chmod(0o1777)
    assert why_insecure(file) is None


@as_root
@pytest.mark.parametrize("level", [0, 1, 2])
def test_file_or_parent_of_another_user_is_insecure(file, level):
    part = [file, *file.parents][level]
    os.chown(part, 12345, 12345)
    assert why_insecure(file) == f"{part} belongs to another user"


@as_root
def test_group_writable_folder_is_insecure(file):
    os.chown(file.parent, 0, 12345)
    file.parent.chmod(0o770)
    assert why_insecure(file) == f"{file.parent} is writable by a group"


def test_symbolic_link_and_its_target_are_checked(file, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "x.so").symlink_to(file)
    assert why_insecure(tmp_path / "open" / "x.so") is not None
    (tmp_path / "link").symlink_to(tmp_path / "open", target_is_directory=True)
    assert why_insecure(tmp_path / "link") is not None


@compiled
def test_a_planted_library_is_not_loaded(tmp_path, monkeypatch, caplog):
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nexec cc "$@" -O0\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    cache = tmp_path / "shared"
    monkeypatch.setenv("SEGBENCH_CACHE", str(cache))
    native.library.__wrapped__()
    (library,) = cache.rglob("*.so")
    native.library.__wrapped__()
    assert not caplog.records
    cache.chmod(0o777)  # from now on any user could have written the library
    library.unlink()
    native.library.__wrapped__()  # compiled elsewhere
    assert not list(cache.rglob("*.so"))
    assert f"{cache} is writable by everyone" in caplog.text
    cache.chmod(0o700)
    (cache / "kernels").chmod(0o700)
    native.library.__wrapped__()
    (library,) = cache.rglob("*.so")
    before = library.stat().st_ino
    library.chmod(0o666)
    native.library.__wrapped__()
    assert next(cache.rglob("*.so")).stat().st_ino != before
    assert Path(library).stat().st_mode & 0o022 == 0
