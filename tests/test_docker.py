"""Invariants of the images in docker/: pinned, locked, without root, and only what they need inside."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def instructions():
    """Returns the instructions of the Dockerfile, each as (name, arguments)."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_final_stage_runs_segbench_without_root():
    names = [name for name, _ in instructions()]
    final = instructions()[len(names) - names[::-1].index("FROM") :]
    (user,) = [arguments for name, arguments in final if name == "USER"]
    defaults = dict(arguments.split("=") for name, arguments in final if name == "ARG")
    uid, gid = (int(defaults[part.strip("${}")]) for part in user.split(":"))
    assert uid >= 1000
    assert gid >= 1000
    assert final[-2:] == [("ENTRYPOINT", '["segbench"]'), ("CMD", '["--help"]')]


def test_base_images_have_exact_versions():
    versions = dict(
        arguments.split("=", 1) for name, arguments in instructions() if name == "ARG" and "=" in arguments
    )
    stages = {arguments.split(" AS ")[1] for name, arguments in instructions() if " AS " in arguments}
    for name, arguments in instructions():
        image = arguments.split(" AS ")[0]
        if name == "FROM" and image not in stages and not image.startswith("packages-"):
            tag = image.replace("${PYTHON}", versions["PYTHON"]).partition(":")[2]
            assert re.match(r"\d+\.\d+\.\d+-", tag), image
    assert {f"packages-{accelerator}" for accelerator in ("cpu", "cuda")} <= stages
    assert "latest" not in DOCKERFILE
    assert all(":" in service["image"] and "latest" not in service["image"] for service in SERVICES.values())


def test_packages_come_from_the_lock_file_before_the_source_is_copied():
    steps = [f"{name} {arguments}" for name, arguments in instructions()]
    locked = [i for i, step in enumerate(steps) if "--require-hashes" in step]
    source = next(i for i, step in enumerate(steps) if step.startswith("COPY segbench"))
    lock = next(i for i, step in enumerate(steps) if step.startswith("COPY requirements.lock"))
    assert len(locked) == 2  # of the CPU and of the CUDA image
    assert lock < min(locked)
    assert max(locked) < source
    assert all("--require-hashes" in step or "--no-deps" in step for step in steps if "uv pip install" in step)


def test_no_key_is_given_at_build_time():
    assert not re.search(r"(?i)\b(ARG|ENV)\b[^\n]*(key|token|secret|password)", DOCKERFILE)
    assert not re.search(r"(?i)key|token|secret|password", (ROOT / "docker" / "compose.yaml").read_text())


def test_build_context_holds_only_what_the_dockerfile_copies():
    ignored, *rest = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert ignored == "*"
    allowed = {line[1:] for line in rest if line.startswith("!")}
    copied = set()
    for name, arguments in instructions():
        if name == "COPY" and not arguments.startswith("--from"):
            copied.update(word.removeprefix("./") for word in arguments.split()[:-1])
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_service_mounts_data_for_reading_and_runs_for_writing(service):
    mounts = dict(volume.rsplit(":/", 1) for volume in service["volumes"])
    assert mounts["${SEGBENCH_DATA:-../data}"] == "workspace/data:ro"
    assert mounts["${SEGBENCH_RUNS:-../runs}"] == "workspace/runs"
    assert service["cap_drop"] == ["ALL"]
    assert service["init"]
    assert "user" not in service  # the image's, which is not root
    assert "privileged" not in service


def test_services_differ_in_the_accelerator():
    assert [service["build"]["args"]["ACCELERATOR"] for service in SERVICES.values()] == ["cpu", "cuda"]
    (device,) = SERVICES["cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert "deploy" not in SERVICES["cpu"]


def test_cpu_packages_are_the_locked_ones_without_cuda():
    spec = importlib.util.spec_from_file_location("split_lock", ROOT / "docker" / "split_lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lock = (ROOT / "requirements.lock").read_text()
    others, torch = module.split_lock(lock)
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock, re.MULTILINE))
    assert torch == f"torch=={pins['torch']}+cpu\ntorchvision=={pins['torchvision']}+cpu\n"
    kept = set(re.findall(r"^([\w.-]+)==", others, re.MULTILINE))
    left_out = pins.keys() - kept - {"torch", "torchvision"}
    assert {"lightning", "timm", "torchmetrics"} <= kept
    assert "triton" in left_out
    assert all(name == "triton" or name.startswith(("nvidia-", "cuda-")) for name in left_out)
    assert set(others.splitlines()) <= set(lock.splitlines())


def test_demo_of_the_readme_is_the_one_of_make_demo():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (recipe,) = re.findall(r"^demo:.*\n\t(.+)$", makefile, re.MULTILINE)
    _, *demo = shlex.split(recipe, comments=True)
    section = (ROOT / "README.md").read_text().split("\n## Docker\n")[1].split("\n## ")[0].replace("\\\n", " ")
    (command,) = [line for line in section.splitlines() if " fit " in line and line.startswith("docker")]
    words = shlex.split(command, comments=True)
    assert words[: words.index("fit")] == shlex.split("docker compose --file docker/compose.yaml run --rm cpu")
    assert words[words.index("fit") :] == demo
