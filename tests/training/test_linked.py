"""Options of the model that the data module decides are refused with the option that sets them."""

import json
import re
from pathlib import Path

import pytest
import yaml
from folders import write_config, write_folder
from tiny import overlay, vit

from segbench.__main__ import main

LINEAR = str(Path(__file__).parents[2] / "experiments" / "linear.yaml")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return str(write_config(tmp_path / "x.yaml", write_folder(tmp_path / "data")))


def refuse(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *args])
    assert stop.value.code == 2
    assert not Path("runs").exists()
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--model.init_args.num_classes", "5"], "num_classes is 5, but .*: set data.init_args.classes in"),
        (["--model.num_classes=5"], "set data.init_args.classes in"),
        (["--model.init_args.img_size", "[64, 64]"], "set data.init_args.img_size in"),
        (["--model.init_args.ignore_index", "254"], "set data.init_args.ignore_index in"),
        (["--model.init_args.class_names", "[a, b]"], "set data.init_args.classes in"),
        (["--model.init_args.palette", "[[1, 2, 3]]"], "set data.init_args.palette in"),
        ({"num_classes": 5}, "set data.init_args.classes in"),
        ({"img_size": [64, 64]}, "set data.init_args.img_size in"),
    ],
    ids=str,
)
def test_what_the_data_decide_is_not_given_to_the_model(config, capsys, given, told):
    if isinstance(given, dict):
        Path("more.yaml").write_text(yaml.safe_dump({"model": {"init_args": given}}))
        given = ["--config", "more.yaml"]
    line = refuse(capsys, "--config", config, *given)
    assert re.search(told, line), line


def test_data_that_fix_it_are_named(config, capsys):
    ade = ["--config", LINEAR, "--data", "segbench.data.ade20k.ADE20K", "--data.init_args.root", "x"]
    line = refuse(capsys, *ade, "--model.init_args.ignore_index", "7")
    assert "leave it out, since ADE20K has a fixed one" in line


def test_a_run_is_repeated_and_scored_by_its_own_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = {"max_steps": 1, "val_check_interval": 1, "check_val_every_n_epoch": None}
    Path("tiny.yaml").write_text(overlay({}, {"encoder": vit()}, num_sanity_val_steps=0, **steps))
    main(["fit", "--config", LINEAR, "--config", "tiny.yaml", "--run_id", "a"])
    run = Path("runs/linear-tiny/a")
    main(["fit", "--config", str(run / "config.yaml"), "--experiment", "again", "--run_id", "b"])
    main(["test", "--checkpoint", str(run / "checkpoints/best.ckpt"), "--experiment", "again", "--run_id", "c"])
    cards = [json.loads(path.read_text()) for path in sorted(Path("runs").glob("*/*/run.json"))]
    assert len(cards) == 3
