"""Several processes train, score and stop like one: real processes with gloo."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from processes import Processes, free_port

from segbench.__main__ import main
from segbench.runs.ledger_file import load_ledger

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SMALL = {
    "data": {
        "class_path": "segbench.data.synthetic.SyntheticDataModule",
        "init_args": {
            "num_classes": 4,
            "image_size": [48, 64],
            "num_images": {"train": 12, "val": 5, "test": 2},
            "img_size": [48, 48],  # some crops are larger than the scaled image, so that part is unlabelled
            "scale": None,
            "eval_batch_size": 1,
            "num_workers": 0,
        },
    },
    "model": {
        "init_args": {
            "encoder": {"init_args": {"pretrained": False, "depths": [0], "drop_path_rate": 0.0}},
            "window": None,
            "stride": None,
            "resize": None,
        }
    },
    "trainer": {
        "accelerator": "cpu",
        "accumulate_grad_batches": 1,
        "max_steps": 4,
        "val_check_interval": 4,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "panels": {"num_images": 0},
}
ALL_LOSSES = [
    "cross_entropy.CrossEntropy",
    "boundary.BoundaryBCE",
    "clipped_cross_entropy.ClippedCrossEntropy",
    "dice.Dice",
    "iou.SoftIoU",
    "gradient_sparsity.GradientSparsity",
]
SYSTEMS = {
    "every loss, batch norm in the decoder": (
        "attention_unet_vit",
        {
            "decoder": {"init_args": {"norm": "batch"}},
            "losses": [{"class_path": f"segbench.losses.{name}"} for name in ALL_LOSSES],
        },
    ),
    "batch norm with activation in the encoder": (
        "linear",
        {
            "encoder": {
                "class_path": "segbench.encoders.timm_cnn.TimmCNN",
                "init_args": {"model_name": "efficientnet_lite0", "pretrained": False, "drop_path_rate": 0.0},
            }
        },
    ),
}


class Lab:
    """A folder with a small experiment, run by any number of processes."""

    def __init__(self, folder):
        self.folder = folder
        self.write(SMALL)

    def write(self, config):
        (self.folder / "small.yaml").write_text(yaml.safe_dump(config))

    def args(self, processes, name, experiment="linear", *more):
        return [
            *("fit", "--config", str(EXPERIMENTS / f"{experiment}.yaml"), "--config", "small.yaml"),
            *("--trainer.devices", str(processes), "--data.init_args.batch_size", str(6 // processes)),
            *("--run_id", name, "--experiment", "e", *more),
        ]

    def start(self, processes, args):
        for rank in range(processes):
            (self.folder / f"out-{rank}").unlink(missing_ok=True)
        return Processes(processes, args, self.folder)

    def fit(self, processes, name, experiment="linear", *more):
        args = self.args(processes, name, experiment, *more)
        if processes == 1:
            main(args)
        else:
            started = self.start(processes, args)
            assert started.wait() == [0] * processes, started.output()
        return self.folder / "runs" / "e" / name

    def validate(self, processes, checkpoint, *more):
        runs = self.folder / "runs" / "v"
        before = set(runs.glob("*"))
        args = ["validate", "--checkpoint", str(checkpoint), "--experiment", "v", "--panels.num_images", "0"]
        args += ["--trainer.accelerator", "cpu", "--trainer.devices", str(processes), *more]
        if processes == 1:
            main(args)
        else:
            started = self.start(processes, args)
            assert started.wait() == [0] * processes, started.output()
        (run,) = set(runs.glob("*")) - before
        return json.loads((run / "run.json").read_text())["scores"]["val"], load_ledger(
            run / "ledger.npz"
        ).ledger


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Lab(tmp_path)


def state(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_weights(one, other):
    one, other = state(one), state(other)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_same_ledger(one, other):
    assert one.names == other.names
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.rows, other.rows)


def test_two_processes_train_like_one_and_write_one_folder(lab):
    one, two = lab.fit(1, "one"), lab.fit(2, "two")
    assert_same_weights(one, two)
    assert sorted((lab.folder / "runs" / "e").iterdir()) == [one, two]
    names = load_ledger(two / "ledger.npz").ledger.names
    assert len(names) == len(set(names)) == 5
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert json.loads((two / "run.json").read_text())["device"]["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("eval_batch_size", [1, 2])
def test_scores_are_bit_identical_for_any_number_of_processes(lab, eval_batch_size):
    checkpoint = lab.fit(1, "one") / "checkpoints" / "last.ckpt"
    size = ["--data.init_args.eval_batch_size", str(eval_batch_size)]
    for images in (5, 2):  # fewer images than processes
        count = ["--data.init_args.num_images.val", str(images)]
        scores, ledger = lab.validate(1, checkpoint, *size, *count)
        assert len(ledger.names) == images
        for processes in (2, 3):
            again, other = lab.validate(processes, checkpoint, *size, *count)
            assert again == scores
            assert_same_ledger(other, ledger)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_trains_like_one(lab, system, processes):
    experiment, model = SYSTEMS[system]
    config = deepcopy({**SMALL, "model": {"init_args": {**SMALL["model"]["init_args"], **model}}})
    if experiment == "attention_unet_vit":
        config["model"]["init_args"]["encoder"] = SMALL["model"]["init_args"]["encoder"]
    # Double precision and small steps, since the order of summation differs. In float32 batch norms after
    # random weights turn differences of 1e-6 in the loss into 1e-3 in the weights within four steps.
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.001}}
    config["model"]["init_args"]["optimizer"] = sgd
    config["trainer"] = {**SMALL["trainer"], "num_sanity_val_steps": 0, "precision": "64-true"}
    config["data"]["init_args"]["num_images"] = {"train": 12, "val": 2, "test": 2}
    lab.write(config)
    one = lab.fit(1, "one", experiment)
    assert_same_weights(one, lab.fit(processes, "many", experiment))
    moved = [name for name, value in state(one).items() if name.endswith("running_var") and (value != 1).any()]
    assert moved


@pytest.mark.slow
def test_unsynchronised_batch_norms_are_those_of_rank_zero(lab):
    experiment, model = SYSTEMS["every loss, batch norm in the decoder"]
    lab.write({**SMALL, "model": {"init_args": {**SMALL["model"]["init_args"], **model}}})
    run = lab.fit(2, "two", experiment, "--trainer.sync_batchnorm", "false")
    trained = json.loads((run / "run.json").read_text())["scores"]["val"]
    scores, ledger = lab.validate(1, run / "checkpoints" / "last.ckpt")
    assert_same_ledger(load_ledger(run / "ledger.npz").ledger, ledger)
    assert scores["iou"] == trained["iou"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_process_ends_the_others_and_leaves_a_resumable_run(lab, victim):
    options = ["--trainer.max_steps", "60", "--checkpoints.every_n_steps", "3"]
    whole = lab.fit(2, "whole", "linear", *options)
    started = lab.start(2, lab.args(2, "killed", "linear", *options))
    started.wait_for("runs/e/killed/checkpoints/best.ckpt")
    os.kill(started.all[victim].pid, signal.SIGKILL)
    killed = time.monotonic()
    statuses = started.wait(60)
    assert time.monotonic() - killed < 60
    assert statuses[victim] == -signal.SIGKILL
    assert statuses[1 - victim] == 2
    assert "segbench: error: another process of this run has ended" in started.output(1 - victim)
    run = whole.with_name("killed")
    assert torch.load(run / "checkpoints" / "last.ckpt")["global_step"] < 60
    json.loads((run / "run.json").read_text())
    load_ledger(run / "ledger.npz")
    assert yaml.safe_load((run / "config.yaml").read_text())
    lab.fit(2, "killed", "linear", *options)  # the same command resumes
    assert all(torch.equal(value, state(whole)[name]) for name, value in state(run).items())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_signal_to_any_process_saves_a_checkpoint_and_ends_all(lab, rank):
    callback = {"class_path": "sender.Send", "init_args": {"step": 5, "number": 10, "rank": rank}}
    options = ["--trainer.max_steps", "8", "--checkpoints.every_n_steps", "0"]
    options += ["--trainer.callbacks", json.dumps([callback])]
    started = lab.start(2, lab.args(2, "stopped", "linear", *options))
    assert started.wait() == [os.EX_TEMPFAIL, 0]
    assert "stopped by " in started.output()
    step = int(re.search(r"stopped by .+ at step (\d+)", started.output()).group(1))
    run = lab.fit(2, "whole", "linear", *options).with_name("stopped")
    assert torch.load(run / "checkpoints" / "last.ckpt")["global_step"] == step == 5
    lab.fit(2, "stopped", "linear", *options)
    whole = state(run.with_name("whole"))
    assert all(torch.equal(value, whole[name]) for name, value in state(run).items())


@pytest.mark.slow
def test_slurm_tasks_share_a_run_folder(lab):
    """Tasks as `srun` starts them: with variables of SLURM instead of torchrun."""
    port = free_port()
    options = ["--trainer.max_steps", "4"]
    slurm = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    slurm |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "segbench", "SLURM_NODELIST": "127.0.0.1"}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"}
    }
    environment |= slurm | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(EXPERIMENTS.parent),
    }
    args = lab.args(2, "slurm-7", "linear", *options)
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "segbench", *args],
            env=environment | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]
    assert [task.wait(240) for task in tasks] == [0, 0]
    assert [path.name for path in (lab.folder / "runs" / "e").iterdir()] == ["slurm-7"]


@pytest.mark.slow
def test_torchrun_on_two_nodes(lab):
    """Two agents with one process each on this machine, in place of two machines."""
    port = free_port()
    args = lab.args(1, "x", "linear")[:-4]  # without --run_id: rank zero chooses the folder
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    torchrun += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    nodes = [
        subprocess.Popen(
            [*torchrun, "--node_rank", str(node), "-m", "segbench", *args, "--trainer.num_nodes", "2"],
            env=os.environ | {"PYTHONPATH": str(EXPERIMENTS.parent)},
        )
        for node in range(2)
    ]
    assert [node.wait(240) for node in nodes] == [0, 0]
    (run,) = (lab.folder / "runs").glob("*/*")
    assert json.loads((run / "run.json").read_text())["device"]["processes"] == 2
    assert len(load_ledger(run / "ledger.npz").ledger.names) == 5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_launch_by_lightning(lab, strategy):
    args = lab.args(2, "own", "linear", "--trainer.strategy", strategy)
    environment = os.environ | {"PYTHONPATH": str(EXPERIMENTS.parent)}
    subprocess.run([sys.executable, "-m", "segbench", *args], check=True, env=environment, timeout=240)
    one = lab.fit(1, "one")
    assert_same_weights(one, one.with_name("own"))
    assert len(list(one.parent.iterdir())) == 2


def test_slurm_script_requeues_stopped_jobs_only(tmp_path):
    """With stand-ins for `srun` and `scontrol`: this tests the script, not SLURM."""
    for name, code in {
        "srun": 'echo "$@" > srun.txt; exit "$(cat status)"',
        "scontrol": 'echo "$@" > scontrol.txt',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4"}
    slurm |= {"SLURM_CPUS_PER_TASK": "8"}
    environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for status in (0, 2, os.EX_TEMPFAIL):
        (tmp_path / "status").write_text(str(status))
        script = ["bash", str(EXPERIMENTS / "slurm.sbatch"), "--config", "a b.yaml"]
        done = subprocess.run(script, cwd=tmp_path, env=environment, check=False)
        assert done.returncode == status
        assert (tmp_path / "scontrol.txt").exists() == (status == os.EX_TEMPFAIL)
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 42\n"
    command = (tmp_path / "srun.txt").read_text()
    assert command.startswith("--wait=300 --cpus-per-task=8 ")  # srun does not inherit it from the job
    assert (
        "segbench fit --config a b.yaml --trainer.num_nodes 2 --trainer.devices 4 --run_id slurm-42" in command
    )
