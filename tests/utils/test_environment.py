"""The recorded environment: commit and processor."""

import shutil
import subprocess

import segbench
from segbench.utils import environment


def test_commit_is_that_of_the_package_and_marks_changed_files(tmp_path, monkeypatch):
    def git(*args):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *identity, *args], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    package = tmp_path / "segbench"
    package.mkdir()
    shutil.copy(segbench.__file__, package)
    monkeypatch.setattr(environment, "__file__", str(package / "utils" / "environment.py"))
    assert environment.commit() == "unknown"
    git("init", "--quiet")
    assert environment.commit() == "unknown"  # inside a repository that does not track it
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    assert environment.commit() == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed")
    assert environment.commit() == git("rev-parse", "HEAD") + "-dirty"


def test_processor_has_a_name():
    assert environment.processor()
    assert "\n" not in environment.processor()
