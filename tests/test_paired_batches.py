"""All decoders train on the same batches, whatever the number of workers and devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from segbench.__main__ import main
from segbench.data.folder import FolderDataModule
from segbench.data.splits import DrawnSplits

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
STEPS = 4
SMALL = {
    "model": {
        "init_args": {
            "encoder": {"init_args": {"pretrained": False, "depths": [0]}},
            "schedule": {"init_args": {"warmup_steps": 0}},
        }
    },
    "data": {
        "init_args": {
            "image_size": [64, 80],
            "num_images": {"train": 6, "val": 1, "test": 1},
            "img_size": [32, 32],
            "batch_size": 2,
        }
    },
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": STEPS,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}
RECORDER = """
import hashlib
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class Record(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        with Path(f"seen-{trainer.global_rank}").open("a") as file:
            for name, *tensors in zip(batch.name, batch.image, batch.label, strict=True):
                digests = (hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in tensors)
                print(name, *digests, file=file)
"""


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Returns a function that builds training commands; every rank records its batches in `seen-RANK`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("recorder.py").write_text(RECORDER)
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))

    def build(experiment, **data):
        for path in tmp_path.glob("seen-*"):
            path.unlink()
        configs = [EXPERIMENTS / f"{experiment}.yaml", EXPERIMENTS / "data" / "synthetic.yaml", "small.yaml"]
        options = [f"--data.init_args.{name}={value}" for name, value in data.items()]
        return [
            "fit",
            *(word for config in configs for word in ("--config", str(config))),
            "--trainer.callbacks+=recorder.Record",
            *options,
        ]

    return build


def seen(rank=0):
    return Path(f"seen-{rank}").read_text().splitlines()


def test_decoders_see_the_same_batches_with_any_number_of_workers(arguments):
    main(arguments("linear", num_workers=0))
    reference = seen()
    assert len(set(reference)) == 2 * STEPS
    main(arguments("attention_unet_vit", num_workers=2))
    assert seen() == reference


@pytest.mark.slow
def test_run_seed_changes_order_unless_the_data_seed_is_given(arguments):
    def batches(run_seed, /, **data):
        main([*arguments("linear", num_workers=0, **data), f"--seed_everything={run_seed}"])
        return seen()

    zero, seven = batches(0), batches(7)
    assert not set(zero) & set(seven)  # augmentation differs even for the same image
    assert batches(7, seed=0) == zero  # the given data seed wins
    assert batches(0, seed=7) == seven
    assert batches("false") == zero


def test_run_folder_records_the_seed(arguments, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")  # the seed that Lightning uses for `true`
    main([*arguments("linear"), "--seed_everything=true", "--run_id=one"])
    (run,) = Path("runs").glob("*/one")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["seed_everything"] == config["data"]["init_args"]["seed"] == 3
    before = seen()
    main(
        [*arguments("linear"), "--seed_everything=true", "--run_id=one"]
    )  # the same command finds the run finished
    assert not list(Path.cwd().glob("seen-*"))
    main([*arguments("linear"), "--config", str(run / "config.yaml"), "--seed_everything=4"])
    assert seen() == before  # the configuration has the data seed


def test_split_does_not_depend_on_the_seed(tmp_path):
    for seed in (0, 1):
        data = FolderDataModule(tmp_path, classes=["a", "b"], splits={"val": 0.5, "test": 0.25}, seed=seed)
        assert isinstance(data.layout, DrawnSplits)
        assert data.layout.seed == 0


@pytest.mark.slow
def test_two_devices_see_the_batches_of_one(arguments):
    main(arguments("linear", num_workers=1, batch_size=4))
    reference = seen()
    command = [sys.executable, "-m", "segbench", *arguments("linear", num_workers=1, batch_size=2)]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    environment = {"PYTHONPATH": f"{Path.cwd()}:{EXPERIMENTS.parent}"}
    subprocess.run([*command, *two], check=True, capture_output=True, env=os.environ | environment)
    batches = zip(seen(0), seen(1), strict=True)
    assert [line for pair in batches for line in pair] == reference
