"""The real command line, on real files, as its users call it."""

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from command_line import refuse
from tiny import ENCODERS, overlay, vit

import segbench
from segbench.__main__ import main
from segbench.encoders.timm_vit import TimmViT
from segbench.metrics.segmentation import scores
from segbench.runs.ledger_file import load_ledger

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

# Small enough for a second: one block, scenes of 64 pixels.
TINY = overlay(
    {"num_images": {"train": 10, "val": 5, "test": 3}, "eval_batch_size": 1, "augment": True},
    {"encoder": vit(drop_path_rate=0.1)},
    max_steps=4,
    val_check_interval=2,
)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An overlay, in a fresh working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def fit(tiny: Path, *more: str, experiment: str = "meanshift") -> Path:
    before = set(Path("runs").glob("*/*"))
    main(["fit", "--config", str(EXPERIMENTS / f"{experiment}.yaml"), "--config", str(tiny), *more])
    (run,) = set(Path("runs").glob("*/*")) - before
    return run


def read_rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_fit_leaves_a_complete_run_folder_and_nothing_else(tiny, capsys):
    run = fit(tiny)
    assert {path.name for path in Path().iterdir()} == {"tiny.yaml", "runs"}
    assert run.parent.name == "meanshift-tiny"
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "run.json",
        "metrics.csv",
        "checkpoints",
        "panels",
        "ledger.npz",
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}

    card = json.loads((run / "run.json").read_text())
    assert card["parameters"]["necks"] == 192 * 192 + 192
    assert card["parameters"]["decoder"] == 192 * 4 + 4
    assert card["parameters"]["total"] == sum(
        card["parameters"][part] for part in ("encoder", "necks", "decoder")
    )
    assert card["peak_memory_bytes"] > 0
    assert [entry["step"] for entry in card["history"]] == [2, 4]
    best = card["scores"]["val"]
    assert best["miou"] == max(entry["miou"] for entry in card["history"])

    ledger = load_ledger(run / "ledger.npz")
    assert ledger.split == "val"
    assert len(ledger.ledger.names) == 5
    again = scores(torch.from_numpy(ledger.ledger.total(4)))
    assert float(again["miou"]) == pytest.approx(best["miou"], abs=1e-6)

    rows = read_rows(run)
    assert {"train/loss", "val/miou", "val/macc", "val/aacc", "val/iou/background"} <= rows[0].keys()
    assert [float(row["val/miou"]) for row in rows if row["val/miou"]] == pytest.approx(
        [entry["miou"] for entry in card["history"]]
    )

    panels = sorted((run / "panels").iterdir())
    assert len(panels) == 2 * 5
    picture = cv2.imread(str(panels[0]))
    assert picture.shape[1] == 5 * 64 + 4 * 4  # image | label | prediction | errors | entropy

    last_lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in last_lines] == ["pictures", "scores", "checkpoint"]
    assert all(Path(line.split()[1]).exists() for line in last_lines)


def test_history_may_begin_before_the_first_step(tiny):
    run = fit(tiny, "--trainer.num_sanity_val_steps", "-1")
    history = json.loads((run / "run.json").read_text())["history"]
    assert [entry["step"] for entry in history] == [0, 2, 4]
    assert 0 <= history[0]["miou"] <= 1
    main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")])
    assert json.loads((run / "run.json").read_text())["history"] == history


def test_two_runs_of_one_experiment_do_not_collide(tiny):
    assert fit(tiny, "--trainer.max_steps", "2") != fit(tiny, "--trainer.max_steps", "2")


def test_the_same_run_twice_gives_the_same_weights(tiny):
    one, other = (torch.load(fit(tiny) / "checkpoints" / "last.ckpt")["state_dict"] for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["meanshift_mask", "attention_unet_vit"])
def test_deterministic_runs_are_equal_bit_by_bit(tiny, experiment):
    options = ["--trainer.deterministic", "true", "--trainer.max_steps", "2"]
    try:
        runs = [fit(tiny, *options, experiment=experiment) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    one, other = (torch.load(run / "checkpoints" / "last.ckpt") for run in runs)
    assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])
    losses = [[row["train/loss"] for row in read_rows(run)] for run in runs]
    assert losses[0] == losses[1]
    assert any(losses[0])


def test_config_of_the_run_folder_repeats_the_run(tiny):
    run = fit(tiny)
    main(["fit", "--config", str(run / "config.yaml")])
    (again,) = set(Path("runs").glob("*/*")) - {run}
    assert again.parent == run.parent
    one, other = (torch.load(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (run, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_checkpoint_is_self_describing(tiny):
    run = fit(tiny)
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    saved = checkpoint["hyper_parameters"]
    assert saved["num_classes"] == 4
    assert saved["class_names"] == ["background", "disc", "striped disc", "box"]
    assert list(saved["img_size"]) == [32, 32]
    assert saved["ignore_index"] == 255
    assert len(saved["palette"]) == 4
    assert yaml.safe_load(checkpoint["segbench"]["config"])["data"]["init_args"]["num_classes"] == 4

    # From a process that has imported nothing yet, in another folder.
    program = (
        "import sys, torch, segbench; task = segbench.load(sys.argv[1]);"
        "labels = task.segment(torch.zeros(1, 3, 50, 70, dtype=torch.uint8));"
        "logits = task.logits(torch.zeros(2, 3, 50, 70));"
        "print(tuple(labels.shape), tuple(logits.shape), task.training, task.necks[0].iterations)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str((run / "checkpoints" / "best.ckpt").absolute())],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "(1, 50, 70) (2, 4, 50, 70) False 1"


def test_test_and_validate_need_the_checkpoint_alone(tiny, capsys):
    run = fit(tiny)
    saved = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    best = json.loads((run / "run.json").read_text())["scores"]["val"]["miou"]
    for verb, split, count in (("validate", "val", 5), ("test", "test", 3)):
        before = set(Path("runs").glob("*/*"))
        main([verb, "--checkpoint", str(run / "checkpoints" / "best.ckpt")])
        (own,) = set(Path("runs").glob("*/*")) - before
        assert own.parent.name == "meanshift-tiny"
        card = json.loads((own / "run.json").read_text())
        assert card["verb"] == verb
        assert card["checkpoint"].endswith("best.ckpt")
        assert len(load_ledger(own / "ledger.npz").ledger.names) == count
        assert card["command"] == ["segbench", verb, "--checkpoint", str(run / "checkpoints" / "best.ckpt")]
        if verb == "validate":
            assert card["scores"][split]["miou"] == pytest.approx(best)
    assert {path: path.read_bytes() for path in saved} == saved  # what was there is untouched
    assert "here," not in capsys.readouterr().err  # nothing differs from the checkpoint, nothing is reported


def test_config_and_ckpt_path_do_as_well(tiny):
    run = fit(tiny)
    args = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "best.ckpt")]
    main(["validate", *args])
    (own,) = set(Path("runs").glob("*/*")) - {run}
    validated = json.loads((own / "run.json").read_text())["scores"]["val"]
    assert validated["miou"] == pytest.approx(
        json.loads((run / "run.json").read_text())["scores"]["val"]["miou"]
    )


def test_iterations_can_be_changed_at_test_time_and_the_difference_is_said(tiny, capsys):
    run = fit(tiny)
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    main(["test", "--checkpoint", checkpoint, "--model.init_args.neck_iterations", "3"])
    assert "model.init_args.neck_iterations: 3 here, None in" in capsys.readouterr().err
    (own,) = (path for path in Path("runs").glob("*/*") if path != run)
    assert yaml.safe_load((own / "config.yaml").read_text())["model"]["init_args"]["neck_iterations"] == 3
    task = segbench.load(checkpoint)
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    once = task.logits(image)
    task.necks[0].iterations = 3
    assert not torch.equal(once, task.logits(image))


def test_several_iterations_are_scored_with_one_pass_of_the_encoder(tiny, monkeypatch):
    run = fit(tiny)
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    seen = []
    forward = TimmViT.forward
    monkeypatch.setattr(
        TimmViT, "forward", lambda self, image: seen.append(image.shape) or forward(self, image)
    )

    def test(iterations, *more):
        before, seen[:] = set(Path("runs").glob("*/*")), []
        main(["test", "--checkpoint", checkpoint, "--model.init_args.neck_iterations", iterations, *more])
        (own,) = set(Path("runs").glob("*/*")) - before
        return own, json.loads((own / "run.json").read_text())["scores"], len(seen)

    # Windows, two scales and mirrored views: all of them are encoded once, and given to every count in order.
    options = [
        *("--model.init_args.window", "[32, 32]", "--model.init_args.scales", "[1.0, 1.5]"),
        *("--model.init_args.flip", "true", "--panels.num_images", "0"),
    ]
    own, together, passes = test("[1, 0, 4]", *options)
    assert together.keys() == {"test", "test_iterations_0", "test_iterations_4"}
    for count, name in ((1, "test"), (0, "test_iterations_0"), (4, "test_iterations_4")):
        alone_in, alone, passes_alone = test(str(count), *options)
        assert together[name] == alone["test"]
        assert passes == passes_alone
        ours = load_ledger(own / f"ledger{name.removeprefix('test')}.npz")
        theirs = load_ledger(alone_in / "ledger.npz")
        assert np.array_equal(ours.ledger.rows, theirs.ledger.rows)
    assert together["test_iterations_0"] != together["test_iterations_4"]


def test_predict_writes_label_maps(tiny):
    run = fit(tiny)
    main(["predict", "--checkpoint", str(run / "checkpoints" / "best.ckpt")])
    (own,) = (path for path in Path("runs").glob("*/*") if path != run)
    files = sorted(path.name for path in (own / "predictions").glob("*.png"))
    assert len(files) == 3
    assert sorted(path.name for path in (own / "predictions" / "color").iterdir()) == files
    labels = cv2.imread(str(own / "predictions" / files[0]), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (64, 64)
    assert labels.max() < 4


class KilledError(Exception):
    """Stands for a signal: nothing of the run's own code sees it coming."""


@pytest.mark.parametrize("stop_after", [3, 6, 8])  # mid-epoch; at a validation; in the second epoch
@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_same_weights(tiny, monkeypatch, stop_after, precision):
    options = [
        "--trainer.max_steps",
        "9",
        "--trainer.val_check_interval",
        "3",
        "--checkpoints.every_n_steps",
        "1",
    ]
    options += ["--trainer.precision", precision]
    whole = fit(tiny, *options)

    from segbench.callbacks.step_seed import StepSeed

    original = StepSeed.on_train_batch_start

    def kill(self, trainer, *args):
        if trainer.global_step == stop_after:
            raise KilledError
        original(self, trainer, *args)

    monkeypatch.setattr(StepSeed, "on_train_batch_start", kill)
    with pytest.raises(KilledError):
        fit(tiny, *options)
    monkeypatch.undo()
    monkeypatch.chdir(tiny.parent)
    (killed,) = set(Path("runs").glob("*/*")) - {whole}
    main(
        [
            "fit",
            "--config",
            str(killed / "config.yaml"),
            "--ckpt_path",
            str(killed / "checkpoints" / "last.ckpt"),
        ]
    )

    assert len(list(Path("runs").glob("*/*"))) == 2  # the run resumed in its own folder
    one, other = (torch.load(run / "checkpoints" / "last.ckpt") for run in (whole, killed))
    assert one["global_step"] == other["global_step"] == 9
    different = [
        name for name, value in one["state_dict"].items() if not torch.equal(value, other["state_dict"][name])
    ]
    assert different == []
    rows, again = (read_rows(run) for run in (whole, killed))
    assert [(row["step"], row["train/loss"], row["val/miou"]) for row in again] == [
        (row["step"], row["train/loss"], row["val/miou"]) for row in rows
    ]
    histories = [json.loads((run / "run.json").read_text())["history"] for run in (whole, killed)]
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_a_killed_process_leaves_a_checkpoint_that_loads(tiny):
    """A real SIGKILL, at whatever moment it comes."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "segbench", "fit", "--config", str(EXPERIMENTS / "linear.yaml")),
            *("--config", str(tiny), "--trainer.max_steps", "100000", "--checkpoints.every_n_steps", "1"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        while not list(Path("runs").glob("*/*/checkpoints/last.ckpt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    (checkpoint,) = Path("runs").glob("*/*/checkpoints/last.ckpt")
    segbench.load(checkpoint)


def test_wandb_works_offline_and_keeps_its_run(tiny, monkeypatch):
    pytest.importorskip("wandb")
    for variable in ("WANDB_MODE", "WANDB_API_KEY"):  # neither account nor network
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tiny.parent / "netrc"))
    run = fit(tiny, "--logger", "wandb", "--trainer.max_steps", "2")
    assert list((run / "wandb").glob(f"offline-run-*-{run.name}"))
    assert not (run / "config.1.yaml").exists()
    assert (run / "metrics.csv").is_file()
    assert {path.name for path in Path().iterdir()} == {"tiny.yaml", "runs"}
    last = str(run / "checkpoints" / "last.ckpt")
    main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", last, "--trainer.max_steps", "4"])
    assert list(Path("runs").glob("*/*")) == [run]
    # One identity for both parts: `wandb sync` joins them into one run.
    assert len(list((run / "wandb").glob(f"offline-run-*-{run.name}"))) == 2
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2
    assert [int(row["step"]) for row in read_rows(run)] == [0, 1, 2, 3]


def test_loggers_of_the_yaml_write_into_the_run_folder_too(tiny):
    pytest.importorskip("wandb")
    logger = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"offline": True}}
    run = fit(tiny, "--trainer.logger", json.dumps(logger), "--trainer.max_steps", "2")
    assert (run / "wandb").is_dir()
    assert (run / "metrics.csv").is_file()
    assert {path.name for path in Path().iterdir()} == {"tiny.yaml", "runs"}


def test_tensorboard_by_one_option(tiny):
    pytest.importorskip("tensorboard")
    run = fit(tiny, "--logger", "tensorboard", "--trainer.max_steps", "2")
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert {path.name for path in Path().iterdir()} == {"tiny.yaml", "runs"}


def test_weights_may_be_averaged_over_steps(tiny):
    ema = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}
    plain = torch.load(fit(tiny) / "checkpoints" / "last.ckpt")
    averaged = torch.load(fit(tiny, f"--trainer.callbacks+={json.dumps(ema)}") / "checkpoints" / "last.ckpt")
    head = "decoder.head.weight"
    # The average is what is validated, saved and loaded; training itself continues as without it.
    assert not torch.equal(plain["state_dict"][head], averaged["state_dict"][head])
    current = averaged["current_model_state"]
    assert torch.equal(
        plain["state_dict"][head], current[next(name for name in current if name.endswith(head))]
    )


def test_options_of_training(tiny):
    run = fit(
        tiny,
        *("--model.init_args.encoder_lr_scale", "0.1", "--model.init_args.layer_decay", "0.9"),
        *("--model.init_args.encoder.init_args.grad_checkpointing", "true"),
        *("--trainer.accumulate_grad_batches", "2", "--trainer.precision", "bf16-mixed"),
    )
    rates = [row for row in read_rows(run) if row.get("lr-SGD/pg1")]
    assert len({row[key] for row in rates[:1] for key in row if key.startswith("lr-")}) > 2


def test_accumulated_batches_are_steps_of_a_larger_batch(tiny):
    still = ["--model.init_args.encoder.init_args.drop_path_rate", "0"]  # drawn again for every batch
    large = fit(tiny, *still)
    small = fit(tiny, *still, "--data.init_args.batch_size", "1")
    summed = fit(tiny, *still, "--data.init_args.batch_size", "1", "--trainer.accumulate_grad_batches", "2")
    states = [torch.load(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (large, small, summed)]
    weights = [torch.cat([value.flatten() for value in state.values()]) for state in states]
    # Not 0, since each crop is averaged over its own labelled pixels: 0.15. Without accumulation it would be 1.
    assert (weights[2] - weights[0]).norm() < 0.3 * (weights[1] - weights[0]).norm()


def test_going_back_to_the_best_checkpoint_begins_a_run_of_its_own(tiny):
    run = fit(tiny)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    args = ["--config", str(run / "config.yaml"), "--trainer.max_steps", "6"]
    main(["fit", *args, "--ckpt_path", str(run / "checkpoints" / "best.ckpt")])
    assert len(list(Path("runs").glob("*/*"))) == 2
    assert {path: path.read_bytes() for path in before} == before


def test_other_data_begin_a_run_of_their_own(tiny, capsys):
    run = fit(tiny)
    args = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    with pytest.warns(UserWarning, match="images come in another order"):
        main(["fit", *args, "--trainer.max_steps", "6", "--data.init_args.seed", "7"])
    assert "data.init_args.seed: 7 here, 0 in" in capsys.readouterr().err
    assert len(list(Path("runs").glob("*/*"))) == 2


def test_a_model_configured_otherwise_begins_a_run_of_its_own(tiny, capsys):
    run = fit(tiny)
    args = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    main(["fit", *args, "--trainer.max_steps", "6", "--model.init_args.neck_iterations", "2"])
    assert "model.init_args.neck_iterations: 2 here" in capsys.readouterr().err
    assert len(list(Path("runs").glob("*/*"))) == 2


@pytest.mark.slow
# torch's compiler looks at the gradient of what one compiled part hands to the next.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_parts_train_and_their_checkpoint_loads(tiny):
    run = fit(tiny, "--model.init_args.compile", "true")
    plain = fit(tiny)
    one, other = (torch.load(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (run, plain))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)
    segbench.load(run / "checkpoints" / "best.ckpt")


@pytest.mark.slow
def test_a_process_killed_at_any_moment_resumes_to_the_same_weights(tiny):
    options = [
        "--trainer.max_steps",
        "60",
        "--trainer.val_check_interval",
        "5",
        "--checkpoints.every_n_steps",
        "7",
    ]
    whole = fit(tiny, *options, experiment="linear")
    command = [sys.executable, "-m", "segbench", "fit", "--config", str(EXPERIMENTS / "linear.yaml")]
    process = subprocess.Popen([*command, "--config", str(tiny), *options], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (
        found := [run for run in Path("runs").glob("*/*/checkpoints/best.ckpt") if whole not in run.parents]
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)
    process.kill()
    process.wait()
    run = found[0].parents[1]
    assert torch.load(run / "checkpoints" / "last.ckpt")["global_step"] < 60
    main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")])
    one, other = (torch.load(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (whole, run))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("joint", ["encoder", "decoder", "necks"])
@pytest.mark.parametrize("package", ["os", "torch"])
def test_a_strangers_checkpoint_runs_no_code(tiny, capsys, tmp_path, joint, package):
    run = fit(tiny)
    call = {
        "os": {"class_path": "os.system", "init_args": {"command": "touch executed"}},
        "torch": {"class_path": "torch.save", "init_args": {"f": "executed"}},
    }[package]
    content = torch.load(run / "checkpoints" / "last.ckpt")
    config = yaml.safe_load(content["segbench"]["config"])
    for settings in (content["hyper_parameters"], config["model"]["init_args"]):
        settings[joint] = [call] if joint == "necks" else call
    content["segbench"]["config"] = yaml.safe_dump(config)
    torch.save(content, "evil.ckpt")
    expected = "none of segbench's"
    with pytest.raises(ValueError, match=expected):
        segbench.load("evil.ckpt")
    assert expected in refuse(capsys, "test", "--checkpoint", "evil.ckpt")
    Path("photo.png").write_bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    assert expected in refuse(capsys, "segment", "--checkpoint", "evil.ckpt", "photo.png", "--out", "out")
    assert not Path("executed").exists()


def test_packages_of_the_users_own_can_be_trusted(tiny, monkeypatch):
    code = "from segbench.decoders.linear import LinearDecoder\nclass Theirs(LinearDecoder):\n    pass\n"
    Path("their_decoder.py").write_text(code)
    monkeypatch.syspath_prepend(Path.cwd())
    run = fit(tiny, "--model.init_args.decoder", "their_decoder.Theirs", experiment="linear")
    with pytest.raises(ValueError, match="allow it by --trust their_decoder"):
        segbench.load(run / "checkpoints" / "best.ckpt")
    monkeypatch.setenv("SEGBENCH_TRUST", "their_decoder")
    assert type(segbench.load(run / "checkpoints" / "best.ckpt").decoder).__name__ == "Theirs"


def test_changed_optimiser_options_take_effect_when_a_run_is_resumed(tiny):
    run = fit(tiny)
    args = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    args += ["--trainer.max_steps", "6", "--model.init_args.optimizer.init_args.momentum", "0.5"]
    main(["fit", *args, "--model.init_args.optimizer.init_args.lr", "0.01"])
    (own,) = set(Path("runs").glob("*/*")) - {run}
    (state,) = torch.load(own / "checkpoints" / "last.ckpt")["optimizer_states"]
    assert {group["momentum"] for group in state["param_groups"]} == {0.5}
    rates = [float(row["lr-SGD/pg1"]) for row in read_rows(own) if row.get("lr-SGD/pg1")]
    expected = [(0.01 - 1e-4) * (1 - step / 6) ** 0.9 + 1e-4 for step in (4, 5)]
    assert rates == pytest.approx(expected)


def test_best_is_written_before_last_and_not_believed_without_its_file(tiny):
    run = fit(tiny)
    Path("elsewhere.ckpt").write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    main(
        [
            "fit",
            "--config",
            str(run / "config.yaml"),
            "--ckpt_path",
            "elsewhere.ckpt",
            "--trainer.max_steps",
            "6",
        ]
    )
    (own,) = set(Path("runs").glob("*/*")) - {run}
    assert (own / "checkpoints" / "best.ckpt").is_file()
    assert (own / "ledger.npz").is_file()
    assert not list(own.rglob("*.partial"))


def test_every_overlay_falls_to_a_floor_below_its_rate(tmp_path, capsys):
    for dataset in (EXPERIMENTS / "data").glob("*.yaml"):
        configs = ["--config", str(EXPERIMENTS / "meanshift.yaml"), "--config", str(dataset)]
        with pytest.raises(SystemExit):
            main(["fit", *configs, "--print_config"])
        model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
        floor, rate = model["schedule"]["init_args"]["min_lr"], model["optimizer"]["init_args"]["lr"]
        assert floor <= 0.1 * rate, dataset


def test_foreign_configurations_in_a_checkpoint_are_refused(tiny, capsys):
    run = fit(tiny)
    content = torch.load(run / "checkpoints" / "last.ckpt")
    for config in ("model: {}", "[", "3"):
        content["segbench"]["config"] = config
        torch.save(content, "foreign.ckpt")
        line = refuse(capsys, "test", "--checkpoint", "foreign.ckpt")
        assert "a configuration that is not" in line


@pytest.mark.slow
def test_a_decoder_in_the_own_folder_is_found_by_the_command_itself(tiny):
    code = "from segbench.decoders.linear import LinearDecoder\nclass Mine(LinearDecoder):\n    pass\n"
    Path("my_decoder.py").write_text(code)
    script = Path(sys.executable).with_name("segbench")
    command = [str(script), "fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", str(tiny)]
    subprocess.run([*command, "--model.init_args.decoder", "my_decoder.Mine"], check=True, capture_output=True)


def test_a_frozen_encoder_does_not_move(tiny):
    run = fit(tiny, "--model.init_args.encoder.init_args.frozen", "true")
    states = [torch.load(run / "checkpoints" / name)["state_dict"] for name in ("last.ckpt",)]
    again = fit(tiny, "--model.init_args.encoder.init_args.frozen", "true", "--trainer.max_steps", "2")
    states.append(torch.load(again / "checkpoints" / "last.ckpt")["state_dict"])
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]) == name.startswith("encoder.")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", sorted(path.stem for path in EXPERIMENTS.glob("*.yaml")))
def test_every_experiment_trains_and_its_checkpoint_labels(tiny, experiment):
    config = yaml.safe_load((EXPERIMENTS / f"{experiment}.yaml").read_text())
    encoder = config["model"]["init_args"]["encoder"]["class_path"].rpartition(".")[2]
    overlay = yaml.safe_load(TINY)
    overlay["model"]["init_args"]["encoder"]["init_args"] = ENCODERS[encoder]
    tiny.write_text(yaml.safe_dump(overlay))
    run = fit(tiny, "--trainer.max_steps", "2", experiment=experiment)
    card = json.loads((run / "run.json").read_text())
    assert card["scores"]["val"]["miou"] >= 0
    losses = {name for name in read_rows(run)[0] if name.startswith("train/")}
    assert len(losses) == 1 + len(config["model"]["init_args"]["losses"])
    task = segbench.load(run / "checkpoints" / "last.ckpt")
    image = torch.randint(0, 256, (1, 3, 50, 41), dtype=torch.uint8)
    assert task.segment(image).shape == (1, 50, 41)


@pytest.mark.parametrize("overlay", [path.stem for path in (EXPERIMENTS / "data").glob("*.yaml")])
def test_every_overlay_is_understood_and_says_where_its_data_would_be(overlay, tmp_path, monkeypatch, capsys):
    if overlay == "synthetic":
        pytest.skip("needs no data; test_readme runs it")
    monkeypatch.chdir(tmp_path)
    configs = [
        "--config",
        str(EXPERIMENTS / "linear.yaml"),
        "--config",
        str(EXPERIMENTS / "data" / f"{overlay}.yaml"),
    ]
    line = refuse(capsys, "fit", *configs, "--data.init_args.root", "nowhere")
    assert line.startswith("segbench: error: no f")  # no folder, no file
    assert "nowhere" in line
    assert not Path("runs").exists()


def test_default_dataset_missing_names_tree_source_and_overlay(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = refuse(capsys, "fit", "--config", str(EXPERIMENTS / "meanshift.yaml"))
    assert "ADEChallengeData2016" in line
    assert "data.csail.mit.edu" in line
    assert "experiments/data/synthetic.yaml" in line


MISTAKES = {
    "unknown key": (
        ["--model.init_args.decodr", "3"],
        "model.init_args.decodr: unknown option; did you mean decoder",
    ),
    "unknown option of a part": (
        ["--model.init_args.encoder.init_args.droput", "1"],
        "unknown option",
    ),
    "misspelt class path": (
        ["--model.init_args.decoder", "segbench.decoders.lineer.LinearDecoder"],
        "lineer",
    ),
    "a loss where a decoder belongs": (
        ["--model.init_args.decoder", "segbench.losses.cross_entropy.CrossEntropy"],
        "CrossEntropy is not one of the Decoder classes",
    ),
    "unknown model": (
        ["--model.init_args.encoder.init_args.model_name", "vit_tinny"],
        "timm has no model 'vit_tinny'",
    ),
    "weights without network": (["--model.init_args.encoder.init_args.pretrained", "true"], "give a file"),
    "iterations without a neck that has them": (
        ["--model.init_args.neck_iterations", "2"],
        "neck that iterates",
    ),
    "iterations twice": (["--model.init_args.neck_iterations", "[1, 1]"], "each once"),
    "no checkpoint": (["--ckpt_path", "nothing.ckpt"], "checkpoint not found: nothing.ckpt"),
    "no config": (["--config", "nothing.yaml"], "nothing.yaml"),
    "runs is a file": (["--runs_dir", "tiny.yaml"], "tiny.yaml"),
    "a function where a class belongs": (["--model.init_args.decoder", "os.abort"], "class"),
    "no loss": (["--model.init_args.losses", "[]"], "at least one"),
    "floor above the rate": (["--model.init_args.optimizer.init_args.lr", "1e-5"], "lower min_lr"),
    "empty batch": (["--data.init_args.batch_size", "0"], "batch_size=0"),
    "no end": (["--trainer.max_steps", "-1"], "max_steps"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_take_one_line(tiny, capsys, mistake):
    args, expected = MISTAKES[mistake]
    line = refuse(capsys, "fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", str(tiny), *args)
    assert expected in line
    assert len(line) < 500


def test_no_permission_to_write(tiny, capsys, monkeypatch):
    def forbidden(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", forbidden)  # tests may run as root, whom no mode bits stop
    line = refuse(capsys, "fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", str(tiny))
    assert "cannot be made or written to (Permission denied); name another place by --runs_dir DIR" in line


def test_checkpoints_that_do_not_fit(tiny, capsys):
    run = fit(tiny)
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    base = ["--config", str(EXPERIMENTS / "meanshift.yaml"), "--config", str(tiny), "--ckpt_path", checkpoint]
    assert "(4 classes there, 5 here)" in refuse(capsys, "test", *base, "--data.init_args.num_classes", "5")
    line = refuse(capsys, "test", *base, "--model.init_args.necks", "null")
    assert "does not fit this model: 0 weights missing [], 2 unknown" in line
    broken = Path("broken.ckpt")
    broken.write_bytes(Path(checkpoint).read_bytes()[:5000])
    for path in (broken, tiny):
        assert "no checkpoint at all" in refuse(capsys, "test", "--checkpoint", str(path))
    torch.save({"hyper_parameters": np.random.default_rng, "state_dict": {}}, "code.ckpt")
    assert "without running code" in refuse(capsys, "test", "--checkpoint", "code.ckpt")


def test_help_is_light():
    program = "import sys; from segbench.__main__ import main; main(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "segbench COMMAND" in done.stdout
    for heavy in ("torch", "numpy", "lightning", "cv2", "jsonargparse"):
        assert f"'{heavy}'" not in done.stdout


def test_fit_help_documents_options(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help", "all"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--model", "--data", "--trainer.max_steps", "--logger", "--panels.num_images", "--runs_dir"):
        assert option in text
    # Options of the classes that YAML names, each under its class, with what they mean.
    parts = re.split(r"^(segbench\.\S+)$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for cls, options in {
        "segbench.tasks.semantic.SemanticTask": ("encoder", "necks", "neck_iterations", "window", "compile"),
        "segbench.encoders.timm_vit.TimmViT": ("model_name", "pretrained", "depths", "frozen", "norm_eps"),
        "segbench.necks.mean_shift.MeanShift": ("iterations", "dim", "bias", "normalize"),
        "segbench.decoders.linear.LinearDecoder": (),
        "segbench.losses.cross_entropy.CrossEntropy": ("class_weights", "label_smoothing"),
        "segbench.optim.schedules.Poly": ("power", "min_lr", "warmup_steps"),
        "segbench.data.folder.FolderDataModule": ("images", "masks", "remap", "classes"),
    }.items():
        for option in options:
            assert re.search(rf"^  {option} ", sections[cls], flags=re.MULTILINE), (cls, option)
    assert "(the thesis's L′_ms)" in re.sub(r"\s+", " ", text)


def test_unknown_verb(capsys):
    assert "did you mean 'segment'?" in refuse(capsys, "segmnt")


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"segbench {segbench.__version__}\n"
