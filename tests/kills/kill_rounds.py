"""Kills segbench while it writes, and resumes it: `make kills`, or `python tests/kills/kill_rounds.py --help`.

A process kills itself (SIGKILL) just before the n-th time that it opens a file for writing, renames, removes or
makes one, with n drawn by a seed; sweeps are killed from outside, once a file is there. The same command is
given again until it ends. Then nothing that was finished may be lost, results must equal those of a process
that was left alone, and nothing else may have been left behind.
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


class Work(NamedTuple):
    """What is killed and resumed.

    Attributes:
        command: Arguments of segbench; `{}` is replaced by a name of its own.
        result: Reads the result of a finished work by its name, for comparison.
        finished: Whether a work of that name needs no further command.
        begin: Called before each new work.
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


def prepare(place: Path) -> None:
    """Writes what all works need into a new folder."""
    (place / "tiny.yaml").write_text(_overlay())
    (place / "frozen.yaml").write_text(_overlay(encoder={"frozen": True}, cache_features=2))
    parameters = {"model.init_args.optimizer.init_args.lr": {"values": [0.1, 0.01]}}
    command = ["segbench", "fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", "tiny.yaml"]
    sweep = {
        "command": [*command, "--trainer.max_steps", "30", "--config", "${args_json_file}"],
        "method": "grid",
        "metric": {"name": "val/miou", "goal": "maximize"},
        "parameters": parameters,
    }
    (place / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    write_checkpoint(place / "linear.ckpt", "linear")
    from segbench.commands.synth.command import synth

    synth("segbench.data.ade20k.ADE20K", place / "twin", images=5, size=(48, 56))
    (place / "tmp").mkdir()


def run_result(place: Path, name: str) -> Any:
    """Reads what two runs have in common if they are one and the same."""
    import torch

    (run,) = place.glob(f"runs/*/{name}")
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


def cache_result(place: Path, name: str) -> Any:
    """Adds to the run the files of the feature cache."""
    parts = sorted(place.glob("cache/features-*/view-*/*"))
    return run_result(place, name), [(path.name, path.read_bytes()) for path in parts]


def folder_result(place: Path, name: str) -> Any:
    """Reads all files of a folder, or the file of that name; lines of the record in any order."""
    paths = [place / name] if (place / name).is_file() else sorted((place / name).rglob("*"))
    paths = [path for path in paths if path.is_file()]
    content = {path.name.replace(name, ""): path.read_bytes().replace(name.encode(), b"") for path in paths}
    return {key: sorted(text.splitlines()) if key.endswith("l") else text for key, text in content.items()}


def _forget_features(place: Path) -> None:
    for store in place.glob("cache/features-*"):
        shutil.rmtree(store)


def _fit(config: str, **more: Any) -> Work:
    command = ["fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", config, "--run_id", "{}"]
    return Work(command, more.pop("result", run_result), **more)


def _export(kind: str, suffix: str = "") -> Work:
    command = ["export", "--checkpoint", "linear.ckpt", "--format", kind, "--out", f"{{}}{suffix}"]

    def result(place: Path, name: str) -> Any:
        return folder_result(place, name + suffix)

    return Work(command, result, lambda place, name: (place / (name + suffix)).exists())


WORKS = {
    "fit": _fit("tiny.yaml"),
    "feature cache": _fit(
        "frozen.yaml",
        result=cache_result,
        begin=_forget_features,
        patches={"segbench.callbacks.feature_cache.store.PART_BYTES": 30000},
    ),
    "segment": Work(
        ["segment", "--checkpoint", "linear.ckpt", "twin", "--out", "{}", "--batch_size", "1"], folder_result
    ),
    "export huggingface": _export("huggingface"),
    "export safetensors": _export("safetensors", ".safetensors"),
}


def _process(args: list[str], place: Path, kill_at: int, patches: dict[str, Any], path: list[str]) -> None:
    """Runs segbench, and kills itself before the write of that number; 0 only counts."""
    os.chdir(place)
    os.environ.update(SEGBENCH_CACHE=str(place / "cache"), TMPDIR=str(place / "tmp"), OMP_NUM_THREADS="1")
    tempfile.tempdir = None
    sys.path[:] = path
    for stream in (1, 2):
        os.dup2(os.open(place.with_name(f"{place.name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    for name, value in patches.items():
        module, _, attribute = name.rpartition(".")
        setattr(import_module(module), attribute, value)
    from segbench.__main__ import main

    writes = 0

    def note(event: str, given: tuple[Any, ...]) -> None:
        nonlocal writes
        if event not in _CHANGES and not (event == "open" and given[2] & _WRITING):
            return
        if not isinstance(given[0], int) and (place / os.fsdecode(given[0])).is_relative_to(place):
            writes += 1
            if writes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(note)
    try:
        main(args)
    finally:
        place.with_name(f"{place.name}.writes").write_text(str(writes))


def start(place: Path, work: Work, name: str, kill_at: int = 0) -> Any:
    """Starts a process of a work."""
    args = [word.format(name) if "{}" in word else word for word in work.command]
    process = _CONTEXT.Process(target=_process, args=(args, place, kill_at, work.patches, sys.path))
    process.start()
    return process


def end(place: Path, process: Any) -> bool:
    """Waits for a process, and tells whether it was killed."""
    process.join(_PATIENCE_S)
    if process.exitcode not in (0, -signal.SIGKILL):
        process.kill()
        raise AssertionError(
            f"status {process.exitcode}: {place.with_name(f'{place.name}.log').read_text()[-3000:]}"
        )
    return bool(process.exitcode)


def leftovers(place: Path) -> list[str]:
    """Lists drafts, locks and temporary files, but for empty folders that wandb makes when timm imports it."""
    left = [*place.rglob(".segbench*"), *(place / "tmp").iterdir()]
    return sorted(str(path.relative_to(place)) for path in left if not _WANDB.search(path.name))


def rounds(place: Path, work: Work, kills: int, seed: int) -> Iterator[str]:
    """Kills a work again and again, a new one once it is finished.

    Args:
        place: From `prepare`.
        work: What is killed.
        kills: How often.
        seed: Of the moments.

    Yields:
        What was found wrong, in a line.
    """
    drawn = random.Random(seed)
    end(place, start(place, work, "warm"))  # draws scenes and compiles kernels
    work.begin(place)
    end(place, start(place, work, "whole"))
    writes = int(place.with_name(f"{place.name}.writes").read_text())
    whole = work.result(place, "whole")
    done = number = 0
    while done < kills:
        number += 1
        name, moments = f"work{number:02}", []
        work.begin(place)
        while True:
            moment = drawn.randint(1, max(1, writes if not moments else writes // 2)) if done < kills else 0
            if not end(place, start(place, work, name, moment)):
                break
            done += 1
            moments.append(moment)
            if work.finished(place, name):
                break
        if moments and work.result(place, name) != whole:
            yield f"{name}, killed at writes {moments} of {writes}, differs from one that was left alone"
    end(place, start(place, work, "after"))  # the next command
    for path in leftovers(place):
        yield f"{path} is left behind"


def sweep_rounds(place: Path, kills: int) -> Iterator[str]:
    """Kills a sweep of two trials whenever another file is there, and resumes it; see `rounds`."""
    patches = {"segbench.commands.sweep.study.GRACE_S": 1.0}
    work = Work(["sweep", "sweep.yaml", "--study", "{}", "--dry_run", "false"], run_result, patches=patches)
    end(place, start(place, work, "whole"))
    moments = ["study.db", "trial-0001/checkpoints/best.ckpt", "trial-0002/metrics.csv", "trial-0002/run.json"]
    for moment in moments[:kills]:
        process = start(place, work, "killed")
        deadline = time.monotonic() + _PATIENCE_S
        while process.is_alive() and not (place / "runs" / "killed" / moment).exists():
            if time.monotonic() > deadline:
                raise AssertionError(f"{moment} never came")
            time.sleep(0.01)
        process.kill()
        process.join()
    end(place, start(place, work, "killed"))
    for trial in ("trial-0001", "trial-0002"):
        one, other = (_trial(place, study, trial) for study in ("whole", "killed"))
        if one != other:
            yield f"{trial} differs from that of a sweep that was left alone"
    for path in leftovers(place):
        yield f"{path} is left behind"


def _trial(place: Path, study: str, trial: str) -> Any:
    own = place / "compared"
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(place / "runs" / study / trial, own / "runs" / "x" / trial)
    (own / "runs" / "x" / trial / "trial.log").unlink()
    return run_result(own, trial)


def main() -> None:
    """Kills from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join([*WORKS, 'sweep'])}")
    parser.add_argument("--kills", type=int, default=20, help="of each; a sweep is killed four times at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    fork_server.start()
    faults = 0
    for name in args.names or [*WORKS, "sweep"]:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "place"
            place.mkdir()
            prepare(place)
            found = (
                sweep_rounds(place, args.kills)
                if name == "sweep"
                else rounds(place, WORKS[name], args.kills, args.seed)
            )
            for fault in found:
                print(f"{name}: {fault}", flush=True)
                faults += 1
        print(f"{name}: done", flush=True)
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    # So that processes find what is sent to them under the same name.
    import kill_rounds

    kill_rounds.main()
