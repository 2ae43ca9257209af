"""Kills segbench while it writes, and resumes it: `make kills`, or `python tests/kills/kill_rounds.py --help`.

A process kills itself (SIGKILL) just before the n-th time that it opens a file for writing, or renames, removes
or creates one, for a random n; sweeps are killed from outside once a certain file exists. The same command is
repeated until it ends. Finished results must then be kept, all results must equal those of an undisturbed
process, and no other files may remain.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parents[1]))

import fork_server
import yaml
from reference.tiny_tasks import write_checkpoint
from tiny import overlay

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "kill_rounds",
        "segbench.training.lightning_cli",
        "segbench.data.synthetic",
        "segbench.tasks.semantic",
        "segbench.commands.sweep.loop",
    ]
)
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_WANDB = re.compile("wandb-(artifacts|media)$")
_PATIENCE_S = 300


class Workload(NamedTuple):
    """A command that is killed and resumed.

    Attributes:
        command: Arguments of segbench; `{}` is replaced by a unique name.
        result: Reads the result of a finished workload by its name, for comparison.
        finished: Whether the workload of a name is complete.
        begin: Called before each new workload.
        patches: Values of module attributes in the process, by dotted name.
    """

    command: list[str]
    result: Callable[[Path, str], Any]
    finished: Callable[[Path, str], bool] = lambda *_: False
    begin: Callable[[Path], None] = lambda _: None
    patches: dict[str, Any] = {}  # noqa: RUF012 (never changed)


def _overlay(**model: Any) -> str:
    encoder = {"model_name": "test_vit", "pretrained": False, "depths": [0], **model.pop("encoder", {})}
    data = {"num_images": {"train": 6, "val": 2, "test": 1}, "eval_batch_size": 1}
    config: dict[str, Any] = yaml.safe_load(
        overlay(data, {"encoder": {"init_args": encoder}, **model}, max_steps=7, val_check_interval=3)
    )
    return yaml.safe_dump({**config, "checkpoints": {"every_n_steps": 1}, "panels": {"num_images": 0}})


def prepare(folder: Path) -> None:
    """Writes the inputs of all workloads into a new folder."""
    (folder / "tiny.yaml").write_text(_overlay())
    (folder / "frozen.yaml").write_text(_overlay(encoder={"frozen": True}, cache_features=2))
    parameters = {"model.init_args.optimizer.init_args.lr": {"values": [0.1, 0.01]}}
    command = ["segbench", "fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", "tiny.yaml"]
    sweep = {
        "command": [*command, "--trainer.max_steps", "30", "--config", "${args_json_file}"],
        "method": "grid",
        "metric": {"name": "val/miou", "goal": "maximize"},
        "parameters": parameters,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    write_checkpoint(folder / "linear.ckpt", "linear")
    from segbench.commands.synth.command import synth

    synth("segbench.data.ade20k.ADE20K", folder / "twin", images=5, size=(48, 56))
    (folder / "tmp").mkdir()


def run_result(folder: Path, name: str) -> Any:
    """Reads everything that must be equal in two equivalent runs."""
    import torch

    (run,) = folder.glob(f"runs/*/{name}")
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    states = [
        torch.load(run / "checkpoints" / f"{which}.ckpt", weights_only=True) for which in ("last", "best")
    ]
    weights = [{key: value.tolist() for key, value in state["state_dict"].items()} for state in states]
    card = json.loads((run / "run.json").read_text())
    known = {key: card[key] for key in ("history", "scores", "finished")}
    files = {path.name: path.read_bytes() if path.suffix == ".npz" else b"" for path in run.iterdir()}
    return states[0]["global_step"], weights, rows, known, files


def cache_result(folder: Path, name: str) -> Any:
    """Returns the result of a run and the files of the feature cache."""
    parts = sorted(folder.glob("cache/features-*/view-*/*"))
    return run_result(folder, name), [(path.name, path.read_bytes()) for path in parts]


def folder_result(folder: Path, name: str) -> Any:
    """Reads the file of that name, or all files of a folder, with the lines of the record in any order."""
    paths = [folder / name] if (folder / name).is_file() else sorted((folder / name).rglob("*"))
    paths = [path for path in paths if path.is_file()]
    content = {path.name.replace(name, ""): path.read_bytes().replace(name.encode(), b"") for path in paths}
    return {key: sorted(text.splitlines()) if key.endswith("l") else text for key, text in content.items()}


def _forget_features(folder: Path) -> None:
    for store in folder.glob("cache/features-*"):
        shutil.rmtree(store)


def _fit(config: str, **more: Any) -> Workload:
    command = ["fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", config, "--run_id", "{}"]
    return Workload(command, more.pop("result", run_result), **more)


def _export(kind: str, suffix: str = "") -> Workload:
    command = ["export", "--checkpoint", "linear.ckpt", "--format", kind, "--out", f"{{}}{suffix}"]

    def result(folder: Path, name: str) -> Any:
        return folder_result(folder, name + suffix)

    return Workload(command, result, lambda folder, name: (folder / (name + suffix)).exists())


WORKLOADS = {
    "fit": _fit("tiny.yaml"),
    "feature cache": _fit(
        "frozen.yaml",
        result=cache_result,
        begin=_forget_features,
        patches={"segbench.callbacks.feature_cache.store.PART_BYTES": 30000},
    ),
    "segment": Workload(
        ["segment", "--checkpoint", "linear.ckpt", "twin", "--out", "{}", "--batch_size", "1"], folder_result
    ),
    "export huggingface": _export("huggingface"),
    "export safetensors": _export("safetensors", ".safetensors"),
}


def _process(args: list[str], folder: Path, kill_at: int, patches: dict[str, Any], path: list[str]) -> None:
    """Runs segbench and kills itself before the write of number `kill_at`; 0 only counts the writes."""
    os.chdir(folder)
    os.environ.update(SEGBENCH_CACHE=str(folder / "cache"), TMPDIR=str(folder / "tmp"), OMP_NUM_THREADS="1")
    tempfile.tempdir = None
    sys.path[:] = path
    for stream in (1, 2):
        os.dup2(os.open(folder.with_name(f"{folder.name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    for name, value in patches.items():
        module, _, attribute = name.rpartition(".")
        setattr(import_module(module), attribute, value)
    from segbench.__main__ import main

    writes = 0

    def note(event: str, given: tuple[Any, ...]) -> None:
        nonlocal writes
        if event not in _CHANGES and not (event == "open" and given[2] & _WRITING):
            return
        if not isinstance(given[0], int) and (folder / os.fsdecode(given[0])).is_relative_to(folder):
            writes += 1
            if writes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(note)
    try:
        main(args)
    finally:
        folder.with_name(f"{folder.name}.writes").write_text(str(writes))


def start(folder: Path, workload: Workload, name: str, kill_at: int = 0) -> Any:
    """Starts a process of a workload."""
    args = [word.format(name) if "{}" in word else word for word in workload.command]
    process = _CONTEXT.Process(target=_process, args=(args, folder, kill_at, workload.patches, sys.path))
    process.start()
    return process


def end(folder: Path, process: Any) -> bool:
    """Waits for a process and returns whether it was killed."""
    process.join(_PATIENCE_S)
    if process.exitcode not in (0, -signal.SIGKILL):
        process.kill()
        raise AssertionError(
            f"status {process.exitcode}: {folder.with_name(f'{folder.name}.log').read_text()[-3000:]}"
        )
    return bool(process.exitcode)


def leftovers(folder: Path) -> list[str]:
    """Lists drafts, locks and temporary files, except empty folders that wandb creates when timm imports it."""
    left = [*folder.rglob(".segbench*"), *(folder / "tmp").iterdir()]
    return sorted(str(path.relative_to(folder)) for path in left if not _WANDB.search(path.name))


def rounds(folder: Path, workload: Workload, kills: int, seed: int) -> Iterator[str]:
    """Kills a workload repeatedly, and starts a new one once it is finished.

    Args:
        folder: Folder of `prepare`.
        workload: The workload.
        kills: Number of kills.
        seed: Seed of the moments of the kills.

    Yields:
        Failures, in one line each.
    """
    generator = random.Random(seed)
    end(folder, start(folder, workload, "warm"))  # generates scenes and compiles kernels
    workload.begin(folder)
    end(folder, start(folder, workload, "whole"))
    writes = int(folder.with_name(f"{folder.name}.writes").read_text())
    whole = workload.result(folder, "whole")
    done = number = 0
    while done < kills:
        number += 1
        name, moments = f"workload{number:02}", []
        workload.begin(folder)
        while True:
            moment = generator.randint(1, max(1, writes if not moments else writes // 2)) if done < kills else 0
            if not end(folder, start(folder, workload, name, moment)):
                break
            done += 1
            moments.append(moment)
            if workload.finished(folder, name):
                break
        if moments and workload.result(folder, name) != whole:
            yield f"{name}, killed at writes {moments} of {writes}, differs from an undisturbed one"
    end(folder, start(folder, workload, "after"))  # the next command
    for path in leftovers(folder):
        yield f"{path} remains"


def sweep_rounds(folder: Path, kills: int) -> Iterator[str]:
    """Kills a sweep of two trials when certain files appear, and resumes it; see `rounds`."""
    patches = {"segbench.commands.sweep.study.GRACE_S": 1.0}
    workload = Workload(
        ["sweep", "sweep.yaml", "--study", "{}", "--dry_run", "false"], run_result, patches=patches
    )
    end(folder, start(folder, workload, "whole"))
    moments = ["study.db", "trial-0001/checkpoints/best.ckpt", "trial-0002/metrics.csv", "trial-0002/run.json"]
    for moment in moments[:kills]:
        process = start(folder, workload, "killed")
        deadline = time.monotonic() + _PATIENCE_S
        while process.is_alive() and not (folder / "runs" / "killed" / moment).exists():
            if time.monotonic() > deadline:
                raise AssertionError(f"{moment} was never written")
            time.sleep(0.01)
        process.kill()
        process.join()
    end(folder, start(folder, workload, "killed"))
    for trial in ("trial-0001", "trial-0002"):
        one, other = (_trial(folder, study, trial) for study in ("whole", "killed"))
        if one != other:
            yield f"{trial} differs from that of an undisturbed sweep"
    for path in leftovers(folder):
        yield f"{path} remains"


def _trial(folder: Path, study: str, trial: str) -> Any:
    own = folder / "compared"
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(folder / "runs" / study / trial, own / "runs" / "x" / trial)
    (own / "runs" / "x" / trial / "trial.log").unlink()
    return run_result(own, trial)


def main() -> None:
    """Runs rounds of kills from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join([*WORKLOADS, 'sweep'])}")
    parser.add_argument("--kills", type=int, default=20, help="of each workload; four at most for a sweep")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    fork_server.start()
    failures = 0
    for name in args.names or [*WORKLOADS, "sweep"]:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "folder"
            folder.mkdir()
            prepare(folder)
            found = (
                sweep_rounds(folder, args.kills)
                if name == "sweep"
                else rounds(folder, WORKLOADS[name], args.kills, args.seed)
            )
            for failure in found:
                print(f"{name}: {failure}", flush=True)
                failures += 1
        print(f"{name}: done", flush=True)
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    # Processes must find this module under the name by which functions are sent to them.
    import kill_rounds

    kill_rounds.main()
