"""What lies below a folder besides the pictures of a dataset: passed over, counted and named, or refused."""

import os
import shutil
import warnings

import numpy as np
import pytest
import tiny
import yaml
from PIL import Image

from segbench.cli import main
from segbench.commands.segment.inputs import find
from segbench.data.folder import FolderDataModule
from segbench.data.io.listing import Clutter, Leftovers, Unread, list_files, survey
from segbench.runs.ledger_file import load_ledger

FOLDER = "segbench.data.folder.FolderDataModule"
RNG = np.random.default_rng(0)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def pair(root, name, split="train"):
    for part, shape in (("images", (8, 12, 3)), ("masks", (8, 12))):
        path = root / part / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 2, shape, np.uint8)).save(path)


def module(root, **options):
    return FolderDataModule(root, classes=["a", "b"], num_workers=0, img_size=(8, 8), **options)


TOOLS = (
    ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png", "@eaDir/a.png", "lost+found/1.png",
    "$RECYCLE.BIN/a.png", "deep/.thumbnails/a.png", "a (conflicted copy 2024-05-01).png",
    "a (Ada's conflicted copy 2011-09-09).png",
    "a.sync-conflict-20240501-101010-ABCDEFG.png", "a (SFConflict ada 2015-03-07-14-07-42).png",
)  # fmt: skip


@pytest.mark.parametrize("name", TOOLS)
def test_what_tools_leave_behind_is_passed_over_everywhere_and_named(tmp_path, name):
    touch(tmp_path, "a.png", "deep/b.png", name)
    with pytest.warns(Leftovers, match="1 of these files are pictures; passed over"):
        assert list(list_files(tmp_path)) == ["a", "deep/b"]
    found = find([tmp_path], tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in found.files] == ["a.png", "deep/b.png"]
    assert len(found.notes) == 1
    if "/" in name:  # unless the folder is named itself
        assert len(find([tmp_path / "**" / "*.png"], tmp_path / "out").files) == 2


@pytest.mark.parametrize(
    "name", ["._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "a.png~", ".~lock.a.png#"]
)
def test_clutter_is_mentioned_by_the_doctor_alone(tmp_path, name):
    touch(tmp_path, "a.png", name)
    with pytest.warns(Clutter, match="passed over"):
        assert list(list_files(tmp_path)) == ["a"]
    with warnings.catch_warnings():  # as Python starts
        warnings.resetwarnings()
        warnings.simplefilter("ignore", Clutter, append=True)
        list_files(tmp_path)
    assert find([tmp_path], tmp_path / "out").notes == []


def test_names_that_only_look_like_conflicts_are_images(tmp_path):
    touch(tmp_path, "a (conflicted copy).png", "zone of conflict (1).png", "copy.png", "b (1).png")
    assert len(list_files(tmp_path)) == 4  # the first has no original beside it


@pytest.mark.parametrize("name", ["b.PSD", "b.exr", "b.CR2", "b.npy", "b.svg", "b.dcm"])
def test_pictures_of_other_types_are_counted_and_named(tmp_path, name):
    touch(tmp_path, "a.png", name, "a.txt", "a.json")
    with pytest.warns(Unread, match=rf"1 {name[1:]} of types that are not read: {name}; left out"):
        assert list(list_files(tmp_path)) == ["a"]
    assert name in find([tmp_path], tmp_path / "out").notes[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=rf"no .*{name}; left out"):
        find([tmp_path], tmp_path / "out")


def test_the_folder_of_outputs_is_none_of_images(tmp_path):
    touch(tmp_path, "a.png", "out/b.png", "out/c.png")
    assert [path.name for path in survey(tmp_path, apart=tmp_path / "out").files] == ["a.png"]


UNSAFE = {
    b"stra\xdfe.png": r"stra\\xdfe\.png.* not UTF-8",
    b"\x83\x65.png": r"\\x83e\.png.* not UTF-8",
    b"d\xe9j\xe0/a.png": r"d\\xe9j\\xe0/a\.png.* UTF-8",
    b"a\nb.png": r"a\\nb\.png.* control",
    b"\x1b[31mred.png": r"\\x1b\[31mred\.png.* control",
    "a\u2028b.png".encode(): r"a\\u2028b\.png.* line break",
}


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_lists_and_terminals_cannot_hold_are_refused_by_training_and_doctor(tmp_path, capsys, name):
    for split in ("train", "val"):
        pair(tmp_path, "a", split)
    place = os.fsencode(tmp_path / "images/val") + b"/" + name
    os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120 (bytes)
    try:
        shutil.copy(os.fsencode(tmp_path / "images/val/a.png"), place)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(ValueError, match=UNSAFE[name]) as error:
        module(tmp_path).setup("fit")
    assert str(error.value).isprintable()
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(SystemExit):
        main(
            [
                "doctor",
                "--data",
                "segbench.data.folder.FolderDataModule",
                "--data.init_args.root",
                str(tmp_path),
            ]
        )
    assert str(error.value) in capsys.readouterr().out


def test_a_dataset_in_a_folder_that_is_not_utf8_is_refused_by_that_reason(tmp_path, capsys):
    root = os.fsdecode(os.fsencode(tmp_path) + b"/stra\xdfe")
    for verb in ("fit", "doctor"):
        with pytest.raises(SystemExit) as stop:
            main([verb, "--data", FOLDER, "--data.init_args.root", root])
        assert stop.value.code == 2
        assert r"stra\xdfe is not UTF-8" in capsys.readouterr().err


@pytest.mark.slow
def test_training_on_other_awkward_names_runs_to_the_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [
        "-rf",
        "--help",
        "a b ",
        "äöü 東京 🙂",
        "a'b\"c",
        "x" * 250,
        "A",
        "a",
        "a.b.c",
        "%s{}",
        "CON",
        "$HOME",
    ]
    for split in ("train", "val", "predict"):
        for name in names:
            pair(tmp_path, name, split)
    encoder = tiny.vit() | {"class_path": "segbench.encoders.timm_vit.TimmViT"}
    decoder = {"class_path": "segbench.decoders.linear.LinearDecoder"}
    model = {
        "class_path": "segbench.tasks.semantic.SemanticTask",
        "init_args": {"encoder": encoder, "decoder": decoder},
    }
    options = {"root": str(tmp_path), "classes": ["a", "b"], "img_size": [32, 32], "batch_size": 4}
    data = {"class_path": FOLDER, "init_args": options | {"num_workers": 0}}
    trainer = tiny.QUIET | {"max_steps": 2, "val_check_interval": 2}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    main(["fit", "--config", str(config), "--run_id", "r"])
    (ledger,) = (tmp_path / "runs").rglob("ledger.npz")
    assert load_ledger(ledger).ledger.names == tuple(sorted(names))
    main(["predict", "--checkpoint", str(ledger.parent / "checkpoints/last.ckpt")])
    (predictions,) = (tmp_path / "runs").rglob("predictions")
    assert len(list(predictions.glob("*.png"))) == len(names)


@pytest.mark.parametrize("copy", ["a (1)", "a - Copy", "a copy 2", "a (copy)", "Copy of a", "a - Kopie (2)"])
def test_a_copy_is_in_the_split_of_its_original(tmp_path, copy):
    for name in "abcdefghij":
        pair(tmp_path, name, "")
    before = {seed: module(tmp_path, splits={"val": 0.3, "test": 0.3}, split_seed=seed) for seed in range(4)}
    before = {seed: data.pairs("val") for seed, data in before.items()}
    for part in ("images", "masks"):
        shutil.copy(tmp_path / part / "a.png", tmp_path / part / f"{copy}.png")
    for seed in range(4):
        data = module(tmp_path, splits={"val": 0.3, "test": 0.3}, split_seed=seed)
        splits = {p.name: split for split in ("train", "val", "test") for p in data.pairs(split)}
        assert splits[copy] == splits["a"]
        assert {p.name for p in before[seed]} == {name for name in splits if splits[name] == "val"} - {copy}


def test_another_image_under_the_name_of_a_copy_is_drawn_by_itself(tmp_path):
    for name in ("photo", *(f"photo ({i})" for i in range(1, 20))):
        pair(tmp_path, name, "")
    assert len(module(tmp_path, splits={"val": 0.3, "test": 0.3}).pairs("train")) < 18
