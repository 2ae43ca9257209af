"""Common mistakes on the command line and in YAML: one line with path, reason and fix."""

import re
from pathlib import Path

import pytest
import yaml
from tiny import overlay, vit

from segbench.__main__ import main

CONFIG = yaml.safe_load(overlay({}, {"encoder": vit()}, max_steps=2)) | {}
CONFIG["model"] |= {"class_path": "segbench.tasks.semantic.SemanticTask"}
CONFIG["model"]["init_args"] |= {"decoder": {"class_path": "segbench.decoders.linear.LinearDecoder"}}
CONFIG["model"]["init_args"]["encoder"] |= {"class_path": "segbench.encoders.timm_vit.TimmViT"}
FOLDER = "segbench.data.folder.FolderDataModule"
OPTIMIZER = "model.init_args.optimizer.init_args"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def refuse(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Runs a command that must fail with one line before a run folder exists, and returns the line."""
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segbench: error: ")]
    assert len(errors) == 1
    line = errors[0].removeprefix("segbench: error: ").partition(" [SEGBENCH_TRACEBACK")[0]
    for raw in ("typing.", "Union", "<class", "Parser key", "Namespace", "NestedArg", "\x02", "Traceback"):
        assert raw not in line
    assert len(re.findall("did you mean", line)) <= 1
    assert not Path("runs").exists()
    return line


# Unknown options: misspelt ones at any depth, and names of other tools.
OPTIONS = {
    "--model.init_args.decodr x": "model.init_args.decodr: unknown option; did you mean decoder",
    "--data.init_args.img_sze [3,3]": "data.init_args.img_sze: unknown option; did you mean img_size",
    "--data.init_args.batchsize 3": "did you mean batch_size?",
    "--model.init_args.encoder.init_args.model x": "did you mean model_name?",
    "--model.init_args.optimizer.init_args.learning_rate 1": "did you mean lr?",
    "--trainer.max_stps 3": "did you mean --trainer.max_steps",
    "--trainr.max_steps 3": "did you mean --trainer.max_steps?",
    "-config x": "did you mean --config?",
    "--resme x": "did you mean --resume?",
    "--lr 1": f"did you mean --{OPTIMIZER}.lr?",
    "--learning_rate 1": f"did you mean --{OPTIMIZER}.lr?",
    "--learning-rate=1": f"did you mean --{OPTIMIZER}.lr?",
    "--optimizer.lr 1": f"did you mean --{OPTIMIZER}.lr?",
    "--model.init_args.lr 1": "did you mean optimizer.init_args.lr?",
    "--batch_size 4": "did you mean --data.init_args.batch_size?",
    "--batch-size 4": "did you mean --data.init_args.batch_size?",
    "--max_steps 4": "did you mean --trainer.max_steps?",
    "--epochs 4": "did you mean --trainer.max_epochs?",
    "--gpus 4": "did you mean --trainer.devices?",
    "--seed 4": "unknown option --seed; did you mean --seed_everything?",
    "--workers 4": "did you mean --data.init_args.num_workers?",
    "--data_dir x": "did you mean --data.init_args.root?",
    "--output x": "did you mean --runs_dir?",
    "--resume_from x": "did you mean --resume RUN?",
    "--fp16": "did you mean --trainer.precision 16-mixed?",
    "--wandb": "did you mean --logger wandb?",
    "--decoder linear": "did you mean --model.init_args.decoder?",
    "--quux 1": "unknown option --quux; `segbench fit --help` lists the options",
    "--trainer.max_step 3": "unknown option --trainer.max_step; did you mean --trainer.max_steps?",
    "--trainer.max_steps": "--trainer.max_steps needs a value",
    "mine.yaml": "write --config mine.yaml",
    "--model.init_args.decoder.help LinearDecoder": "`segbench fit --help` lists the options of every class",
}


@pytest.mark.parametrize("words", OPTIONS)
def test_unknown_option_suggests_the_closest(tiny, capsys, words):
    assert OPTIONS[words] in refuse(capsys, "fit", "--config", "tiny.yaml", *words.split())


# Values of the wrong type, and unknown classes and choices.
VALUES = {
    "model.init_args.decoder=linear": "unknown class 'linear'; did you mean LinearDecoder? "
    "Decoder classes are AttentionUNet, LinearDecoder, MaskTransformer, ",
    "model.init_args.decoder=mask": "did you mean MaskTransformer?",
    "model.init_args.decoder=unet": "did you mean PatchUNet or AttentionUNet?",
    "model.init_args.decoder=segbench.decoders.linar.LinearDecoder": "did you mean LinearDecoder?",
    "model.init_args.decoder=Poly": "unknown class 'Poly'; Decoder classes are ",
    "model.init_args.decoder=segbench.optim.schedules.Poly": "Poly is not one of the Decoder",
    "model.init_args.optimizer=adamw": "unknown class 'adamw'; did you mean AdamW?",
    "model.init_args.schedule=cosine": "did you mean Cosine? Schedule classes are Cosine, Poly",
    "model.init_args.losses=[dice]": "unknown class 'dice'; did you mean Dice?",
    "model.init_args.losses=Dice": "give a list of Loss classes",
    "model.init_args.losses=[{class_path: Dice, init_args: {wight: 2}}]": "init_args.wight: unknown option; "
    "did you mean weight?",
    "model.class_path=semantic": "model: unknown class 'semantic'; did",
    "checkpoints=null": "checkpoints: give its options one by one, as in --checkpoints.NAME VALUE",
    "model=semantic": "did you mean SemanticTask?",
    "data=folder": "did you mean FolderDataModule?",
    "trainer.callbacks+=EarlyStoping": "did you mean EarlyStopping?",
    "trainer.callbacks=EarlyStopping": "trainer.callbacks[].init_args.monitor: needs a value",
    "trainer.precision=fp16": "got fp16; did you mean 16-mixed?",
    "trainer.precision=float32": "did you mean 32-true?",
    "trainer.max_steps=1e3": "trainer.max_steps: give a whole number; got 1000.0; write 1000",
    "trainer.max_steps=many": "trainer.max_steps: give a whole number; got many",
    f"{OPTIMIZER}.lr=fast": f"{OPTIMIZER}.lr: give a number; got fast",
    "data.init_args.img_size=96": "data.init_args.img_size: give two whole numbers, as in [96, 96]; got 96",
    "model.init_args.window=100.5": "give a whole number or two whole numbers, as in [1, 1] or null; got 100.5",
    "model.init_args.resize=512": "give two whole numbers, as in [512, 512] or null; got 512",
    "model.init_args.small_images=enlarg": "give one of enlarge, whole; got enlarg; did you mean enlarge?",
    "logger=wandbb": "did you mean wandb?",
    "seed_everything=x": "seed_everything: give true or false or a whole number; got x",
    # null for options that require a value
    "model.init_args.decoder=null": "model.init_args.decoder: needs a value",
    "model.init_args.optimizer=null": "model.init_args.optimizer: give a class of kind Optimizer; got null",
    "model.init_args.schedule=null": "give a class of kind Schedule, such as Cosine, Poly; got null",
    "model.init_args.encoder.init_args.model_name=null": "encoder.init_args.model_name: give text; got null",
    "model.init_args.flip=null": "give true or false; got null",
    "data.init_args.batch_size=null": "data.init_args.batch_size: give a whole number; got null",
    "logger=null": "logger: give one of csv, tensorboard, wandb; got null",
    # options of the trainer
    "trainer.accelerator=gpus": "unknown accelerator 'gpus'; did you mean gpu?",
    "trainer.strategy=dpp": "unknown strategy 'dpp'; did you mean ddp?",
    "trainer.devices=two": "give auto, a number from 1, or a list of devices as in [0, 1]; got two",
    "trainer.devices=[0, 1]": "on the CPU give a number of processes",
}


@pytest.mark.parametrize("word", VALUES)
def test_refused_value_lists_accepted_values(tiny, capsys, word):
    assert VALUES[word] in refuse(capsys, "fit", "--config", "tiny.yaml", f"--{word}")


def test_missing_accelerator_suggests_the_cpu(tiny, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("lightning.pytorch.accelerators.cuda.CUDAAccelerator.is_available", lambda: False)
    monkeypatch.setattr("lightning.pytorch.accelerators.mps.MPSAccelerator.is_available", lambda: False)
    for name in ("gpu", "cuda", "mps"):
        line = refuse(capsys, "fit", "--config", "tiny.yaml", "--trainer.accelerator", name)
        assert f"{name} is asked for" in line
        assert "--trainer.accelerator cpu" in line


# In files: with the file and line of the value, whichever file it is.
FILES = {
    "model:\n  init_args:\n    decodr: x\n": "decodr: unknown option; did you mean decoder",
    "trainer:\n  # a comment\n  max_stps: 3\n": "did you mean trainer.max_steps",
    "trainer:\n\n  max_steps: 1e3\n": "write 1000",
    "model:\n  init_args:\n    optimizer: null\n": "give a class of kind Optimizer; got null",
    "data:\n  init_args:\n    img_size: 96\n": "as in [96, 96]",
    "model:\n  init_args:\n    losses: [dice]\n": "did you mean Dice?",
}


@pytest.mark.parametrize("text", FILES)
@pytest.mark.parametrize("last", [True, False])
def test_refused_value_in_a_file_has_file_and_line(tiny, capsys, text, last):
    Path("mine.yaml").write_text(text)
    Path("other.yaml").write_text("trainer:\n  min_steps: 1\n")
    names = ["tiny.yaml", "other.yaml", "mine.yaml"] if last else ["tiny.yaml", "mine.yaml", "other.yaml"]
    line = refuse(capsys, "fit", *(word for name in names for word in ("--config", name)))
    assert FILES[text] in line
    assert line.endswith("(mine.yaml, line 3)")


def test_invalid_yaml_has_file_and_line(tiny, capsys):
    Path("mine.yaml").write_text("trainer:\n\tmax_steps: 3\n")
    for option in ("--config", "-c", "--overlay"):
        line = refuse(capsys, "fit", "--config", "tiny.yaml", option, "mine.yaml")
        assert line == "mine.yaml, line 2: a tab; indent with spaces"
    assert "mine.yaml, line 2" in refuse(capsys, "fit", "--config=mine.yaml")
    assert "mine.yaml, line 2" in refuse(capsys, "doctor", "--config", "mine.yaml")
    assert "mine.yaml, line 2" in refuse(capsys, "sweep", "mine.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer:\n  max_steps: 3\n  max_steps: 5\n", "line 3: 'max_steps' is given twice, first in line 2"),
        ("- a\n- b\n", "contains a list only; a configuration has keys, such as model, data and trainer"),
        ("word\n", "contains text only"),
        ("", "is empty"),
    ],
)
def test_file_without_a_configuration_is_refused(tiny, capsys, text, expected):
    Path("mine.yaml").write_text(text)
    line = refuse(capsys, "fit", "--config", "tiny.yaml", "--config", "mine.yaml")
    assert line.startswith("mine.yaml")
    assert expected in line


def test_missing_file_suggests_the_closest(tiny, capsys):
    line = refuse(capsys, "fit", "--config", "tny.yaml")
    assert line == "--config: file not found: tny.yaml; did you mean tiny.yaml?"
    assert "is a folder; give a YAML file; it contains tiny.yaml" in refuse(capsys, "fit", "--config", ".")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{val:", "0.1}"], "quote them: --data.init_args.splits '{val: 0.1}'"),
        (["{val: 0.1,", "test: 0.2}"], "quote them: --data.init_args.splits '{val: 0.1, test: 0.2}'"),
        (["{val: 0.1"], "'{' of line 1 is not closed"),
        (["{val: 0.1, val: 0.2}"], "'val' is given twice"),
        (["{val 0.1}"], "give a mapping, as in '{NAME: 0.5}' or null"),
        (["{off: a.txt}"], "the key false: YAML reads off, no, 1 and null as values"),
    ],
)
def test_mapping_on_the_command_line_needs_quotes(tiny, capsys, words, expected):
    args = ["fit", "--config", "tiny.yaml", "--data", FOLDER, "--data.init_args.root", "x"]
    assert expected in refuse(capsys, *args, "--data.init_args.splits", *words)


@pytest.mark.parametrize("classes", ["[off, on]", "[1, 2]", "[sky, null]", "[road, 3.5]", "[y, yes]"])
def test_class_names_that_yaml_does_not_read_as_text_are_refused(tiny, capsys, classes):
    data = f"data:\n  class_path: {FOLDER}\n  init_args:\n    root: x\n    classes: {classes}\n"
    Path("mine.yaml").write_text(data)
    line = refuse(capsys, "fit", "--config", "tiny.yaml", "--config", "mine.yaml")
    assert "data.init_args.classes: give a list of texts" in line
    assert "quote it, as in '" in line
    assert line.endswith("(mine.yaml, line 5)")


def test_quoted_class_names_and_dates_are_text(tiny, capsys):
    data = f"data:\n  class_path: {FOLDER}\n  init_args:\n    root: x\n    classes: ['off', 2020-01-01]\n"
    Path("mine.yaml").write_text(data)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "tiny.yaml", "--config", "mine.yaml", "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["classes"] == ["off", "2020-01-01"]


def test_class_names_without_module_resolve(tiny, capsys):
    parts = {"decoder": "MaskTransformer", "schedule": "Cosine", "optimizer": "AdamW"}
    words = [f"--model.init_args.{key}={name}" for key, name in parts.items()]
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "tiny.yaml", *words, "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert {key: printed[key]["class_path"].rpartition(".")[2] for key in parts} == parts


def test_window_accepts_one_side_length(tiny, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--config", "tiny.yaml", "--model.init_args.window=96", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["window"] == 96


def test_null_for_an_option_of_a_component_stays_null(tiny, capsys):
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                "--config",
                "tiny.yaml",
                "--model.init_args.encoder.init_args.depths=null",
                "--print_config",
            ]
        )
    assert (
        yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["encoder"]["init_args"]["depths"] is None
    )


def test_doctor_reports_the_file_of_a_refused_value(tiny, capsys):
    Path("mine.yaml").write_text("trainer: {}\ndata:\n  init_args:\n    img_size: 96\n")
    line = refuse(capsys, "doctor", "--config", "tiny.yaml", "--config", "mine.yaml")
    assert line.endswith("got 96 (mine.yaml, line 4)")


OTHERS = {
    "test runs/a/best.ckpt": "write --checkpoint runs/a/best.ckpt",
    "validate --chekpoint x": "did you mean --checkpoint",
    "segment --checkpint x a --out b": "unknown option --checkpint; did you mean --checkpoint?",
    "export --checkpoint x --format onx --out y": "give one of safetensors, onnx, pt2, huggingface; got onx; "
    "did you mean onnx?",
    "report": "--out and RUNS must be given",
    "bench modls": "unknown value 'modls'; did you mean models?",
    "doctor --config tiny.yaml --data.init_args.img_sze 3": "did you mean img_size",
    "doctor --config tiny.yaml --data_dir x": "did you mean --data.init_args.root?",
    "check-decoder LinearDecodr": "unknown class 'LinearDecodr'; did you mean LinearDecoder?",
    "fit": "data and model missing; give them by --config experiments/NAME.yaml",
}


@pytest.mark.parametrize("words", OTHERS)
def test_other_commands_report_mistakes_alike(tiny, capsys, words):
    assert OTHERS[words] in refuse(capsys, *words.split())
