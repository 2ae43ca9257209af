"""Runs that are stopped and resumed: by name, by folder, and only as they were."""

import csv
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from command_line import refuse

from segbench.__main__ import main
from segbench.callbacks.checkpoint_io import AtomicCheckpointIO
from segbench.checkpoints.writing import save_file
from segbench.utils.lock import FolderLock

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = """
data:
  class_path: segbench.data.synthetic.SyntheticDataModule
  init_args: {num_classes: 4, image_size: [64, 64], num_images: {train: 10, val: 5, test: 1},
              img_size: [32, 32], scale: null, batch_size: 2, eval_batch_size: 1, num_workers: 0}
model:
  init_args:
    encoder:
      init_args: {model_name: vit_tiny_patch16_384, pretrained: false, depths: [0], drop_path_rate: 0.1}
    window: null
    stride: null
    resize: null
trainer: {accelerator: cpu, devices: 1, accumulate_grad_batches: 1, max_steps: 8, val_check_interval: 3,
          log_every_n_steps: 1, enable_progress_bar: false, enable_model_summary: false}
panels: {num_images: 0}
"""


@pytest.fixture
def args(tmp_path, monkeypatch):
    """What to train, in a fresh working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return ["fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", "tiny.yaml"]


def sending(step, **options):
    callback = {"class_path": "sender.Send", "init_args": {"step": step, **options}}
    return ["--trainer.callbacks", json.dumps([callback])]


SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def stop(args, status=os.EX_TEMPFAIL):
    handlers = list(map(signal.getsignal, SIGNALS))
    with pytest.raises(SystemExit) as left:
        main(args)
    assert left.value.code == status
    assert list(map(signal.getsignal, SIGNALS)) == handlers
    assert multiprocessing.active_children() == []


def runs():
    return sorted(Path("runs").glob("*/*"))


def outcome(run):
    """What two runs must share to count as one and the same: weights bit by bit, and what was logged."""
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    with (run / "metrics.csv").open(newline="") as file:
        rows = [(row["step"], row["train/loss"], row["val/miou"]) for row in csv.DictReader(file)]
    weights = {name: value.tolist() for name, value in state["state_dict"].items()}
    return state["global_step"], weights, rows, json.loads((run / "run.json").read_text())["history"]


MOMENTS = {
    "in training": (sending(4), signal.SIGTERM),
    "before a validation": (sending(3), signal.SIGTERM),
    "in a validation": (sending(3, where="validation", number=10), signal.SIGUSR1),
    "in a validation at the end of an epoch": (
        [*sending(5, where="validation"), "--trainer.val_check_interval", "5"],
        signal.SIGTERM,
    ),
    "while gradients accumulate": ([*sending(2), "--trainer.accumulate_grad_batches", "2"], signal.SIGTERM),
    "in a validation while gradients accumulate": (
        [*sending(1, where="validation"), "--trainer.accumulate_grad_batches", "2"],  # three batches are seen
        signal.SIGTERM,
    ),
    "by Ctrl-C": (sending(4, number=2), signal.SIGINT),
}
QUICK = (
    "in a validation",
    "while gradients accumulate",
    "in a validation while gradients accumulate",
    "by Ctrl-C",
)


@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MOMENTS]
)
def test_the_same_command_resumes_after_a_signal_with_equal_results(args, capsys, moment):
    options, number = MOMENTS[moment]
    command = [*args, "--run_id", "mine", "--checkpoints.every_n_steps", "0", *options]
    Path("sent").touch()  # nothing is sent
    main([*args, "--run_id", "whole", "--checkpoints.every_n_steps", "0", *options])
    Path("sent").unlink()
    stop(command, 130 if number == signal.SIGINT else os.EX_TEMPFAIL)
    (run,) = {path for path in runs() if path.name == "mine"}
    error = capsys.readouterr().err
    assert f"stopped by {number.name} at step" in error
    assert f"`segbench fit --resume {run}` resumes" in error
    main(command)
    assert [path.name for path in runs()] == ["mine", "whole"]
    assert outcome(run) == outcome(run.with_name("whole"))
    before = outcome(run)
    main(command)  # a finished run has nothing left to do
    assert outcome(run) == before


def test_resume_needs_the_folder_alone_and_refuses_other_settings(args, capsys):
    Path("sent").touch()
    main([*args, *sending(5)])
    Path("sent").unlink()
    stop([*args, *sending(5)])
    whole, run = sorted(runs(), key=lambda path: (path / "run.json").stat().st_mtime)
    line = refuse(
        capsys,
        *[
            *("fit", "--resume", str(run), "--model.init_args.optimizer.init_args.lr", "0.5"),
            *("--trainer.max_steps", "9"),
        ],
    )
    assert "model.init_args.optimizer.init_args.lr: 0.5 here, 0.001 there" in line
    assert "trainer.max_steps: 9 here, 8 there" in line
    assert str(run) in line
    assert len(line) < 600
    moved = Path("elsewhere") / "moved"  # the folder may be anywhere, and be read by more processes
    moved.parent.mkdir()
    run.rename(moved)
    main(["fit", "--resume", str(moved), "--data.init_args.num_workers", "1"])
    assert outcome(moved) == outcome(whole)
    assert runs() == [whole]
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 8", "max_steps: 12"))
    resume = ["fit", "--resume", str(moved), "--trust", "sender"]  # the file is no longer what the run wrote
    assert "trainer.max_steps: 12 here, 8 there" in refuse(capsys, *resume)


def test_a_run_of_an_earlier_version_resumes_where_new_options_have_their_defaults(args, capsys):
    stop([*args, *sending(2)])
    (run,) = runs()
    last = run / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    config = yaml.safe_load(state["segbench"]["config"])
    del config["data"]["init_args"]["augment"], config["model"]["init_args"]["losses"][0]["init_args"]["weight"]
    torch.save(state | {"segbench": state["segbench"] | {"config": yaml.safe_dump(config)}}, last)
    command = ["fit", "--resume", str(run), "--trust", "sender"]
    assert "data.init_args.augment: False here" in refuse(capsys, *command, "--data.init_args.augment", "false")
    main(command)
    assert "augment" not in capsys.readouterr().err
    assert outcome(run)[0] == 8


def test_a_run_of_an_earlier_version_is_resumed_with_the_defaults_of_options_that_it_did_not_have(args, capsys):
    main([*args, "--trainer.max_steps", "2"])
    (run,) = runs()
    last, config = run / "checkpoints" / "last.ckpt", run / "config.yaml"
    text, number = re.subn(r"(?m)^ +(scale|eval_batch_size):.*\n", "", config.read_text())
    assert number == 2
    config.write_text(text)
    checkpoint = torch.load(last)
    checkpoint["segbench"]["config"] = text
    torch.save(checkpoint, last)
    other = ["--data.init_args.scale", "[64, 32]"]
    assert "data.init_args.scale: [64, 32] here, None there" in refuse(
        capsys, "fit", "--resume", str(run), *other
    )
    main(["fit", "--resume", str(run)])
    assert runs() == [run]


def test_resume_accepts_changed_options_that_affect_neither_weights_nor_scores(args):
    main([*args, "--trainer.max_steps", "2"])
    (run,) = runs()
    harmless = {
        "--panels.num_images": "1",
        "--trainer.log_every_n_steps": "1",
        "--checkpoints.every_n_steps": "1",
        "--model.init_args.windows_per_batch": "2",
        "--data.init_args.eval_batch_size": "2",
        "--trainer.num_sanity_val_steps": "0",
    }
    main(["fit", "--resume", str(run), *(word for pair in harmless.items() for word in pair)])
    assert runs() == [run]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--model.init_args.stride", "7"), ("--trainer.limit_val_batches", "1"), ("--seed_everything", "5")],
)
def test_resume_refuses_changed_options_that_affect_scores_or_random_numbers(args, capsys, option, value):
    main([*args, "--trainer.max_steps", "2"])
    (run,) = runs()
    assert f"{option[2:]}: {value} here" in refuse(capsys, "fit", "--resume", str(run), option, value)


def test_a_run_that_was_continued_with_other_settings_is_resumed_with_those(args):
    main([*args, "--trainer.max_steps", "2"])
    (run,) = runs()
    last = str(run / "checkpoints" / "last.ckpt")
    main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", last, "--trainer.max_steps", "4"])
    main(["fit", "--resume", str(run)])
    assert sorted(path.name for path in run.glob("config*")) == ["config.1.yaml", "config.yaml"]
    assert torch.load(last)["global_step"] == 4
    assert runs() == [run]


def test_a_name_keeps_to_its_run(args, capsys):
    main([*args, "--run_id", "../mine", "--trainer.max_steps", "2"])
    (run,) = runs()
    assert run.name == "_mine"
    assert yaml.safe_load((run / "config.yaml").read_text())["run_id"] is None  # which repeats, not resumes
    again = [*args, "--run_id", "../mine", "--trainer.max_steps", "2"]
    assert "data.init_args.batch_size: 1 here, 2 there" in refuse(
        capsys, *again, "--data.init_args.batch_size", "1"
    )
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    line = refuse(
        capsys, "test", "--checkpoint", checkpoint, "--experiment", run.parent.name, "--run_id", "_mine"
    )
    assert "only training resumes in its folder" in line
    (run / "checkpoints" / "last.ckpt").unlink()  # killed before anything was saved: starts over
    main([*again[:-1], "3"])
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 3
    assert torch.load(checkpoint)["global_step"] == 3


def test_weights_of_another_run_begin_a_run_of_its_own(args, capsys):
    main([*args, "--run_id", "first", "--trainer.max_steps", "2"])
    (first,) = runs()
    last = first / "checkpoints" / "last.ckpt"
    # At a rate of 0 the weights stay what they began as; the floor of the schedule has to give way to it.
    still = ["--trainer.max_steps", "1", "--model.init_args.optimizer.init_args.lr", "0.0"]
    still += ["--model.init_args.schedule.init_args.min_lr", "0.0"]
    main([*args, "--run_id", "second", *still, f"--init-from={last}"])
    begun = torch.load(first.with_name("second") / "checkpoints" / "last.ckpt")
    assert begun["global_step"] == 1
    weights = torch.load(last)["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in begun["state_dict"].items())
    for wrong, told in {
        ("fit", "--resume", str(first), "--init-from", str(last)): "leave the others out",
        ("test", "--resume", str(first)): "belong to `segbench fit`",
        ("fit", "--resume", "runs"): "runs is not a run folder",
        ("fit", "--checkpoint", str(last)): "resumes a run by --resume RUN",
    }.items():
        assert told in refuse(capsys, *wrong)
    last.unlink()
    assert "it has not saved anything yet" in refuse(capsys, "fit", "--resume", str(first))


def test_half_a_checkpoint_never_takes_the_place_of_a_whole_one(args, monkeypatch):
    def save_half(content, path):
        save_file(content, path)
        path.write_bytes(path.read_bytes()[:1000])
        raise KeyboardInterrupt

    def kill(moment):
        saves = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "segbench.callbacks.checkpoint_io.save_file",
                lambda *what: saves.append(what) or (save_half if len(saves) == moment else save_file)(*what),
            )
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                main([*args, "--run_id", "mine", "--checkpoints.every_n_steps", "1"])

    main([*args, "--run_id", "whole", "--checkpoints.every_n_steps", "1"])
    kill(moment=4)  # before the first validation
    (run,) = {path for path in runs() if path.name == "mine"}
    saved = torch.load(run / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < saved <= 3
    left = run / "checkpoints" / f".segbench-{0:032}.ckpt"
    left.write_bytes(b"of a kill that leaves no time to clear up")
    main([*args, "--run_id", "mine", "--checkpoints.every_n_steps", "1"])
    assert outcome(run) == outcome(run.with_name("whole"))
    assert sorted(path.name for path in left.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_run_folder_has_one_writer_and_the_second_is_told_who_it_is(args, capsys, monkeypatch):
    command = [*args, "--run_id", "mine", "--trainer.max_steps", "2"]
    main(command)
    (run,) = runs()
    last = run / "checkpoints" / "last.ckpt"
    with FolderLock(run, ""):
        files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        for second in (
            command,
            ["fit", "--resume", str(run)],
            ["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(last)],
            ["validate", "--checkpoint", str(last), "--experiment", run.parent.name, "--run_id", "mine"],
        ):
            line = refuse(capsys, *second)
            assert f"{run} is being written to by `segbench" in line
            assert f"(process {os.getpid()} of " in line
            assert "choose another name by --run_id NAME" in line
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
        monkeypatch.setenv("LOCAL_RANK", "1")  # another process of the run that has the lock
        assert "exists already" in refuse(capsys, *second)
        monkeypatch.delenv("LOCAL_RANK")
        main([*args, "--run_id", "other", "--trainer.max_steps", "1"])
    left = ["checkpoints", "config.yaml", "ledger.npz", "metrics.csv", "run.json"]
    assert sorted(path.name for path in run.iterdir()) == left


def test_a_job_that_was_queued_again_waits_and_sees_what_the_first_one_saved(args, capsys, monkeypatch):
    command = [*args, "--run_id", "mine", *sending(4)]
    Path("sent").touch()  # nothing is sent
    main([*args, "--run_id", "whole", *sending(4)])
    Path("sent").unlink()
    stop(command)  # whose checkpoint is here written late
    run = next(path for path in runs() if path.name == "mine")
    monkeypatch.setenv("SEGBENCH_LOCK_TIMEOUT", "100")
    for again in (command, ["fit", "--resume", str(run)]):
        saved = (run / "checkpoints").rename("checkpoints")
        old = FolderLock(run, "")
        old.acquire()

        def end(_, saved=saved, old=old):
            saved.rename(run / "checkpoints")
            old.release()

        monkeypatch.setattr("segbench.utils.lock.time.sleep", end)
        main(again)
        assert "segbench: waiting for `segbench" in capsys.readouterr().err
    assert outcome(run) == outcome(run.with_name("whole"))


def test_a_name_for_which_nothing_was_written_leaves_no_folder(args, capsys):
    refuse(capsys, *args, "--run_id", "mine", "--data.init_args.batch_size", "-1")
    refuse(capsys, *args, "--model.init_args.decoder", "nothing.Decoder")
    assert not Path("runs").exists()


def test_a_kill_right_after_a_checkpoint_loses_no_row(args, monkeypatch):
    class KilledError(BaseException):
        """Stands for a kill that leaves no time for anything."""

    class KillAfter(AtomicCheckpointIO):
        left = 2

        def save_checkpoint(self, *what, **options):
            super().save_checkpoint(*what, **options)
            KillAfter.left -= 1
            if not KillAfter.left:
                raise KilledError

    options = ["--checkpoints.every_n_steps", "1"]
    main([*args, "--run_id", "whole", *options])
    monkeypatch.setattr("segbench.callbacks.checkpoints.AtomicCheckpointIO", KillAfter)
    with pytest.raises(KilledError):
        main([*args, "--run_id", "mine", *options])
    run = next(path for path in runs() if path.name == "mine")
    assert torch.load(run / "checkpoints" / "last.ckpt")["global_step"] == 2
    with (run / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["train/loss"]] == ["0", "1"]
    main([*args, "--run_id", "mine", *options])
    assert outcome(run) == outcome(run.with_name("whole"))


def test_a_damaged_checkpoint_is_told_with_what_is_left(args, capsys):
    main([*args, "--run_id", "mine", "--trainer.max_steps", "3"])
    (run,) = runs()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"half")
    line = refuse(capsys, "fit", "--resume", str(run))
    assert f"--config {run / 'config.yaml'} --ckpt_path {run / 'checkpoints' / 'best.ckpt'}" in line


def test_wandb_resumes_the_same_run_wherever_its_folder_is(args, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    known = {"id": "linear-tiny-first", "project": "of-mine"}  # trial-0001 there is in more than one sweep
    for variable in ("WANDB_MODE", "WANDB_API_KEY"):  # neither account nor network
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_PROJECT", "of-mine")
    stop([*args, "--logger", "wandb", "--run_id", "first", *sending(4)])
    monkeypatch.delenv("WANDB_PROJECT")
    (run,) = runs()
    assert json.loads((run / "run.json").read_text())["wandb"] == known
    moved = run.rename("moved")
    main(["fit", "--resume", str(moved)])
    assert json.loads((moved / "run.json").read_text())["wandb"] == known
    parts = list((moved / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert all(
        part.name.endswith("-linear-tiny-first") for part in parts
    )  # one identity: `wandb sync` joins them
    with (moved / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(8))


def failing(kind):
    return ["--trainer.callbacks", json.dumps([{"class_path": "sender.Fail", "init_args": {"kind": kind}}])]


WAYS_OUT = {
    "finished": ([], None),
    "a signal": (sending(3, where="validation"), os.EX_TEMPFAIL),
    "Ctrl-C twice": (failing("KeyboardInterrupt"), 130),
    "a mistake": (failing("ValueError"), 2),
    "a bug": (failing("TypeError"), TypeError),
}


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(name, marks=pytest.mark.slow if name in {"finished", "a mistake"} else ())
        for name in WAYS_OUT
    ],
)
def test_no_loading_process_outlives_a_command(args, way):
    callback, status = WAYS_OUT[way]
    command = [*args, *callback, "--data.init_args.num_workers", "1", "--trainer.max_steps", "3"]
    with pytest.raises((SystemExit, TypeError)) if status else nullcontext() as left:
        main(command)
    assert multiprocessing.active_children() == []  # though what was raised still holds the frames
    if status:
        assert getattr(left.value, "code", type(left.value)) == status


@pytest.mark.parametrize(
    ("verb", "number", "status"),
    [
        ("validate", signal.SIGTERM, 143),
        ("validate", signal.SIGINT, 130),
        ("fit", signal.SIGTERM, os.EX_TEMPFAIL),
    ],
)
def test_what_has_nothing_to_save_ends_at_once(args, capsys, verb, number, status):
    """A validation alone, and the one with which Lightning begins: it would only note SIGTERM."""
    callback = {"class_path": "sender.SendFirst", "init_args": {"number": int(number)}}
    stop(
        [verb, *args[1:], "--data.init_args.num_workers", "1", "--trainer.callbacks", json.dumps([callback])],
        status,
    )
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segbench: ")]
    assert told == ["segbench: stopped" if number == signal.SIGINT else f"segbench: stopped by {number.name}"]


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_more_processes_than_cores_are_refused_before_one_starts(args, capsys, monkeypatch, accelerator):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refuse(capsys, *args, "--trainer.devices", "640", "--trainer.accelerator", accelerator)
    cores = len(os.sched_getaffinity(0))
    assert f"trainer.devices: 640 processes on {cores} CPU cores" in line
    assert runs() == []


@pytest.mark.parametrize(
    ("verb", "told"),
    [("fit", ["lower --data.init_args.num_workers", "fit --resume runs/"]), ("validate", ["num_workers"])],
)
def test_a_killed_loading_process_is_one_line_with_what_helps_and_what_is_saved(args, capsys, verb, told):
    """As the system does where memory runs out: its worker is killed while an image is read."""
    kill = {"class_path": "sender.KillWorker"}
    command = [*args, "--data.init_args.num_workers", "1", "--trainer.callbacks", json.dumps([kill])]
    line = refuse(capsys, verb, *command[1:])
    assert "a loader worker was killed" in line
    for words in told:
        assert words in line
    assert multiprocessing.active_children() == []
    if verb == "fit":
        (run,) = runs()
        main(["fit", "--resume", str(run), "--data.init_args.num_workers", "0"])
        assert json.loads((run / "run.json").read_text())["finished"]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["Ctrl-C", "Ctrl-C twice", "failure of one process"])
def test_no_process_of_a_run_on_two_devices_is_left_behind(args, end):
    """Lightning's own launch; the interrupts reach the whole group, as from a terminal."""
    command = [*args, "--run_id", "mine", "--trainer.max_steps", "100000", "--data.init_args.num_workers", "1"]
    command += ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    if end.startswith("failure"):
        command += ["--trainer.callbacks", json.dumps([{"class_path": "sender.FailAlone"}])]
    if end.endswith("twice"):
        command += ["--trainer.callbacks", json.dumps([{"class_path": "sender.Stall"}])]
    with Path("said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "segbench", *command],
            stdout=said,
            stderr=said,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )
        if end.startswith("Ctrl-C"):
            wait_for(process, "stalled-1" if end.endswith("twice") else "runs/*/mine/checkpoints/best.ckpt")
            os.killpg(process.pid, signal.SIGINT)
            if end.endswith("twice"):
                while "Ctrl-C again stops at once" not in Path("said").read_text():
                    time.sleep(0.05)
                os.killpg(process.pid, signal.SIGINT)
        status = process.wait(240)
    told = Path("said").read_text()
    assert status == (2 if end.startswith("failure") else 130), told
    assert "Traceback" not in told
    assert told.count("segbench: error:") == end.startswith("failure"), told
    deadline = time.monotonic() + 60  # those that were killed need a moment to be gone
    while has_processes(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_processes(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(process, pattern):
    deadline = time.monotonic() + 240
    while not list(Path().glob(pattern)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_loading_processes_end_with_the_interpreter(tmp_path):
    script = """
from segbench.data.synthetic import SyntheticDataModule
data = SyntheticDataModule(num_classes=2, image_size=(64, 64), num_images={"train": 4, "val": 4, "test": 1},
                           img_size=(32, 32), num_workers=2)
batches = [iter(data.train_dataloader()), iter(data.val_dataloader())]
[next(one) for one in batches]
cycle = [batches]
cycle.append(cycle)
raise ZeroDivisionError
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.count("Traceback") == 1, ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_of_a_job_leaves_the_loading_ones_at_work(args, number):
    command = [*args, "--run_id", "mine", "--trainer.max_steps", "100000", "--data.init_args.num_workers", "2"]
    with Path("said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "segbench", *command], stderr=said, start_new_session=True
        )
        wait_for(process, "runs/*/mine/checkpoints/best.ckpt")
        os.killpg(process.pid, number)
        while "stopped by" not in Path("said").read_text():
            assert process.poll() is None
            time.sleep(0.01)
        while process.poll() is None:  # clusters send more than one
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(0.05)
        assert process.wait() == os.EX_TEMPFAIL
    assert f"stopped by {number.name}" in Path("said").read_text()
    with pytest.raises(ProcessLookupError):  # none is left behind
        os.killpg(process.pid, 0)
