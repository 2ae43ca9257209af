"""Figures say where they come from."""

import shutil
import subprocess

import segbench
from segbench.utils import environment as provenance


def test_commit_is_that_of_the_code_and_says_when_files_differ(tmp_path, monkeypatch):
    def git(*args):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *identity, *args], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    package = tmp_path / "segbench"
    package.mkdir()
    shutil.copy(segbench.__file__, package)
    monkeypatch.setattr(provenance, "__file__", str(package / "utils" / "environment.py"))
    assert provenance.commit() == "unknown"
    git("init", "--quiet")
    assert provenance.commit() == "unknown"  # in a repository, but not of it
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    assert provenance.commit() == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed")
    assert provenance.commit() == git("rev-parse", "HEAD") + "-dirty"


def test_processor_has_a_name():
    assert provenance.processor()
    assert "\n" not in provenance.processor()
