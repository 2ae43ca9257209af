"""Training from the feature cache is training with the frozen encoder, and costs the encoder nothing."""

import csv
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import timm
import torch
from tiny import overlay

from segbench.__main__ import main
from segbench.callbacks.feature_cache import store as feature_store
from segbench.callbacks.feature_cache.callback import digest, encoder_recipe
from segbench.callbacks.feature_cache.store import FeatureStore
from segbench.callbacks.step_seed import StepSeed
from segbench.decoders.linear import LinearDecoder
from segbench.encoders.timm_vit import TimmViT
from segbench.tasks.semantic import SemanticTask
from segbench.types import Batch
from segbench.utils.lock import FolderLock

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

# 7 images in batches of 2: 3 batches a pass. Two maps, so that their order matters.
OVERLAY = overlay(
    {
        "image_size": [48, 48],
        "num_images": {"train": 7, "val": 2, "test": 1},
        "img_size": [40, 32],
        "eval_batch_size": 1,
        "augment": True,
    },
    {
        "encoder": {
            "init_args": {"model_name": "test_vit", "pretrained": False, "depths": [0, 3], "frozen": True}
        },
        "optimizer": {"init_args": {"lr": 0.1}},
        "cache_features": 2,
    },
    max_steps=9,
    val_check_interval=9,
)


class KilledError(Exception):
    """Stands for a signal."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an overlay and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(OVERLAY)
    return tmp_path


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the batch sizes of training crops that go through the encoder; evaluation sees 48×48."""
    sizes: list[int] = []
    forward = TimmViT.forward

    def counting(self, image):
        if image.shape[-2:] == (40, 32):
            sizes.append(len(image))
        return forward(self, image)

    monkeypatch.setattr(TimmViT, "forward", counting)
    return sizes


def fit(*more: str, experiment: str = "linear") -> Path:
    before = set(Path("runs").glob("*/*"))
    main(["fit", "--config", str(EXPERIMENTS / f"{experiment}.yaml"), "--config", "tiny.yaml", *more])
    (run,) = set(Path("runs").glob("*/*")) - before
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt")["state_dict"]


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def report(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())["feature_cache"]


def caches() -> set[Path]:
    return set(Path("cache").glob("features-*"))


def same(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_training_is_what_it_would_be_with_the_encoder(place, monkeypatch, encoded):
    # Reads raw pixels beside the features.
    options = ["--model.init_args.decoder.init_args.hidden", "[32]"]
    cached = fit(*options, experiment="patch_unet")
    assert sum(encoded) == 1 + 2 * 7  # one to learn the shapes, then two views of each image
    encoded.clear()
    monkeypatch.setattr(SemanticTask, "_features", lambda self, batch: self.encoder(batch.image))
    live = fit(*options, experiment="patch_unet")
    assert sum(encoded) == 9 * 2
    assert len(losses(cached)) == 9
    assert losses(cached) == pytest.approx(losses(live), abs=1e-3)
    ours, theirs = weights(cached), weights(live)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-3)
    assert max(losses(live)) - min(losses(live)) > 0.01  # there was something to be equal in


def test_another_decoder_and_another_seed_encode_nothing(place, encoded):
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), "vit.pth")
    pretrained = ["--model.init_args.encoder.init_args.pretrained", "vit.pth", "--trainer.max_steps", "4"]
    first = fit(*pretrained)
    assert report(first)["encoded"] == 14
    encoded.clear()
    other = fit(
        *(
            *pretrained,
            "--seed_everything",
            "5",
            "--data.init_args.seed",
            "3",
            "--data.init_args.batch_size",
            "3",
        ),
        *("--model.init_args.encoder.init_args.drop_path_rate", "0.5"),
        experiment="mask",
    )
    assert encoded == []
    assert report(other)["encoded"] == 0
    assert len(caches()) == 1
    assert {report(run)["fingerprint"] for run in (first, other)} == {next(iter(caches())).name[9:]}

    more = fit(*pretrained, "--model.init_args.cache_features", "3")
    assert report(more)["encoded"] == 7  # the third view alone
    assert len(caches()) == 1


def test_what_changes_the_features_makes_another_cache(place):
    short = ["--trainer.max_steps", "1", "--trainer.val_check_interval", "1"]
    fit(*short)
    changes = [
        ["--seed_everything", "1"],  # other random weights
        ["--trainer.precision", "bf16-mixed"],
    ]  # tests/data/test_feature_store.py has what concerns the views
    for number, change in enumerate(changes, start=2):
        assert report(fit(*short, *change))["encoded"] == 14, change
        assert len(caches()) == number, change
    about = json.loads((next(iter(caches())) / "store.json").read_text())
    assert "may be deleted" in about["what"]


def test_a_killed_cache_build_resumes(place, monkeypatch, encoded):
    monkeypatch.setattr(feature_store, "PART_BYTES", 3 * 6700)  # 7 images in parts of 3, 3 and 1
    whole = fit()
    assert len(list(Path("cache").glob("features-*/view-*/*"))) == 6
    shutil.move(next(iter(caches())), "whole")

    write = FeatureStore.write

    def dying(self, part, items):
        if (part.view, part.first) == (1, 0):
            raise KilledError
        write(self, part, items)

    monkeypatch.setattr(FeatureStore, "write", dying)
    with pytest.raises(KilledError):
        fit()
    monkeypatch.setattr(FeatureStore, "write", write)
    monkeypatch.chdir(place)
    (torn,) = Path("cache").glob("features-*/view-000/part-00002.bin")
    torn.write_bytes(torn.read_bytes()[:-1])  # as a power failure may leave it
    (torn.parent / ".part-00001.bin.1").write_bytes(b"draft")
    encoded.clear()
    again = fit("--data.init_args.num_workers", "2")  # worker processes fill and read as one process does
    assert report(again)["encoded"] == sum(encoded) == 8  # the torn part's image, and view 1
    assert same(whole, again)
    for part in Path("whole").glob("view-*/*.bin"):
        assert part.read_bytes() == next(iter(caches())).joinpath(part.parent.name, part.name).read_bytes()


def test_who_comes_second_waits_and_encodes_nothing_twice(place, monkeypatch, capsys):
    fit("--trainer.max_steps", "1")
    (store,) = caches()
    made = sorted(store.glob("view-*"))
    for view in made:
        view.rename(place / view.name)
    other = FolderLock(store, "")
    other.acquire()

    def end(_):
        for view in made:
            (place / view.name).rename(view)
        other.release()

    monkeypatch.setattr("segbench.utils.lock.time.sleep", end)
    assert report(fit("--trainer.max_steps", "1"))["encoded"] == 0
    assert "waiting for `segbench" in (said := capsys.readouterr().err)
    assert f"to finish in {store.absolute()}" in said
    with FolderLock(store, ""):  # readers of what is whole need no lock
        assert report(fit("--trainer.max_steps", "1"))["encoded"] == 0


def test_a_damaged_part_ends_training_in_a_line_and_the_next_run_makes_it_again(place, capsys):
    fit("--trainer.max_steps", "1")
    (part,) = Path("cache").glob("features-*/view-000/*.bin")
    part.write_bytes(bytes(part.stat().st_size))
    with pytest.raises(SystemExit):
        fit("--data.init_args.num_workers", "1")
    assert "was damaged after it was written" in capsys.readouterr().err
    assert report(fit())["encoded"] == 7


def test_a_killed_training_resumes_to_the_same_weights(place, monkeypatch):
    whole = fit("--checkpoints.every_n_steps", "1")
    original = StepSeed.on_train_batch_start

    def kill(self, trainer, *args):
        if trainer.global_step == 5:  # in the second pass, whose views are the second ones
            raise KilledError
        original(self, trainer, *args)

    monkeypatch.setattr(StepSeed, "on_train_batch_start", kill)
    with pytest.raises(KilledError):
        fit("--checkpoints.every_n_steps", "1")
    monkeypatch.setattr(StepSeed, "on_train_batch_start", original)
    monkeypatch.chdir(place)
    (killed,) = set(Path("runs").glob("*/*")) - {whole}
    last = str(killed / "checkpoints" / "last.ckpt")
    main(["fit", "--config", str(killed / "config.yaml"), "--ckpt_path", last])
    assert same(whole, killed)
    assert losses(whole) == losses(killed)
    assert report(killed)["encoded"] == 0
    main(["test", "--checkpoint", last])  # needs no cache


def test_size_and_what_is_different_are_said(place, capsys):
    told = report(fit("--trainer.max_steps", "1"))
    said = capsys.readouterr().err
    assert "2 views of 7 images, 0.01 MB each, 0.09 MB in all, 0.09 MB of it still to be made" in said
    assert told["views"] == 2
    assert "2 views of each training image, the same for all seeds" in told["changes"]
    assert "16 bits" in told["changes"]
    assert told["bytes"] == sum(path.stat().st_size for path in Path("cache").glob("features-*/view-*/*"))
    assert report(fit("--trainer.max_steps", "1", "--model.init_args.cache_features", "0")) is None


def refuse(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    with pytest.raises(SystemExit) as stop:
        fit(*more)
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segbench: error: ")]
    return line


def test_mistakes_are_refused(place, capsys, monkeypatch):
    line = refuse(capsys, "--model.init_args.encoder.init_args.frozen", "false")
    assert "set encoder.init_args.frozen: true" in line
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 0, 100))
    line = refuse(capsys)
    assert "2 views of 7 images need 0.09 MB more" in line
    assert "0.00 MB are free" in line
    assert not list(Path("cache").glob("features-*/view-*"))


def task(cache_features: int) -> SemanticTask:
    return SemanticTask(
        lambda size: TimmViT(size, "test_vit", frozen=True),
        LinearDecoder,
        img_size=(32, 32),
        num_classes=2,
        class_names=["a", "b"],
        palette=[[0, 0, 0], [9, 9, 9]],
        cache_features=cache_features,
    )


def test_a_task_without_its_cache_does_not_train_in_silence():
    with pytest.raises(ValueError, match=r"cache_features: -1 .* 0 or more"):
        task(-1)
    batch = Batch(
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 32, 32, dtype=torch.uint8), ("a",)
    )
    with pytest.raises(ValueError, match="the batch comes without features"):
        task(2).training_step(batch, 0)
    with pytest.raises(ValueError, match="built in Python"):
        encoder_recipe(task(2))


def test_the_encoders_options_tell_where_no_weight_does():
    def fingerprint_fields(**options):
        built = task(2)
        built.hparams["_class_path"] = "x"
        built.hparams["encoder"] = {"class_path": "TimmViT", "init_args": {"depths": [0], **options}}
        return encoder_recipe(built)

    assert (
        fingerprint_fields(drop_path_rate=0.1, pretrained="a.pth")
        == fingerprint_fields(drop_path_rate=0.2)
        == fingerprint_fields()
    )
    assert fingerprint_fields(norm_eps=1e-3) != fingerprint_fields(norm_eps=1e-5)
    assert fingerprint_fields(depths=[1]) != fingerprint_fields()


def test_digest_sees_every_weight_and_buffer():
    module = torch.nn.BatchNorm2d(3)
    seen = {digest(module)}
    for tensor in (module.weight, module.bias, module.running_var, module.num_batches_tracked):
        with torch.no_grad():
            tensor.view(-1)[-1] += 1
        seen.add(digest(module))
    assert len(seen) == 5
    assert digest(module.bfloat16()) not in seen


@pytest.mark.slow
def test_two_processes_fill_and_share_one_cache(place, monkeypatch):
    fit("--trainer.max_steps", "1")
    shutil.move(next(iter(caches())), "alone")
    before = set(Path("runs").glob("*/*"))
    command = [sys.executable, "-m", "segbench", "fit", "--config", str(EXPERIMENTS / "linear.yaml")]
    options = ["--config", "tiny.yaml", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    subprocess.run([*command, *options], check=True, timeout=240, stdout=subprocess.DEVNULL)
    (both,) = set(Path("runs").glob("*/*")) - before
    assert report(both)["encoded"] == 7  # each process one of the two views
    for part in Path("alone").glob("view-*/*.bin"):
        assert part.read_bytes() == next(iter(caches())).joinpath(part.parent.name, part.name).read_bytes()
    assert losses(both)[-1] < losses(both)[0]
