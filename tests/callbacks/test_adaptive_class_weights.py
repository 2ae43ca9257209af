"""Class weights follow predicted and true masses, through interruptions and over processes."""

import contextlib
import csv
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference.slow_losses import slow_class_masses
from tiny import overlay, vit
from torch import distributed, multiprocessing

from segbench.__main__ import main
from segbench.callbacks.adaptive_class_weights import AdaptiveClassWeights, adapted, class_masses
from segbench.callbacks.step_seed import StepSeed
from segbench.decoders.linear import LinearDecoder
from segbench.encoders.timm_vit import TimmViT
from segbench.functional import bands
from segbench.losses.cross_entropy import CrossEntropy
from segbench.tasks.base import Task
from segbench.tasks.semantic import SemanticTask
from segbench.types import Batch, Prediction

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CALLBACK = "segbench.callbacks.adaptive_class_weights.AdaptiveClassWeights"

# 10 crops in batches of 1. Their 30 pixels are no multiple of a patch: images are padded, labels ignored.
TINY = overlay(
    {"num_images": {"train": 10, "val": 1, "test": 1}, "img_size": [30, 30], "batch_size": 1},
    {"encoder": vit()},
    max_steps=9,
    val_check_interval=6,
    accumulate_grad_batches=2,
)


class KilledError(Exception):
    pass


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def fit(tiny, *more):
    before = set(Path("runs").glob("*/*"))
    with contextlib.suppress(KilledError):
        main(["fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", str(tiny), *more])
    (run,) = set(Path("runs").glob("*/*")) - before
    return run


def weights_by_step(run):
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return [{k: float(v) for k, v in row.items() if k.startswith("train/class_weight/")} for row in rows]


def state(run):
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt")
    return checkpoint["callbacks"]["AdaptiveClassWeights"], checkpoint["state_dict"]


def test_from_the_yaml_and_exactly_resumed_in_mid_interval(tiny, monkeypatch):
    options = [f"--trainer.callbacks+={CALLBACK}", "--trainer.callbacks.init_args.every_n_steps=3"]
    options += [
        "--model.init_args.losses.init_args.class_weights=[1, 2, 0, 1]",
        "--checkpoints.every_n_steps=1",
    ]
    whole = fit(tiny, *options)
    weights = weights_by_step(whole)
    first = {"background": 1, "disc": 2, "striped disc": 0, "box": 1}
    assert weights[0] == weights[1] == {f"train/class_weight/{name}": w for name, w in first.items()}
    assert (
        weights[2] == weights[3] == weights[4] != weights[1]
    )  # logged in the row of the step that changes them
    assert weights[8] != weights[5] != weights[4]
    assert all(w["train/class_weight/striped disc"] == 0 for w in weights)

    original = StepSeed.on_train_batch_start

    def kill(self, trainer, *args):
        # In the midst of an interval, after the first of two batches of a step: that batch is done again.
        if trainer.global_step == 4 and args[-1] % 2:
            raise KilledError
        original(self, trainer, *args)

    monkeypatch.setattr(StepSeed, "on_train_batch_start", kill)
    killed = fit(tiny, *options)
    monkeypatch.undo()
    monkeypatch.chdir(tiny.parent)
    assert sum(state(killed)[0]["masses"][0]) > 0
    main(
        [
            "fit",
            "--config",
            str(killed / "config.yaml"),
            "--ckpt_path",
            str(killed / "checkpoints" / "last.ckpt"),
        ]
    )
    assert weights_by_step(killed) == weights
    (one, model), (other, model_again) = state(whole), state(killed)
    assert one == other
    assert all(torch.equal(value, model_again[name]) for name, value in model.items())
    assert not any("class_weights" in name for name in model)  # they are the callback's, not the model's


def test_weights_change_what_is_learned(tiny):
    plain, adaptive = (
        fit(tiny, "--trainer.max_steps=3", *more)
        for more in ((), (f"--trainer.callbacks+={CALLBACK}", "--trainer.callbacks.init_args.every_n_steps=1"))
    )
    one, other = (torch.load(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (plain, adaptive))
    assert not torch.equal(one["decoder.head.bias"], other["decoder.head.bias"])


def test_without_a_loss_that_has_weights_it_is_refused_in_one_line(tiny, capsys):
    with pytest.raises(SystemExit):
        fit(tiny, f"--trainer.callbacks+={CALLBACK}", "--model.init_args.losses=[segbench.losses.dice.Dice]")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segbench: error: ")]
    assert "AdaptiveClassWeights needs a loss with class_weights, such as segbench.losses.cross_entropy" in line


def test_weights_that_begin_outside_the_limits_are_refused_in_one_line(tiny, capsys):
    loss = "segbench.losses.cross_entropy.CrossEntropy"
    losses = f"--model.init_args.losses=[{{class_path: {loss}, init_args: {{class_weights: [1, 0, 1, 20]}}}}]"
    with pytest.raises(SystemExit):
        fit(tiny, "--trainer.callbacks+=AdaptiveClassWeights", losses)  # the name alone, as in the README
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segbench: error: ")]
    assert "keeps weights from 0.1 to 10, but class_weights of CrossEntropy begin with 20" in line


def test_masses_equal_the_loop(monkeypatch):
    monkeypatch.setattr(bands, "BAND_BYTES_CPU", 200)
    logits = torch.randn(2, 4, 3, 5)
    label = torch.randint(0, 3, (2, 12, 20), dtype=torch.uint8)
    label[torch.rand(label.shape) < 0.3] = 255
    label[0, :5] = 255
    masses = class_masses(logits, label, 255)
    np.testing.assert_allclose(masses, slow_class_masses(logits.numpy(), label.numpy(), 255), rtol=1e-5)
    assert masses[0].sum().item() == pytest.approx(masses[1].sum().item(), rel=1e-5)
    assert class_masses(logits, torch.full_like(label, 255), 255).abs().sum() == 0


def test_the_task_hands_over_labels_that_cover_the_same_pixels_as_its_logits():
    task = SemanticTask(
        encoder=partial(TimmViT, depths=[0]),
        decoder=LinearDecoder,
        img_size=(32, 32),
        num_classes=2,
        class_names=["a", "b"],
        palette=[[0, 0, 0], [1, 1, 1]],
    )
    task.log = lambda *args, **options: None
    batch = Batch(
        torch.zeros(1, 3, 20, 25, dtype=torch.uint8), torch.ones(1, 20, 25, dtype=torch.uint8), ("a",)
    )
    outputs = task.training_step(batch, 0)
    assert outputs["prediction"].logits.shape[2:] == (2, 2)
    assert outputs["label"].shape == (1, 32, 32)
    assert class_masses(outputs["prediction"].logits, outputs["label"], 255)[0].tolist() == [0, 20 * 25]


def test_the_rule():
    weights = torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0, 0.0])
    true = [400.0, 100.0, 1.0, 900.0, 0.0, 5.0]
    predicted = [100.0, 400.0, 900.0, 0.0, 50.0, 1.0]
    moved = adapted(weights, torch.tensor([true, predicted]), 0.5, 0.2, 5.0)
    # Doubled, halved, held at either limit; without a labelled pixel and without weight as before.
    assert moved.tolist() == pytest.approx([2.0, 1.0, 0.2, 5.0, 3.0, 0.0])


class Classes(Task):
    """As much of a task as the callback asks for."""

    num_classes, ignore_index, class_names = 3, 255, ("a", "b", "c")
    parts = logits = segment = confidence = predict_proba = decide = None

    def __init__(self, *losses):
        super().__init__()
        self.losses = torch.nn.ModuleList(losses)

    def log_dict(self, values):
        self.logged = {name: float(value) for name, value in values.items()}


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        logits = torch.randn(2, 3, 2, 2, generator=generator)
        yield logits, torch.randint(0, 3, (2, 4, 4), generator=generator)


def train(part, *losses, accumulate=1, interval=2):
    """Runs the callback's hooks over `batches()`, of each of which this process has a part."""
    task = Classes(*losses)
    callback = AdaptiveClassWeights(every_n_steps=interval)
    trainer = SimpleNamespace(global_step=0, log_every_n_steps=1)
    callback.setup(trainer, task, "fit")
    callback.on_train_start(trainer, task)
    history = []
    for index, (logits, label) in enumerate(batches()):
        trainer.global_step = (index + 1) // accumulate
        outputs = {"prediction": Prediction(logits[part]), "label": label[part]}
        callback.on_train_batch_end(trainer, task, outputs, None, index)
        history.append(task.losses[0].class_weights.tolist())
    return callback, task, history


def test_masses_are_of_the_batches_since_the_last_update():
    _, _, history = train(slice(None), CrossEntropy(3, 255))
    given = list(batches())
    weights = torch.ones(3)
    assert history[0] == weights.tolist()
    weights = adapted(weights, sum(class_masses(*pair, 255) for pair in given[:2]), 0.5, 0.1, 10)
    assert history[1] == history[2] == pytest.approx(weights.tolist())
    weights = adapted(weights, sum(class_masses(*pair, 255) for pair in given[2:]), 0.5, 0.1, 10)
    assert history[3] == pytest.approx(weights.tolist())


def test_accumulated_batches_update_once_a_step():
    callback, _, history = train(slice(None), CrossEntropy(3, 255), accumulate=2, interval=1)
    assert history[0] == [1, 1, 1]
    assert history[1] == history[2] != history[3] != history[0]
    assert callback.state_dict()["updated_step"] == 2


def test_each_loss_resumes_from_its_own_weights():
    losses = CrossEntropy(3, 255), CrossEntropy(3, 255, class_weights=[2.0, 2.0, 2.0])
    _, task, _ = train(slice(None), *losses)
    torch.testing.assert_close(losses[1].class_weights, 2 * losses[0].class_weights)
    assert task.logged.keys() == {f"train/class_weight_2/{name}" for name in "abc"}


def test_a_checkpoint_of_other_losses():
    callback, *_ = train(slice(None), CrossEntropy(3, 255))
    task, other = Classes(CrossEntropy(3, 255), CrossEntropy(3, 255)), AdaptiveClassWeights()
    other.setup(None, task, "fit")
    other.load_state_dict(callback.state_dict())
    with pytest.raises(ValueError, match="losses: 2 have class weights here, 1 in the checkpoint"):
        other.on_train_start(None, task)


def share(rank, folder):
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    callback, _, history = train(slice(rank, rank + 1), CrossEntropy(3, 255), interval=3)
    torch.save((history, callback.state_dict()), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_weigh_as_one_and_either_may_write_the_checkpoint(tmp_path):
    multiprocessing.spawn(share, (str(tmp_path),), nprocs=2)
    callback, _, history = train(slice(None), CrossEntropy(3, 255), interval=3)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert found[0] == found[1]
    np.testing.assert_allclose(found[0][0], history, rtol=1e-5)
    np.testing.assert_allclose(
        found[0][1]["masses"], callback.state_dict()["masses"], rtol=1e-5
    )  # in mid-interval


def test_mistakes():
    for options, message in (
        ({"exponent": -1.0}, "exponent must not be negative"),
        ({"exponent": math.nan}, "exponent must not be negative"),
        ({"every_n_steps": 0}, "every_n_steps must be at least 1"),
        ({"minimum": 2.0, "maximum": 1.0}, "minimum and maximum must be positive and in order"),
    ):
        with pytest.raises(ValueError, match=message):
            AdaptiveClassWeights(**options)
