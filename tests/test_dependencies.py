"""Declared dependencies, imports and the lock file agree."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"]]
OPTIONAL = [Requirement(line) for extra, lines in EXTRAS.items() if extra != "dev" for line in lines]
# A dependency of torch on the platforms it supports, imported only there.
WITH_TORCH = {"triton"}


def imported() -> dict[str, set[str]]:
    """Returns third-party modules with the files that import them."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "segbench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                if top != "segbench" and top not in sys.stdlib_module_names:
                    found.setdefault(top, set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_import_is_declared():
    distributions = packages_distributions()
    declared = {canonicalize_name(one.name) for one in (*REQUIREMENTS, *OPTIONAL)} | WITH_TORCH
    undeclared = {
        module: sorted(files)
        for module, files in imported().items()
        if not {canonicalize_name(name) for name in distributions.get(module, [module])} & declared
    }
    assert not undeclared


def test_every_declared_package_is_imported_or_listed_here():
    """A dependency that nothing imports serves another one, which its comment names."""
    distributions = packages_distributions()
    used = {canonicalize_name(name) for module in imported() for name in distributions.get(module, [module])}
    unused = {canonicalize_name(one.name) for one in REQUIREMENTS} - used
    assert unused <= {"torchvision"}  # timm imports it


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_releases_that_carried_malware_are_excluded(version):
    """GHSA-w37p-236h-pfx3."""
    (lightning,) = (one for one in REQUIREMENTS if one.name == "lightning")
    assert "2.6.0" in lightning.specifier
    assert version not in lightning.specifier


@pytest.mark.parametrize(
    ("name", "next_release"), [("lightning", "2.7.0"), ("jsonargparse", "5.0.0"), ("torch", "3.0.0")]
)
def test_packages_whose_internals_are_used_have_upper_bounds(name, next_release):
    (requirement,) = (one for one in REQUIREMENTS if one.name == name)
    assert next_release not in requirement.specifier


def test_lock_file_pins_every_dependency_by_version_and_hashes():
    text = (ROOT / "requirements.lock").read_text()
    pins: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=\S)", text.strip()):
        head, *hashes = [line.strip(" \\") for line in entry.splitlines()]
        assert hashes, head
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), head
        name, version = re.fullmatch(r"([\w.-]+)==([\w.+!]+)(?: ; .+)?", head).groups()
        pins.setdefault(canonicalize_name(name), []).append(version)
    for one in (*REQUIREMENTS, *(Requirement(line) for line in EXTRAS["dev"])):
        if one.name != "segbench":
            assert all(version in one.specifier for version in pins[canonicalize_name(one.name)]), one
    assert "://" not in text
