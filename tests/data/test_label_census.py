"""Masks that teach nothing, or cannot be scored, are noticed before training."""

import re

import numpy as np
import pytest
from folders import write_config, write_folder

from segbench.__main__ import main
from segbench.data.folder import FolderDataModule


def binary(value):
    """Masks of two classes that hold 0 and another value."""
    return lambda ids, _: np.where(ids > 0, value, 0).astype(np.uint8)


def setup(root, **options):
    data = FolderDataModule(root, num_workers=0, **options)
    data.setup("fit")
    data.setup("fit")  # as the trainer does once more
    return data


@pytest.mark.parametrize("value", [255, 254])
def test_masks_of_0_and_255_are_refused_with_the_remap(tmp_path, value):
    root = write_folder(tmp_path / "set", ("background", "car"), binary(value))
    with pytest.raises(ValueError, match="no pixel") as error:
        setup(root, ignore_index=value)
    assert "'car' (class 1) has no pixel in its 4 masks; they hold only 0 and " in str(error.value)
    assert f"if {value} means 'car', set --data.init_args.remap '{{{value}: 1}}'" in str(error.value)
    assert "segbench doctor" in str(error.value)
    setup(root, ignore_index=value if value != 255 else 200, remap={value: 1})


def test_masks_of_0_and_128_are_refused_with_the_remap(tmp_path):
    root = write_folder(tmp_path / "set", ("background", "car"), binary(128))
    data = setup(root)
    with pytest.raises(ValueError, match=re.escape("if it is 'car', by --data.init_args.remap '{128: 1}'")):
        data.dataset("train").read(0)


def test_sound_masks_pass_in_silence(tmp_path, recwarn):
    def with_void(ids, _):
        ids = np.minimum(ids, 1)
        ids[0] = 255
        return ids

    setup(write_folder(tmp_path / "binary", ("background", "car"), with_void))
    setup(write_folder(tmp_path / "three"))
    assert not recwarn.list


def test_a_class_that_never_occurs_is_named(tmp_path, caplog):
    setup(write_folder(tmp_path / "set", ("ground", "box", "ball", "tree")))
    assert "'tree' (class 3) has no pixel in its 4 masks; they hold only 0, 1 and 2" in caplog.text
    assert caplog.text.count("has no pixel") == 1


def test_ids_shifted_by_one_leave_the_first_class_without_a_pixel(tmp_path, caplog):
    setup(write_folder(tmp_path / "set", ("a", "b", "c", "d"), lambda ids, _: ids + 1))
    assert "'a' (class 0) has no pixel in its 4 masks; they hold only 1, 2 and 3" in caplog.text


def test_many_images_are_sampled_and_a_single_class_is_looked_for_further(tmp_path):
    """Only one of 40 masks shows the second class, and it is not in the sample."""
    count = iter(range(100))

    def rare(ids, split):
        return np.zeros_like(ids) if split == "train" and next(count) != 7 else np.minimum(ids, 1)

    setup(write_folder(tmp_path / "set", ("ground", "box"), rare, {"train": 40, "val": 2}))


def test_a_single_class_is_warned_of(tmp_path):
    root = write_folder(tmp_path / "set", ("crack",), lambda ids, _: np.zeros_like(ids))
    with pytest.warns(UserWarning, match="'crack' is the only class"):
        setup(root)


def void(*splits):
    return lambda ids, split: np.full_like(ids, 255) if split in splits else ids


def test_a_training_split_without_labels_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "x.yaml", write_folder(tmp_path / "set", mask=void("train")))
    with pytest.raises(SystemExit):
        main(["fit", "--config", "x.yaml"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert "train: no pixel of its 4 masks has a class; they hold only 255, which means no class" in line
    assert not (tmp_path / "runs").exists()


def test_a_validation_split_without_labels_is_said_at_both_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "x.yaml", write_folder(tmp_path / "set", mask=void("val", "test")))
    with pytest.warns(UserWarning, match="no pixel") as caught:
        main(["fit", "--config", "x.yaml", "--run_id", "a"])
    told = [str(warning.message) for warning in caught]
    assert told[0].startswith("val: no pixel of its 2 masks has a class; they hold only 255")
    assert "no best.ckpt" in told[0]
    (end,) = [line for line in told[1:] if line.startswith("val: no pixel of its 2 images has a class")]
    assert "scores are NaN, and no best.ckpt is written; last.ckpt is" in end
    with pytest.warns(UserWarning, match="test: no pixel of its 2 images has a class"):
        main(["test", "--checkpoint", "runs/x/a/checkpoints/last.ckpt"])


def test_classes_absent_from_a_scored_split_are_named_once(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    without = lambda ids, split: np.where((ids == 2) & (split == "val"), 0, ids).astype(np.uint8)  # noqa: E731
    write_config(tmp_path / "x.yaml", write_folder(tmp_path / "set", mask=without))
    main(["fit", "--config", "x.yaml", "--trainer.val_check_interval", "1"])
    assert caplog.text.count("val: ball has no pixel in its 2 images") == 1
