"""Every way known to have jsonargparse import a class that a stranger names; none may reach his module."""

import json
import shutil
import sys
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from reference.tiny_tasks import hyper_parameters, write_checkpoint

import segbench
from segbench.__main__ import main
from segbench.checkpoints.reading import build_task, model_config, read_checkpoint, run_config, saved_config
from segbench.checkpoints.safetensors_file import write_safetensors
from segbench.training.resume import check_own, remember

EVIL = "evilmod.Evil"
LINEAR = "segbench.decoders.linear.LinearDecoder"
SGD = "torch.optim.SGD"
SPEC = {"class_path": EVIL}
CODE = """
from pathlib import Path
Path("imported").touch()
from segbench.decoders.linear import LinearDecoder
class Evil(LinearDecoder):
    def __init__(self, *args, **kwargs):
        Path("executed").touch()
        super().__init__(*args, **kwargs)
def call(*args, **kwargs):
    Path("executed").touch()
"""
FILES = {
    "evilconf": f"class_path: {EVIL}\n",
    "evil.yaml": f"class_path: {EVIL}\n",
    "evil.json": json.dumps(SPEC),
    "list.yaml": f"- class_path: {EVIL}\n",
    "names": f"{EVIL}\n",
    LINEAR: f"class_path: {EVIL}\n",  # a file of a trusted name
    SGD: f"class_path: {EVIL}\n",
}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A folder as somebody who unpacked a download finds it, the stranger's module beside the checkpoint."""
    monkeypatch.chdir(tmp_path)
    Path("evilmod.py").write_text(CODE)
    for name, text in FILES.items():
        Path(name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert not Path("imported").exists()
    assert not Path("executed").exists()
    assert "evilmod" not in sys.modules
    sys.modules.pop("evilmod", None)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("honest") / "model.ckpt", "linear")


def linear(**more):
    return {"decoder": {"class_path": LINEAR, **more}}


def sgd(**options):
    return {"optimizer": {"class_path": SGD, "init_args": {"lr": 0.1, **options}}}


# What hyper_parameters are updated with; each was tried against jsonargparse alone.
SPELLINGS = {
    "dotted key": {"decoder.class_path": EVIL},
    "dotted key of the class": {"class_path": EVIL},
    "dotted key, deeper": {"decoder.init_args.class_path": EVIL},
    "dotted key in a class": linear(**{"init_args.class_path": EVIL}),
    "dotted key in arguments": linear(init_args={"x.class_path": EVIL}),
    "dotted key in a list": {"necks": [{"a.class_path": EVIL}]},
    "appended": {"necks+": EVIL},
    "appended list": {"losses+": [SPEC]},
    "appended to a class": {"decoder+": SPEC},
    "appended class path": linear(**{"class_path+": EVIL}),
    "appended in arguments": linear(init_args={"x+": SPEC}),
    "space in the key": {"decoder ": SPEC},
    "option as key": {"--decoder": SPEC},
    "text of JSON": {"decoder": json.dumps(SPEC)},
    "text of YAML": {"decoder": f"class_path: {EVIL}"},
    "text of YAML, folded": {"decoder": f"? class_path\n: {EVIL}\n"},
    "text of a list": {"necks": json.dumps([SPEC])},
    "text in a list": {"necks": [json.dumps(SPEC)]},
    "text with tabs": {"decoder": '{\t"class_path":\t"evilmod.Evil"}'},
    "text with escapes": {"decoder": '{"\\u0063lass_path": "evilmod.Evil"}'},
    "text with an anchor": {"decoder": "{a: &x {class_path: evilmod.Evil}, <<: *x}"},
    "a file": {"decoder": "evilconf"},
    "a file of YAML": {"decoder": "evil.yaml"},
    "a file of JSON": {"encoder": "evil.json"},
    "a file of a list": {"necks": "list.yaml"},
    "a file in a list": {"necks": ["evilconf"]},
    "a list of names": {"losses": "names"},
    "a file by its path": {"decoder": "./evilconf"},
    "a file by an address": {"decoder": "file://evilconf"},
    "arguments from a file": linear(init_args="evilconf"),
    "arguments as text": linear(init_args=json.dumps(SPEC)),
    "arguments as a list": linear(init_args=[SPEC]),
    "arguments with a class": linear(init_args=SPEC),
    "arguments with a part": linear(init_args={"x": SPEC}),
    "arguments with a text": linear(init_args={"x": json.dumps(SPEC)}),
    "arguments with text in text": linear(init_args={"x": json.dumps({"y": json.dumps(SPEC)})}),
    "further arguments": linear(dict_kwargs={"x": SPEC}),
    "further arguments as text": linear(dict_kwargs={"x": json.dumps(SPEC)}),
    "further arguments with a class": linear(dict_kwargs=SPEC),
    "a configuration beside": linear(config="evilconf"),
    "a path beside": linear(__path__="evilconf"),
    "a schema beside": linear(**{"$schema": "evilconf"}),
    "a configuration of the model": {"config": "evilconf"},
    "defaults": {"__default_config__": "evilconf"},
    "the original": {"__orig__": SPEC},
    "a list as class path": {"decoder": {"class_path": ["evilmod", "Evil"]}},
    "a class as class path": {"decoder": {"class_path": SPEC}},
    "blanks around": {"decoder": {"class_path": f" {EVIL} "}},
    "a line break": {"decoder": {"class_path": f"{EVIL}\n"}},
    "two names": {"decoder": {"class_path": f"{LINEAR},{EVIL}"}},
    "a colon": {"decoder": {"class_path": "evilmod:Evil"}},
    "a relative name": {"decoder": {"class_path": ".evilmod.Evil"}},
    "a wide dot": {"decoder": {"class_path": "evilmod．Evil"}},
    "an invisible letter": {"decoder": {"class_path": "segbench\u200b.decoders"}},
    "a near name": {"decoder": {"class_path": "segbenchx.Evil"}},
    "through segbench": {"decoder": {"class_path": "segbench.cli.sys.modules.evilmod"}},
    "out of segbench": {"decoder": {"class_path": "segbench.cli.os.system", "init_args": {"command": "id"}}},
    "a function of segbench": {"decoder": {"class_path": "segbench.cli.main", "init_args": {"args": []}}},
    "private": {"decoder": {"class_path": "segbench.__main__.Path"}},
    "another kind of class": {"decoder": {"class_path": "segbench.callbacks.panels.Panels"}},
    "a tuple of segbench": {"decoder": {"class_path": "segbench.types.Features"}},
    "the encoder": {"encoder": SPEC},
    "a neck": {"necks": [SPEC]},
    "a loss by name": {"losses": [EVIL]},
    "a schedule": {"schedule": SPEC},
    "a schedule of functions": {
        "schedule": {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "os.getpid"}}
    },
    "no optimiser": {"optimizer": {"class_path": "torch.optim.swa_utils.AveragedModel"}},
    "a function of torch": {"optimizer": {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "x/y"}}},
    "torch's compiler": {"optimizer": {"class_path": "torch.utils.cpp_extension.load"}},
    "torch's unpickler": {"optimizer": {"class_path": "torch.load", "init_args": {"f": "evilconf"}}},
    "an optimiser's argument": sgd(momentum=SPEC),
    "an optimiser's argument as text": sgd(momentum=json.dumps(SPEC)),
    "an optimiser's argument by name": sgd(momentum=EVIL),
    "an optimiser's argument as a file": sgd(momentum="evilconf"),
    "an object of YAML": sgd(momentum="!!python/object/apply:evilmod.call []"),
    "post-processing": {"postprocess": SPEC},
    "the task": {"_class_path": EVIL},
    "the task as a class": {"_class_path": SPEC},
    "the task as text": {"_class_path": json.dumps(SPEC)},
    "a number as text": {"num_classes": json.dumps(SPEC)},
    "a size as text": {"window": json.dumps(SPEC)},
    "a size as a class": {"window": SPEC},
    "names as text": {"class_names": json.dumps([SPEC])},
    "a name as text": {"class_names": [json.dumps(SPEC), "b", "c"]},
    "an unknown argument": {"further": SPEC},
    "a model from a hub": {
        "encoder": {
            "class_path": "segbench.encoders.timm_vit.TimmViT",
            "init_args": {"model_name": "hf-hub:x/y"},
        }
    },
    "a model from a folder": {
        "encoder": {
            "class_path": "segbench.encoders.timm_cnn.TimmCNN",
            "init_args": {"model_name": "local-dir:."},
        }
    },
}


def write(path, honest, **changes):
    content = torch.load(honest)
    content["hyper_parameters"].update(changes)
    torch.save(content, path)


def build(changes):
    """Builds what a checkpoint of these hyper_parameters would have `segbench.load` build."""
    return build_task(model_config({"hyper_parameters": hyper_parameters("linear", **changes)}), "evil.ckpt")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_reaches_a_strangers_module(evil, spelling):
    with pytest.raises(ValueError, match=r"evil\.ckpt") as error:
        build(SPELLINGS[spelling])
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    "spelling", ["dotted key", "appended", "text of JSON", "a file", "arguments with a part"]
)
@pytest.mark.parametrize("carrier", ["ckpt", "safetensors", "folder"])
def test_nor_in_a_file_of_any_kind(evil, honest, spelling, carrier, capsys):
    content = torch.load(honest)
    content["hyper_parameters"].update(SPELLINGS[spelling])
    file = Path(f"evil.{carrier}")
    if carrier == "safetensors":
        write_safetensors(file, content)
    if carrier == "ckpt":
        torch.save(content, file)
    if carrier == "folder":
        clean = Path("model")
        clean.mkdir()
        write_safetensors(clean / "model.safetensors", torch.load(honest))  # what is evil stands in config.json
        (clean / "config.json").write_text(json.dumps({"hyper_parameters": content["hyper_parameters"]}))
        file = clean
    Path("photo.ppm").write_bytes(b"P6 2 2 255\n" + bytes(12))
    with pytest.raises(SystemExit) as stop:
        main(["segment", "--checkpoint", str(file), "photo.ppm", "--out", "out"])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"segbench: error: {file}")
    assert told.count("\n") == 1


TRANSFORMS = {
    "by name": ["evilmod.Evil"],
    "by class": [SPEC],
    "as text": json.dumps([SPEC]),
    "from a file": "list.yaml",
    "from a file in a list": ["evilconf"],
    "a function": [{"class_path": "evilmod.call"}],
    "albumentations' own format": [{"__class_fullname__": EVIL, "init_args": {}}],
    "albumentations' reader": [
        {
            "class_path": "albumentations.from_dict",
            "init_args": {"transform_dict": {"__class_fullname__": EVIL}},
        }
    ],
    "albumentations' loader": [{"class_path": "albumentations.load", "init_args": {"filepath_or_buffer": "x"}}],
    "albumentations' registry": [{"class_path": "albumentations.core.serialization.SerializableMeta"}],
    "no transform": [{"class_path": "albumentations.BboxParams", "init_args": {"format": "coco"}}],
    "within": [{"class_path": "albumentations.Compose", "init_args": {"transforms": [SPEC]}}],
    "within, by name": [{"class_path": "albumentations.Compose", "init_args": {"transforms": [EVIL]}}],
    "within, from a file": [
        {"class_path": "albumentations.Compose", "init_args": {"transforms": ["evilconf"]}}
    ],
    "within, as text": [
        {"class_path": "albumentations.Compose", "init_args": {"transforms": json.dumps([SPEC])}}
    ],
    "boxes from a file": [
        {"class_path": "albumentations.Compose", "init_args": {"transforms": [], "bbox_params": "evilconf"}}
    ],
    "boxes": [{"class_path": "albumentations.Compose", "init_args": {"transforms": [], "bbox_params": SPEC}}],
    "a function to read": [
        {
            "class_path": "albumentations.FDA",
            "init_args": {"reference_images": ["x"], "read_fn": "evilmod.call"},
        }
    ],
    "functions": [{"class_path": "albumentations.Lambda", "init_args": {"image": "evilmod.call"}}],
    "functions of Python": [{"class_path": "albumentations.Lambda", "init_args": {"image": "builtins.eval"}}],
}


def with_config(honest, **data):
    """A checkpoint that carries the configuration of its run."""
    init_args = hyper_parameters("linear")
    model = {"class_path": init_args.pop("_class_path"), "init_args": init_args}
    for key in ("num_classes", "class_names", "palette", "img_size"):
        init_args.pop(key)
    config = {
        "seed_everything": 0,
        "experiment": "x",
        "model": model,
        "data": {"class_path": "segbench.data.synthetic.SyntheticDataModule", "init_args": {"num_classes": 3}},
        "trainer": {"precision": None},
    }
    config.update(data)
    content = torch.load(honest)
    content["segbench"] = {"version": "0", "experiment": "x", "config": yaml.safe_dump(config)}
    torch.save(content, "evil.ckpt")
    return config


def test_an_honest_configuration_is_taken(evil, honest):
    config = with_config(honest)
    assert run_config(read_checkpoint("evil.ckpt"), "evil.ckpt")["data"] == config["data"]


def test_names_of_merged_classes_may_hold_any_sign(evil, honest):
    merge = {"road.asphalt + 'curb'": ["road", "curb"], "3.5 m": ["lane"], "_a": ["b"], "": ["c"]}
    data = {
        "class_path": "segbench.data.folder.FolderDataModule",
        "init_args": {"root": "x", "img_size": [32, 32], "merge": merge},
    }
    with_config(honest, data=data)
    assert run_config(read_checkpoint("evil.ckpt"), "evil.ckpt")["data"]["init_args"]["merge"] == merge


def test_what_is_built_from_no_checkpoint_may_have_any_keys(evil, honest):
    wandb = {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"config": {"a.b": {"c d": 1}}},
    }
    config = with_config(honest, trainer={"precision": None, "logger": wandb})
    checkpoint = read_checkpoint("evil.ckpt")
    assert saved_config(checkpoint, "evil.ckpt")["trainer"] == config["trainer"]
    assert run_config(checkpoint, "evil.ckpt")["trainer"] == {"precision": None}
    for changes in (
        {"trainer": {"precision": {"a.class_path": "evilmod.Evil"}}},
        {"trainer": {"precision": None}, "experiment": {"a.class_path": "evilmod.Evil"}},
    ):
        with_config(honest, **changes)
        with pytest.raises(
            ValueError, match=r"evil.ckpt is refused: .* the key a.class_path, not a plain name"
        ):
            run_config(read_checkpoint("evil.ckpt"), "evil.ckpt")


@pytest.mark.parametrize(
    "merge",
    [
        {"a.class_path": ["x"]},
        {"a.b": SPEC},
        {"a.b": [SPEC]},
        {"a.b": "evil.yaml"},
        {"init_args.callbacks": [EVIL]},
        {"\x1b[2J": ["x"]},
    ],
)
def test_but_spell_nothing_else(evil, honest, merge):
    folder = {"class_path": "segbench.data.folder.FolderDataModule", "init_args": {"root": "x", "merge": merge}}
    with_config(honest, data=folder)
    with pytest.raises(ValueError, match=r"evil\.ckpt is refused"):
        run_config(read_checkpoint("evil.ckpt"), "evil.ckpt")


@pytest.mark.parametrize("spelling", TRANSFORMS)
def test_no_spelling_in_the_configuration_of_data_does_either(evil, honest, spelling):
    options = {"num_classes": 3, "train_transforms": TRANSFORMS[spelling]}
    with_config(
        honest,
        data={"class_path": "segbench.data.synthetic.SyntheticDataModule", "init_args": options},
    )
    with pytest.raises(ValueError, match=r"evil\.ckpt"):
        run_config(read_checkpoint("evil.ckpt"), "evil.ckpt")


SYNTHETIC = "segbench.data.synthetic.SyntheticDataModule"


@pytest.mark.parametrize(
    "changes",
    [
        {"data": SPEC},
        {"data": "evil.yaml"},
        {"data": {"class_path": SYNTHETIC, "init_args": {"train_transforms+": [SPEC]}}},
        {"data": {"class_path": SYNTHETIC, "init_args": "evil.yaml"}},
        {"model": SPEC},
        {"model": "evilconf"},
        {"model": {"class_path": "segbench.tasks.semantic.SemanticTask", "config": "evilconf"}},
        {"seed_everything": json.dumps(SPEC)},
        {"experiment": SPEC},
        {"trainer": {"precision": {"class_path": EVIL}}},
        {"trainer": {"precision": json.dumps(SPEC)}},
    ],
)
def test_nor_elsewhere_in_it(evil, honest, changes, capsys):
    with_config(honest, **changes)
    with pytest.raises(SystemExit) as stop:
        main(["test", "--checkpoint", "evil.ckpt"])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("segbench: error: evil.ckpt")
    assert told.count("\n") == 1


@pytest.mark.parametrize("value", [[OrderedDict(class_path=EVIL)], (EVIL,), [EVIL]])
def test_values_that_are_nearly_plain_are_seen_through(evil, value):
    with pytest.raises(ValueError, match="none of segbench's"):
        build({"necks": value})


def test_what_jsonargparse_finds_behind_the_check_is_not_imported_either(evil, monkeypatch):
    """The walls hold singly: without the check of spellings, jsonargparse still imports nothing unknown."""
    monkeypatch.setattr("segbench.checkpoints.reading.check_trust", lambda config, *_: config)
    monkeypatch.setattr("segbench.checkpoints.reading.plain", lambda value, _: value)
    for changes in SPELLINGS.values():  # some mean nothing to jsonargparse, which is as well
        with suppress(ValueError, TypeError, AttributeError):
            build(changes)


def test_the_policy_of_imports_is_what_it_was_afterwards(evil, honest):
    from jsonargparse import _common

    before = dict(_common.parsing_settings)
    segbench.load(honest)
    with pytest.raises(ValueError, match="none of segbench's"):
        build({"decoder": SPEC})
    assert _common.parsing_settings == before


def test_a_package_that_is_trusted_may_take_its_classes_from_elsewhere(tmp_path, monkeypatch, honest):
    monkeypatch.chdir(tmp_path)
    Path("trusted_parts.py").write_text(
        "from segbench.decoders.linear import LinearDecoder\nclass Mine(LinearDecoder):\n    pass\n"
    )
    Path("trusted_decoders.py").write_text("from trusted_parts import Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    write("mine.ckpt", honest, decoder={"class_path": "trusted_decoders.Mine"})
    assert type(segbench.load("mine.ckpt", trust="trusted_decoders").decoder).__name__ == "Mine"
    with pytest.raises(ValueError, match="--trust trusted_decoders"):
        segbench.load("mine.ckpt", trust="trusted_parts")


@pytest.fixture
def run(evil, honest):
    """A run folder as a stranger would hand it on, its checkpoint and its configuration alike."""
    folder = Path("theirs")
    (folder / "checkpoints").mkdir(parents=True)

    def write_run(**changes):
        config = with_config(honest, **changes)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        shutil.move("evil.ckpt", folder / "checkpoints" / "last.ckpt")
        return str(folder)

    return write_run


LAMBDA = {
    "class_path": "lightning.pytorch.callbacks.LambdaCallback",
    "init_args": {"on_fit_start": "evilmod.call"},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer": {"precision": None, "callbacks": [SPEC]}},
        {"trainer": {"precision": None, "callbacks": [EVIL]}},
        {"trainer": {"precision": None, "callbacks": "evilconf"}},
        {"trainer": {"precision": None, "callbacks+": SPEC}},
        {"trainer": {"precision": None, "callbacks": [LAMBDA]}},
        {"trainer": {"precision": None, "logger": SPEC}},
        {"trainer": {"precision": None, "logger": "evil.yaml"}},
        {"trainer": {"precision": None, "strategy": EVIL}},
        {"trainer": {"precision": None, "plugins": [json.dumps(SPEC)]}},
        {"trainer": {"precision": None, "profiler": {"class_path": "subprocess.Popen"}}},
        {"config": "evil.yaml"},
        {"model": SPEC},
        {"data": {"class_path": "segbench.data.synthetic.SyntheticDataModule.evil", "init_args": {}}},
    ],
)
def test_resuming_a_strangers_run_runs_nothing_of_it(run, changes, capsys):
    folder = run(**changes)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--resume", folder])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"segbench: error: {Path(folder, 'config.yaml')}")
    assert told.count("\n") == 1
    assert f"if this is your own run, resume by --config {folder}/config.yaml --ckpt_path " in told


def test_a_run_that_was_begun_here_may_name_what_it_likes(run, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    config = Path(run(trainer={"precision": None, "callbacks": [SPEC]}), "config.yaml")
    with pytest.raises(
        ValueError, match=r"config.yaml is built with evilmod.Evil, .* allow it by --trust evilmod"
    ):
        check_own(config, [])
    remember(config.read_text(), config)
    check_own(config, [])
    note = next((tmp_path / "cache" / "own_runs").iterdir())
    note.chmod(0o666)  # anybody could have made it
    with pytest.raises(ValueError, match="evilmod"):
        check_own(config, [])
    note.chmod(0o600)
    config.write_text(config.read_text() + "# changed\n")
    with pytest.raises(ValueError, match="evilmod"):
        check_own(config, [])


def test_a_run_of_known_parts_needs_no_note(run, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    stopping = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "val/miou"},
    }
    board = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": str(tmp_path)},
    }
    trainer = {"precision": "bf16-mixed", "strategy": "auto", "callbacks": [stopping], "logger": board}
    config = Path(run(trainer=trainer | {"default_root_dir": "."}))  # folders that are there, as after any run
    remember((config / "config.yaml").read_text(), config / "config.yaml")
    assert not (tmp_path / "cache").exists()
    check_own(config / "config.yaml", [])
