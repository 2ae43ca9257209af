"""Checkpoints of strangers: read without running anything, and refused in one line."""

import doctest
import inspect
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from discovery import discover
from reference.tiny_tasks import hyper_parameters, write_checkpoint

import segbench
from segbench import data, decoders, encoders, losses, necks, optim, postprocess
from segbench.__main__ import main
from segbench.checkpoints import trust
from segbench.data.base import SegmentationDataModule
from segbench.decoders.base import Decoder
from segbench.encoders.base import Encoder
from segbench.losses.base import Loss
from segbench.necks.base import Neck
from segbench.optim.schedules import Schedule
from segbench.postprocess.base import PostProcessor
from segbench.tasks import base
from segbench.tasks.color import ColorTask
from segbench.tasks.semantic import SemanticTask

# A module that leaves a trace when it is imported, and more when it is called.
STRANGER = """
from pathlib import Path
Path("imported").touch()
from segbench.decoders.linear import LinearDecoder
def call(*args, **kwargs):
    Path("executed").touch()
class Theirs(LinearDecoder):
    pass
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("stranger.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("stranger", None)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("honest") / "model.ckpt", "linear")


def tamper(honest, **options):
    content = torch.load(honest)
    content["hyper_parameters"].update(options)
    torch.save(content, "evil.ckpt")
    return "evil.ckpt"


def test_non_finite_weights_are_refused(honest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = torch.load(honest)
    name = list(content["state_dict"])[-1]
    content["state_dict"][name].view(-1)[-1] = float("nan")
    torch.save(content, "diverged.ckpt")
    with pytest.raises(
        ValueError, match=rf"diverged.ckpt is unusable: {name} holds NaN .* take an earlier checkpoint"
    ):
        segbench.load("diverged.ckpt")


LINEAR = "segbench.decoders.linear.LinearDecoder"


@pytest.mark.parametrize(
    ("joint", "value", "expected"),
    [
        (
            "decoder",
            {"class_path": "os.system", "init_args": {"command": "touch executed"}},
            "none of segbench's",
        ),
        ("decoder", "stranger.call", "none of segbench's"),
        ("decoder", {"class_path": "stranger.Theirs"}, "none of segbench's"),
        ("decoder", {"class_path": "builtins.eval", "init_args": {"source": "1"}}, "none of segbench's"),
        ("decoder", {"class_path": "segbenchx.Decoder"}, "none of segbench's"),
        (
            "decoder",
            {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "x/y"}},
            "none of segbench's",
        ),
        ("decoder", {"class_path": "torch.nn.Linear"}, "none of segbench's"),
        ("decoder", {"class_path": "segbench.decoders.linear.nn.Linear"}, "leads out of segbench"),
        ("decoder", {"class_path": "segbench.utils.files.Path", "init_args": {}}, "leads out of segbench"),
        (
            "decoder",
            {"class_path": "segbench.cli.main", "init_args": {"args": ["fit"]}},
            "is not a known class",
        ),
        ("decoder", {"class_path": "segbench.something.else_again"}, "is not a known class"),
        ("decoder", {"class_path": "segbench.encoders.conv.ConvEncoder"}, "Decoder"),
        ("decoder", {"class_path": ["stranger.call"]}, "is damaged"),
        ("decoder", '{"class_path": "stranger.call"}', "is damaged"),
        (
            "decoder",
            {"class_path": LINEAR, "init_args": {"x": {"class_path": "stranger.call"}}},
            "none of segbench's",
        ),
        (
            "decoder",
            {"class_path": LINEAR, "init_args": {"x": '[{"class_path": "stranger.call"}]'}},
            "hides a class in text",
        ),
        (
            "decoder",
            {"class_path": LINEAR, "init_args": {"x": "- cl: {}\n  class_path: stranger.call"}},
            "hides a class in text",
        ),
        ("encoder", "stranger.call", "none of segbench's"),
        ("necks", ["stranger.call"], "none of segbench's"),
        ("necks", "stranger.call", "none of segbench's"),
        ("losses", [{"class_path": "stranger.call"}], "none of segbench's"),
        (
            "optimizer",
            {"class_path": "torch.optim.SGD", "init_args": {"lr": "stranger.call"}},
            "might import it",
        ),
        ("optimizer", {"class_path": "torch.optim.lr_scheduler.partial"}, "leads out of torch.optim"),
        ("schedule", "stranger.call", "none of segbench's"),
        ("postprocess", "stranger.call", "none of segbench's"),
        ("_class_path", "stranger.Theirs", "none of segbench's"),
        ("_class_path", "segbench.data.ade20k.ADE20K", "ADE20K"),
    ],
)
def test_nothing_of_a_stranger_is_imported_or_called(stranger, honest, joint, value, expected):
    with pytest.raises(ValueError, match=r"evil\.ckpt") as error:
        segbench.load(tamper(honest, **{joint: value}))
    assert expected in str(error.value)
    assert not Path("imported").exists()
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "transforms",
    [
        ["stranger.call"],
        [{"class_path": "stranger.call"}],
        '[{"class_path": "stranger.call"}]',
        [
            {
                "class_path": "albumentations.FDA",
                "init_args": {"reference_images": ["x"], "read_fn": "stranger.call"},
            }
        ],
        [{"class_path": "albumentations.Lambda", "init_args": {"image": "stranger.call"}}],
    ],
)
def test_nor_for_its_data(stranger, honest, transforms, capsys):
    import yaml

    content = torch.load(honest)
    config = {
        "seed_everything": 0,
        "experiment": "x",
        "model": {
            "class_path": "segbench.tasks.semantic.SemanticTask",
            "init_args": hyper_parameters("linear"),
        },
        "data": {
            "class_path": "segbench.data.synthetic.SyntheticDataModule",
            "init_args": {"num_classes": 3, "train_transforms": transforms},
        },
        "trainer": {"precision": None},
    }
    content["segbench"] = {"version": "0", "experiment": "x", "config": yaml.safe_dump(config)}
    torch.save(content, "evil.ckpt")
    with pytest.raises(SystemExit):
        main(["test", "--checkpoint", "evil.ckpt"])
    assert "evil.ckpt" in capsys.readouterr().err
    assert not Path("imported").exists()
    assert not Path("executed").exists()


def test_packages_of_the_users_own_are_trusted_by_name(stranger, honest, capsys):
    evil = tamper(honest, decoder={"class_path": "stranger.Theirs"})
    with pytest.raises(ValueError, match=r"allow it by --trust stranger \(trust=\[…\] in Python\)"):
        segbench.load(evil, trust=["another"])
    assert type(segbench.load(evil, trust=["stranger"]).decoder).__name__ == "Theirs"
    assert type(segbench.load(evil, trust="stranger").decoder).__name__ == "Theirs"
    for given in ("stranger", "[another, stranger]"):
        out = Path(f"{len(given)}.safetensors")
        command = ["export", "--checkpoint", evil, "--format", "safetensors", "--out", str(out)]
        main([*command, "--trust", given])
        assert out.is_file()
    with pytest.raises(SystemExit):
        main(["test", "--trust", "stranger"])
    assert "give --checkpoint CKPT" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is not a known class"):  # trusted, but still no function
        segbench.load(tamper(honest, decoder="stranger.call"), trust=["stranger"])
    assert not Path("executed").exists()


def test_every_argument_that_takes_a_class_is_known_to_be_one():
    """A bare string is a class path there. A new argument of this kind must join `CLASS_ARGUMENTS`."""
    rooms = [(encoders, Encoder), (necks, Neck), (decoders, Decoder), (losses, Loss), (optim, Schedule)]
    rooms += [(postprocess, PostProcessor), (data, SegmentationDataModule)]
    classes = [SemanticTask, ColorTask, *(one for room, contract in rooms for one in discover(room, contract))]
    assert len(classes) > 20
    for one in classes:
        for name, parameter in inspect.signature(one.__init__).parameters.items():
            written = str(parameter.annotation)
            if any(sign in written for sign in ("Callable", "type[", "Any", "albumentations", "Transform")):
                assert name in trust.CLASS_ARGUMENTS, f"{one.__name__}({name})"


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_files_of_other_kinds(stranger, honest, capsys):
    Path("poisoned.ckpt").write_bytes(pickle.dumps({"state_dict": {}, "hyper_parameters": Bomb()}))
    torch.save({"state_dict": {}, "hyper_parameters": {"x": Bomb()}}, "zipped.ckpt")
    Path("half.ckpt").write_bytes(honest.read_bytes()[: honest.stat().st_size // 2])
    Path("empty.ckpt").touch()
    with zipfile.ZipFile("other.ckpt", "w") as archive:
        archive.writestr("letter.txt", "no weights here")
    torch.save([1, 2], "list.ckpt")
    torch.save({"state_dict": [], "hyper_parameters": {}}, "lists.ckpt")
    torch.save({"state_dict": {"a": 1}, "hyper_parameters": {"_class_path": "x"}}, "numbers.ckpt")
    for file in sorted(Path().glob("*.ckpt")):
        before = file.read_bytes()
        with pytest.raises(SystemExit) as stop:
            main(["export", "--checkpoint", str(file), "--format", "safetensors", "--out", "out.safetensors"])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith(f"segbench: error: {file.name} is ")
        assert error.count("\n") == 1
        assert file.read_bytes() == before
    assert not Path("executed").exists()
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda content: content["state_dict"].update(extra=torch.ones(1)), "1 unknown ['extra']"),
        (
            lambda content: content["state_dict"].pop("decoder.head.bias"),
            "1 weights missing ['decoder.head.bias']",
        ),
        (lambda content: content["hyper_parameters"].update(num_classes=150), "150 classes, but 3 class names"),
        (lambda content: content["hyper_parameters"].update(img_size=[-1, 2]), "its model cannot be built"),
        (lambda content: content["hyper_parameters"].update(nonsense=1), "nonsense"),
        (
            lambda content: content["hyper_parameters"].pop("_class_path"),
            "does not say how its model was built",
        ),
    ],
)
def test_weights_and_configuration_that_do_not_fit(stranger, honest, capsys, change, expected):
    content = torch.load(honest)
    change(content)
    torch.save(content, "odd.ckpt")
    with pytest.raises(SystemExit):
        main(["export", "--checkpoint", "odd.ckpt", "--format", "safetensors", "--out", "out.safetensors"])
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not Path("out.safetensors").exists()


def test_examples_in_the_documentation(honest):
    runner = doctest.DocTestRunner()
    known = {"segbench": segbench, "checkpoint": honest, "torch": torch, "task": segbench.load(honest)}
    found = 0
    for thing in (segbench.load, base.Task.logits, base.Task.segment):
        for test in doctest.DocTestFinder().find(thing, globs=known):
            found += len(test.examples)
            runner.run(test)
    assert found >= 7
    assert runner.failures == 0


def test_optimisers_of_torch_are_trusted(stranger, honest):
    content = torch.load(honest)
    assert "optimizer" not in content["hyper_parameters"]
    content["hyper_parameters"]["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}
    torch.save(content, "adamw.ckpt")
    segbench.load("adamw.ckpt")


@pytest.mark.parametrize("value", [torch.empty(3, device="meta"), torch.zeros(3).to_sparse(), "text"])
def test_weights_that_are_no_numbers(tmp_path, honest, value):
    content = torch.load(honest)
    content["state_dict"]["decoder.head.bias"] = value
    torch.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"is damaged: weight 'decoder.head.bias' is a \w+, not plain numbers"):
        segbench.load(tmp_path / "evil.ckpt")
