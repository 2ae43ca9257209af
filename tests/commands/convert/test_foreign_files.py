"""Files that are not checkpoints, or not the ones they are taken for: one line, nothing run or written."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from reference.foreign_segmenter import Segmenter

from segbench.__main__ import main


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    Segmenter("mask", classes=4, crop=(32, 32), layers=1).save(folder)
    return folder


@pytest.fixture
def run(tmp_path, good):
    shutil.copytree(good, tmp_path / "run")
    return tmp_path / "run"


def refused(run, capsys, *more):
    """Runs the command, which must fail, and returns what it says."""
    out, before = run / "new.ckpt", sorted(run.iterdir())
    arguments = [str(run / "checkpoint.pth"), "--source", "segmenter", "--out", str(out), *more]
    with pytest.raises(SystemExit) as ended:
        main(["convert", *arguments])
    assert ended.value.code == 2
    assert sorted(run.iterdir()) == before
    told = capsys.readouterr().err
    assert told.startswith("segbench: error: ")
    assert told.count("\n") == 1
    return told


def change(run, edit):
    content = torch.load(run / "checkpoint.pth", weights_only=True)
    edit(content)
    torch.save(content, run / "checkpoint.pth")


class Poison:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_poisoned_pickle_is_not_run(run, capsys, tmp_path, zipped):
    poison, path = Poison(tmp_path / "executed"), run / "checkpoint.pth"
    if zipped:
        torch.save({"model": poison}, path)
    else:
        path.write_bytes(pickle.dumps({"model": poison}, protocol=4))  # of which torch would warn
    told = refused(run, capsys)
    assert not (tmp_path / "executed").exists()
    if zipped:
        assert "mkdir): reading it would run code from it" in told
        assert "for k in ('model', 'state_dict', 'n_cls') if k in c}" in told


@pytest.mark.slow
def test_a_file_made_plain_by_the_command_that_the_message_gives(run, capsys):
    import argparse
    import re
    import subprocess
    import sys

    change_unsafe = torch.load(run / "checkpoint.pth", weights_only=True) | {"args": argparse.Namespace(a=1)}
    torch.save(change_unsafe, run / "checkpoint.pth")
    told = refused(run, capsys)
    code = re.search(r'python -c "(.+?)"', told)[1]
    (run / "checkpoint.pth").rename(run / "OLD")
    subprocess.run([sys.executable, "-c", code], cwd=run, check=True)
    (run / "PLAIN").rename(run / "checkpoint.pth")
    main(["convert", str(run / "checkpoint.pth"), "--source", "segmenter", "--out", str(run / "new.ckpt")])
    assert (run / "new.ckpt").is_file()


def test_a_truncated_file(run, capsys):
    path = run / "checkpoint.pth"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "is cut off: its end is missing" in refused(run, capsys)


def test_a_zip_of_something_else(run, capsys):
    with zipfile.ZipFile(run / "checkpoint.pth", "w") as archive:
        archive.writestr("holiday.txt", "no weights")
    assert "is a zip archive, but no checkpoint in it" in refused(run, capsys)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_no_checkpoint_at_all(run, capsys, content):
    (run / "checkpoint.pth").write_bytes(content)
    assert "is damaged, or no checkpoint" in refused(run, capsys)


def test_other_content(run, capsys):
    torch.save([1, 2], run / "checkpoint.pth")
    assert "holds a list" in refused(run, capsys)
    torch.save({"state_dict": {}, "meta": {}}, run / "checkpoint.pth")
    assert "has no weights under 'model'; there is state_dict, meta" in refused(run, capsys)
    torch.save({"model": {"encoder.cls_token": "text"}}, run / "checkpoint.pth")
    assert "encoder.cls_token under 'model' is str" in refused(run, capsys)


def test_an_extra_key(run, capsys):
    change(run, lambda content: content["model"].update({"encoder.adapter.weight": torch.zeros(3)}))
    assert "1 weights unknown (encoder.adapter.weight), 0 weights missing" in refused(run, capsys)


def test_a_missing_key(run, capsys):
    change(run, lambda content: content["model"].pop("encoder.blocks.0.attn.qkv.bias"))
    assert "0 weights unknown, 1 weights missing (encoder.blocks.0.attn.qkv.bias)" in refused(run, capsys)


def test_a_misshapen_weight(run, capsys):
    change(run, lambda content: content["model"].update({"decoder.proj_patch": torch.zeros(192, 191)}))
    told = refused(run, capsys)
    assert "decoder.proj_patch gives (192, 191), but the configuration asks for (192, 192)" in told


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(192).to_sparse(), "is torch.float32, torch.sparse_coo, where plain weights"),
        (torch.empty(192, device="meta"), "is empty, where plain weights"),
        (torch.zeros(192, dtype=torch.int64), "is torch.int64, torch.strided, where plain weights"),
        (torch.full((192,), torch.nan), "holds numbers that are not finite"),
    ],
)
def test_weights_that_are_none(run, capsys, value, message):
    change(run, lambda content: content["model"].update({"encoder.norm.bias": value}))
    assert f"encoder.norm.bias {message}" in refused(run, capsys)


def test_a_number_of_classes_that_is_none(run, capsys):
    change(run, lambda content: content.update(n_cls=torch.tensor([4, 4])))
    assert "n_cls is tensor([4, 4]), where a int is expected" in refused(run, capsys)


def test_nineteen_classes_where_the_configuration_says_150(run, capsys):
    path = run / "variant.yml"
    path.write_text(path.read_text().replace("n_cls: 4", "n_cls: 150"))
    assert "decodes 4 classes, but n_cls in" in refused(run, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.mkdir [executed]", "could not determine a constructor"),
        ("a: !!python/tuple [[1], 2]", "a tuple of plain values is expected"),
        ("a: [1", "is not read"),
        ("just text", "is not a variant.yml"),
    ],
)
def test_other_tags_and_other_files_in_place_of_variant_yml(run, capsys, text, message):
    (run / "variant.yml").write_text(text)
    assert message in refused(run, capsys)


def test_no_variant_yml(run, capsys):
    (run / "variant.yml").rename(run / "elsewhere.yml")
    assert "give it by --config FILE" in refused(run, capsys)
    more = ["--config", str(run / "elsewhere.yml")]
    main(["convert", str(run / "checkpoint.pth"), "--source", "segmenter", "--out", str(run / "x.ckpt"), *more])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n_heads", 6, "n_heads is 6, but the weights are of a network with 3"),
        ("d_model", 384, "d_model is 384, but the weights are of a network with 192"),
        ("n_layers", 12, "n_layers is 12, but the weights are of a network with 1"),
        ("n_layers", None, "n_layers is missing"),
        ("distilled", True, "is not distilled, other than"),
        ("decoder", {"name": "linear"}, "is with a mask transformer, other than"),
        ("decoder", {"name": "mask_transformer", "n_layers": 1}, "decoder.n_layers is 1, but the weights are"),
        ("patch_size", "16", "patch_size is '16', where a int is expected"),
        ("image_size", (32, 48), "4 patches is not a grid of 2×3"),
        ("image_size", (32, -32), "image_size is (32, -32), where one or two positive numbers"),
        ("normalization", "imagenet", "normalization is 'imagenet'; known are vit, deit"),
    ],
)
def test_a_variant_that_contradicts_the_weights(run, capsys, key, value, message):
    variant = Segmenter("mask", classes=4, crop=(32, 32), layers=1).variant()
    variant["dataset_kwargs" if key == "normalization" else "net_kwargs"][key] = value
    (run / "variant.yml").write_text(yaml.dump(variant))
    assert message in refused(run, capsys)


def test_what_is_there_is_not_written_over(run, capsys):
    (run / "new.ckpt").write_text("precious")
    assert "new.ckpt is there already and is not written over" in refused(run, capsys)
    assert (run / "new.ckpt").read_text() == "precious"


def test_no_such_file_and_wrong_class_names(run, capsys):
    (run / "names.txt").write_text("sky\nroad\n")
    assert "must name 4 classes" in refused(run, capsys, "--classes", str(run / "names.txt"))
    assert "file not found: " in refused(run, capsys, "--classes", str(run / "nowhere.txt"))
    (run / "checkpoint.pth").unlink()
    assert "checkpoint not found: " in refused(run, capsys)


def test_stopped_in_the_middle(run, capsys, monkeypatch):
    def save(content, draft):
        draft.write(b"half")
        raise KeyboardInterrupt

    before = sorted(run.iterdir())
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(run / "checkpoint.pth"), "--source", "segmenter", "--out", str(run / "new.ckpt")])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "segbench: stopped\n"
    assert sorted(run.iterdir()) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_full_disk(run, capsys, monkeypatch):
    before = sorted(run.iterdir())
    save, out = torch.save, run / "new.ckpt"
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(torch, "save", lambda content, draft: save(content, full))
        with pytest.raises(SystemExit) as ended:
            main(["convert", str(run / "checkpoint.pth"), "--source", "segmenter", "--out", str(out)])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"No space left on device: {out}; free some space, or choose another folder by --out" in told
    assert told.count("\n") == 1
    assert sorted(run.iterdir()) == before
