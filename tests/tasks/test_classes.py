"""A checkpoint meets data whose classes have other names, or the same names in another order."""

import json
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from command_line import refuse
from folders import NAMES, write_config, write_folder
from PIL import Image

import segbench
from segbench.__main__ import main
from segbench.data.folder import FolderDataModule
from segbench.runs.ledger_file import load_ledger
from segbench.tasks.classes import class_order, differing, trained_classes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, and data of the same images whose classes are numbered or named otherwise."""
    folder = tmp_path_factory.mktemp("classes")
    write_folder(folder / "base")
    write_folder(folder / "turned", NAMES[::-1], lambda ids, _: (2 - ids).astype(np.uint8))
    write_folder(folder / "renamed", ("road", "sky", "tree"))
    write_folder(folder / "more", (*NAMES, "tree"))
    write_folder(folder / "fewer", NAMES[:2], lambda ids, _: np.minimum(ids, 1).astype(np.uint8))
    write_config(folder / "base.yaml", folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", "--config", "base.yaml", "--run_id", "base"])
    return folder


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


CHECKPOINT = "runs/base/base/checkpoints/best.ckpt"
SCORED = ("--checkpoint", CHECKPOINT, "--data.init_args.splits", "{predict: test}")


def run(*args: str) -> Path:
    before = set(Path("runs").glob("*/*"))
    main(list(args))
    (folder,) = set(Path("runs").glob("*/*")) - before
    return folder


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_another_order_is_mapped_by_name_and_said(capsys, verb):
    straight = run(verb, *SCORED)
    assert "another order" not in capsys.readouterr().err
    turned = run(verb, *SCORED, "--data.init_args.root", "turned")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "another order" in line]
    assert "[ground, ball] in the checkpoint, [ball, ground] in the data" in line
    if verb == "predict":
        for file in (straight / "predictions").glob("*.png"):
            same = np.array(Image.open(file))
            assert (np.array(Image.open(turned / "predictions" / file.name)) == 2 - same).all()
        return
    scores, mapped = (
        json.loads((one / "run.json").read_text())["scores"]["test" if verb == "test" else "val"]
        for one in (straight, turned)
    )
    assert mapped["iou"] == scores["iou"]  # by name
    assert mapped["miou"] == pytest.approx(scores["miou"])
    ledgers = [load_ledger(one / "ledger.npz") for one in (straight, turned)]
    assert ledgers[1].class_names == NAMES[::-1]
    total, other = (ledger.ledger.total(3) for ledger in ledgers)
    assert (other == total[::-1, ::-1]).all()


@pytest.mark.parametrize(
    ("verb", "data", "told"),
    [
        ("validate", "renamed", "[ground, box, ball] in the checkpoint, [road, sky, tree] in the data"),
        ("predict", "more", "only the checkpoint has [], only the data have [tree] (3 classes there, 4 here)"),
        ("test", "fewer", "only the checkpoint has [ball], only the data have [] (3 classes there, 2 here)"),
    ],
)
def test_other_classes_are_refused_with_both_lists(capsys, verb, data, told):
    assert told in refuse(capsys, verb, *SCORED, "--data.init_args.root", data)


def test_a_resumed_run_keeps_its_classes(capsys):
    resume = ("fit", "--resume", "runs/base/base", "--data.init_args.root")
    assert "in another order" in refuse(capsys, *resume, "turned")
    assert "other classes" in refuse(capsys, *resume, "renamed")
    begun = ("fit", "--config", "base.yaml", "--ckpt_path", CHECKPOINT, "--data.init_args.root", "turned")
    assert "--init-from" in refuse(capsys, *begun)


@pytest.mark.parametrize("decoder", ["linear.LinearDecoder", "mask_transformer.MaskTransformer"])
def test_weights_of_another_order_begin_a_run_in_the_order_of_the_data(capsys, decoder):
    name = decoder.partition(".")[0]
    write_config(Path(f"{name}.yaml"), Path("base"), decoder)
    main(["fit", "--config", f"{name}.yaml", "--run_id", "start"])
    checkpoint = f"runs/{name}/start/checkpoints/last.ckpt"
    still = ("--trainer.max_steps", "1", "--model.init_args.optimizer.init_args.lr", "0")
    begun = run(
        "fit", "--config", f"{name}.yaml", "--init-from", checkpoint, "--data.init_args.root", "turned", *still
    )
    before, after = segbench.load(checkpoint), segbench.load(begun / "checkpoints" / "last.ckpt")
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(after.logits(image), before.logits(image).flip(1), rtol=1e-4, atol=1e-4)
    assert after.class_names == list(NAMES[::-1])


@pytest.mark.parametrize("data", ["renamed", "more"])
def test_weights_of_other_classes_need_a_fresh_head(capsys, data):
    start = ("fit", "--config", "base.yaml", "--init-from", CHECKPOINT, "--data.init_args.root", data)
    line = refuse(capsys, *start)
    assert "other classes" in line
    assert "--start.fresh '[decoder.head]'" in line
    assert "other classes" in refuse(capsys, *start, "--start.fresh", "[encoder]")
    assert (run(*start, "--start.fresh", "[decoder.head]") / "checkpoints" / "last.ckpt").is_file()


def test_a_painter_reads_the_colours_that_it_was_trained_to_paint(capsys):
    """Another palette is harmless to a classifier, and would turn all classes of a painter."""
    classes = ("--data.init_args.classes", "['0 0 0 ground', '255 0 0 box', '0 255 0 ball']")
    paint = (
        *("--model.class_path", "segbench.tasks.color.ColorTask"),
        *("--config", "base.yaml", *classes, "--run_id", "paint"),
    )
    main(["fit", *paint[2:4], *paint[:2], *paint[4:]])
    checkpoint = "runs/base/paint/checkpoints/best.ckpt"
    found = []
    for order, root in (
        ("'0 0 0 ground', '255 0 0 box', '0 255 0 ball'", "base"),
        ("'255 255 0 ground', '0 0 255 box', '9 9 9 ball'", "base"),
        ("'1 1 1 ball', '2 2 2 box', '0 255 0 ground'", "turned"),
    ):
        options = ("--data.init_args.root", root, "--data.init_args.classes", f"[{order}]")
        card = run("validate", "--checkpoint", checkpoint, *options) / "run.json"
        found.append(json.loads(card.read_text())["scores"]["val"]["iou"])
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_tune_regions_maps_and_refuses(tmp_path, capsys):
    Path("data.yaml").write_text(
        "data: {class_path: segbench.data.folder.FolderDataModule, init_args: {root: base, num_workers: 0}}\n"
    )
    tune = ("tune-regions", "--config", "data.yaml", "--checkpoint", CHECKPOINT, "--trials", "1")
    raw = []
    for root in ("base", "turned"):
        main([*tune, "--data.init_args.root", root, "--out", str(tmp_path / root)])
        raw.append(json.loads((tmp_path / root / "tuning.json").read_text())["raw"])
    assert raw[1] == pytest.approx(raw[0])
    assert "[road, sky, tree]" in refuse(capsys, *tune, "--data.init_args.root", "renamed")


def test_a_script_that_gives_other_data_is_refused():
    task = segbench.load(CHECKPOINT)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(ValueError, match=r"\[ground, ball\] .* \[ball, ground\]"):
        trainer.test(task, datamodule=FolderDataModule("turned", num_workers=0), verbose=False)
    with pytest.raises(ValueError, match="ignore_index is 255 in the model and 200"):
        trainer.test(task, datamodule=FolderDataModule("base", ignore_index=200, num_workers=0), verbose=False)


def test_numbered_classes_of_a_converted_checkpoint_are_no_names():
    numbered = {"hyper_parameters": {"class_names": ["class 0", "class 1"]}}
    assert trained_classes(numbered, "x.ckpt") is None
    with pytest.raises(ValueError, match="damaged"):
        trained_classes({"hyper_parameters": {"class_names": [1, {}]}}, "x.ckpt")


def test_long_lists_show_where_they_differ():
    many = [f"thing {i}" for i in range(150)]
    turned = [*many[:10], many[11], many[10], *many[12:]]
    assert class_order(many, turned, "x") == [*range(10), 11, 10, *range(12, 150)]
    assert differing(many, turned) == (
        "from id 10 on [thing 10, thing 11] in the checkpoint, [thing 11, thing 10] in the data"
    )
    other = [*many[:3], "sky", *many[4:]]
    assert differing(many, other) == "only the checkpoint has [thing 3], only the data have [sky]"
