"""Cityscapes in its official layout: label ids, training ids, and what the benchmark server takes."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from segbench.__main__ import main
from segbench.data.cityscapes import Cityscapes, CityscapesLayout
from segbench.data.cityscapes_classes import CITYSCAPES_SPEC
from segbench.data.io.files import read_image, read_mask
from segbench.data.scene import generate_scene
from segbench.data.synthetic import own_places, write_synthetic

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SIZE = (48, 64)
OFFICIAL = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
TINY = """
model: {init_args: {encoder: {init_args: {pretrained: false, depths: [0]}}, window: null, stride: null,
  resize: null}}
data: {init_args: {img_size: [32, 32], scale: null, batch_size: 2, num_workers: 0}}
trainer: {accelerator: cpu, devices: 1, max_steps: 1, val_check_interval: 1, enable_progress_bar: false,
  enable_model_summary: false}
"""


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes") / "root"
    write_synthetic(root, CITYSCAPES_SPEC, CityscapesLayout(), {"train": 3, "val": 2, "predict": 2}, SIZE)
    return root


@pytest.fixture
def copy(twin, tmp_path):
    return Path(shutil.copytree(twin, tmp_path / "copy"))


def module(root, **arguments):
    return Cityscapes(root, **({"img_size": (32, 32), "batch_size": 2, "num_workers": 0} | arguments))


def test_files_lie_and_are_named_as_in_the_original(twin):
    found = sorted(path.relative_to(twin).as_posix() for path in twin.rglob("*_00000[12]_*"))
    assert found == [
        *(
            f"gtFine/{city}_{i:06d}_000019_gtFine_{kind}.png"
            for city in ("train/aachen/aachen", "val/frankfurt/frankfurt")
            for i in (1, 2)
            for kind in ("color", "labelIds")
        ),
        *(
            f"leftImg8bit/{city}_{i:06d}_000019_leftImg8bit.png"
            for city in ("test/berlin/berlin", "train/aachen/aachen", "val/frankfurt/frankfurt")
            for i in (1, 2)
        ),
    ]
    ids = read_mask(twin / "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png")
    assert set(np.unique(ids)) <= {0, *OFFICIAL}
    colors = read_image(twin / "gtFine/train/aachen/aachen_000001_000019_gtFine_color.png")
    assert {tuple(color) for color in colors[ids == 26].tolist()} <= {(0, 0, 142)}


def test_label_ids_are_read_without_a_conversion(twin):
    data = module(twin)
    assert [len(data.dataset(split)) for split in ("train", "val", "test", "predict")] == [3, 2, 2, 2]
    assert data.num_classes == 19
    for i in range(3):
        name, image, label = data.dataset("train").read(i)
        drawn = generate_scene(i, 19, SIZE)
        assert name == f"aachen_{i + 1:06d}_000019"
        assert np.array_equal(image, drawn[0])
        assert np.array_equal(label, drawn[1])


def test_test_images_come_without_labels_and_validation_stands_in_for_test(twin):
    data = module(twin)
    data.setup("predict")
    assert [pair.label for pair in data.dataset("predict").pairs] == [None, None]
    assert (data.dataset("predict").read(0).label == 255).all()
    assert data.dataset("test").pairs == data.dataset("val").pairs
    assert own_places(data.layout) == ["train", "val", "predict"]


def test_training_ids_give_the_same_labels(copy):
    before = [module(copy).dataset("train").read(i).label for i in range(3)]
    for path in copy.rglob("*_labelIds.png"):
        ids = read_mask(path)
        training = np.full_like(ids, 255)
        for training_id, label_id in enumerate(OFFICIAL):
            training[ids == label_id] = training_id
        cv2.imwrite(str(path).replace("labelIds", "labelTrainIds"), training)
        path.unlink()
    with pytest.raises(ValueError, match=r"_gtFine_labelIds\.png"):
        module(copy).dataset("train")
    data = module(copy, labels="labelTrainIds", remap={8: 0})  # label ids, whatever the files
    for i, label in enumerate(before):
        expected = np.where(label == 1, 0, label)
        assert np.array_equal(data.dataset("train").read(i).label, expected)


def test_label_ids_under_the_name_of_training_ids_are_noticed(copy):
    path = next(copy.rglob("aachen_000001*_labelIds.png"))
    ids = read_mask(path).copy()
    ids[0, 0] = 26
    for other in copy.rglob("*_labelIds.png"):
        cv2.imwrite(str(other).replace("labelIds", "labelTrainIds"), ids)
    with pytest.raises(
        ValueError, match=r"labelTrainIds\.png holds other ids .*data\.init_args\.labels labelIds"
    ):
        module(copy, labels="labelTrainIds").dataset("train").read(0)


def test_a_twin_with_training_ids_is_read_back(tmp_path):
    layout = CityscapesLayout("labelTrainIds")
    write_synthetic(tmp_path / "twin", CITYSCAPES_SPEC, layout, {"train": 1}, SIZE)
    data = module(tmp_path / "twin", labels="labelTrainIds")
    assert np.array_equal(data.dataset("train").read(0).label, generate_scene(0, 19, SIZE)[1])
    file = next((tmp_path / "twin").rglob("*_labelTrainIds.png"))
    assert np.array_equal(read_mask(file), generate_scene(0, 19, SIZE)[1])


def test_without_the_data_one_line_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        module(tmp_path / "none").setup("fit")
    text = str(error.value)
    assert "\n" not in text
    for part in ("leftImg8bit/{split}", "_gtFine_labelIds.png", "gtFine_trainvaltest.zip", "synthetic.yaml"):
        assert part in text


def test_the_server_gets_label_ids_of_its_own_size_and_names(twin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    configs = [EXPERIMENTS / "linear.yaml", EXPERIMENTS / "data" / "cityscapes.yaml", "tiny.yaml"]
    options = [word for config in configs for word in ("--config", str(config))]
    main(["fit", *options, "--data.init_args.root", str(twin)])
    (checkpoint,) = Path("runs").glob("*/*/checkpoints/best.ckpt")
    folders = {}
    for form in ("training", "file"):
        before = set(Path("runs").glob("*/*"))
        main(["predict", "--checkpoint", str(checkpoint), "--predictions.ids", form])
        (run,) = set(Path("runs").glob("*/*")) - before
        folders[form] = run / "predictions"
    names = ["berlin_000001_000019.png", "berlin_000002_000019.png"]
    # The server, and its own script, look for CITY_SEQUENCE_FRAME*.png and allow one each.
    assert sorted(path.name for path in folders["file"].rglob("*")) == names
    assert sorted(path.name for path in (folders["training"] / "color").iterdir()) == names
    for name in names:
        training, label_ids = (cv2.imread(str(folders[form] / name), -1) for form in ("training", "file"))
        assert label_ids.dtype == np.uint8
        assert label_ids.shape == SIZE
        assert np.array_equal(label_ids, np.array(OFFICIAL)[training])
