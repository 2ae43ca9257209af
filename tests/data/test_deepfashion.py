"""DeepFashion-MultiModal in the layout of its release, and who is in which split."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from segbench.__main__ import main
from segbench.data.augment import StandardAugment
from segbench.data.deepfashion import (
    DEEPFASHION_SPEC,
    DeepFashion,
    DeepFashionLayout,
    FitWidth,
    garment,
    split_names,
)
from segbench.data.loading.sampling import SampleIndex
from segbench.data.scene import generate_scene
from segbench.data.synthetic import write_synthetic
from segbench.data.transforms import Transforms

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
COUNTS = {"train": 6, "val": 3, "test": 2}
SIZE = (88, 60)  # as slim as the real photographs


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    root = tmp_path_factory.mktemp("fashion") / "DeepFashion-MultiModal"
    write_synthetic(root, DEEPFASHION_SPEC, DeepFashionLayout(), COUNTS, SIZE)
    return root


@pytest.fixture
def copy(twin, tmp_path):
    return Path(shutil.copytree(twin, tmp_path / "copy"))


def module(root, **arguments):
    return DeepFashion(root, **({"img_size": (32, 40), "batch_size": 2, "num_workers": 0} | arguments))


def names(root, split):
    return [pair.name for pair in module(root).dataset(split).pairs]


def release(num_garments):
    """Names as the release has them: several views of each outfit."""
    rng = np.random.default_rng(0)
    return [
        f"{('MEN-Pants', 'WOMEN-Tees_Tanks')[g % 2]}-id_{g:08d}-{color:02d}_{view}_full"
        for g in rng.permutation(9999)[:num_garments]
        for color in (1, 2)
        for view in range(1, 1 + rng.integers(1, 4))
    ]


def test_classes_and_colours():
    assert len(DEEPFASHION_SPEC.classes) == len(set(DEEPFASHION_SPEC.palette)) == 24
    known = dict(enumerate(zip(DEEPFASHION_SPEC.classes, DEEPFASHION_SPEC.palette, strict=True)))
    assert known[0] == ("background", (0, 0, 0))
    assert known[13] == ("hair", (255, 0, 0))
    assert known[17] == ("wrist wearing", (50, 155, 250))
    assert known[23] == ("tie", (225, 141, 151))


def test_files_lie_and_are_coloured_as_in_the_release(twin):
    photos = sorted(path.stem for path in (twin / "images").glob("*.jpg"))
    assert len(photos) == sum(COUNTS.values())
    assert sorted(path.name for path in (twin / "segm").iterdir()) == [f"{name}_segm.png" for name in photos]
    assert all(re.fullmatch(r"WOMEN-Dresses-id_\d{8}-\d\d_\d_[a-z]+", name) for name in photos)
    with Image.open(next((twin / "segm").iterdir())) as mask:
        assert mask.mode == "P"
        assert tuple(mask.getpalette()[3 * 13 : 3 * 14]) == (255, 0, 0)


def test_the_palette_index_is_the_class(twin):
    data = module(twin)
    number = 0
    for split, count in COUNTS.items():
        assert len(data.dataset(split)) == count
        for i, pair in enumerate(data.dataset(split).pairs):
            image, label = generate_scene(number, 24, SIZE)
            sample = data.dataset(split).read(i)
            assert np.array_equal(sample.label, label)
            assert sample.name == pair.name
            assert np.abs(sample.image.astype(int) - image).mean() < 8  # JPEG
            assert not np.array_equal(cv2.imread(str(pair.label), cv2.IMREAD_GRAYSCALE), label)
            number += 1


def test_no_garment_is_in_two_splits_and_a_tenth_is_held_out_twice():
    everything = release(2000)
    splits = split_names(everything)
    assert splits.keys() == set(everything)
    sides = {
        split: {garment(n) for n in everything if splits[n] == split} for split in ("train", "val", "test")
    }
    assert not sides["train"] & sides["val"] | sides["train"] & sides["test"] | sides["val"] & sides["test"]
    shares = {split: sum(splits[n] == split for n in everything) / len(everything) for split in sides}
    assert shares == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.02)
    assert {s for n, s in splits.items() if n.startswith("MEN")} == set(sides)


def test_the_split_is_the_same_everywhere():
    """Written down once; a change would make scores of older runs incomparable."""
    everything = release(300)
    splits = split_names(everything)
    assert split_names(reversed(everything)) == splits
    known = {"id_00000080": "train", "id_00000011": "test", "id_00000042": "val", "id_00004090": "train"}
    more = split_names([*everything, *(f"WOMEN-Skirts-{one}-01_1_front" for one in known)])
    assert {one: more[f"WOMEN-Skirts-{one}-01_1_front"] for one in known} == known
    assert {name: more[name] for name in everything} == splits


def test_a_partial_copy_is_divided_as_the_whole():
    everything = release(300)
    whole, part = split_names(everything), split_names(everything[::3])
    assert all(whole[name] == split for name, split in part.items())


def test_training_seeds_leave_the_split_alone(twin):
    assert [module(twin, seed=seed).dataset("val").pairs for seed in (0, 1)] == [
        module(twin).dataset("val").pairs
    ] * 2


@pytest.mark.parametrize("count", range(3, 13))
def test_few_garments_fill_all_splits(count):
    assert set(split_names(f"id_{i:08d}" for i in range(count)).values()) == {"train", "val", "test"}


def test_one_garment_is_for_training_and_names_without_an_id_stand_alone():
    assert split_names(["id_00000007-a", "id_00000007-b"]) == dict.fromkeys(
        ["id_00000007-a", "id_00000007-b"], "train"
    )
    assert garment("mine_1") != garment("mine_2")
    assert garment("MEN-Denim-id_00000080-01_7_additional") == garment("WOMEN-Denim-id_00000080-02_1_front")


def test_images_without_a_mask_take_no_part(copy):
    before = {split: names(copy, split) for split in COUNTS}
    cv2.imwrite(str(copy / "images" / "MEN-Denim-id_00000080-01_7_additional.jpg"), np.zeros((8, 8, 3)))
    assert {split: names(copy, split) for split in COUNTS} == before


def test_masks_without_an_image_are_mentioned(copy):
    (lost,) = names(copy, "test")[:1]
    (copy / "images" / f"{lost}.jpg").unlink()
    with pytest.warns(UserWarning, match=f"{lost}_segm.png and 0 other masks have no image"):
        assert lost not in names(copy, "test")


def test_the_folder_of_images_has_two_names(copy, twin):
    (copy / "images").rename(copy / "image")
    assert {split: names(copy, split) for split in COUNTS} == {split: names(twin, split) for split in COUNTS}


def test_lists_of_text2human_win(copy):
    everything = sorted(name for split in COUNTS for name in names(copy, split))
    parts = {"train": everything[:4], "val": everything[4:5], "test": everything[5:9]}
    (copy / "images").rename(copy / "train_images")
    (copy / "test_images").mkdir()
    for name in parts["test"]:
        (copy / "train_images" / f"{name}.jpg").rename(copy / "test_images" / f"{name}.jpg")
    (copy / "shape_ann").mkdir()
    for split, listed in parts.items():
        lines = "".join(f"{name}.jpg 0 2 1 3\n" for name in [*listed, f"not-here-{split}"])
        (copy / "shape_ann" / f"{split}_ann_file.txt").write_text(lines)
    with pytest.warns(
        UserWarning, match=r"shape_ann lists not-here-test and 2 others that have no image"
    ) as said:
        assert {split: names(copy, split) for split in parts} == parts
    assert len({str(warning.message) for warning in said}) == 1
    with pytest.warns(UserWarning, match="not-here"):
        assert names(copy, "predict") == parts["test"]
    (copy / "shape_ann" / "val_ann_file.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*val_ann_file\.txt: add it, or take the folder"):
        names(copy, "val")


def test_lists_of_text2human_that_overlap(copy):
    everything = sorted(name for split in COUNTS for name in names(copy, split))
    (copy / "shape_ann").mkdir()
    for split, listed in {"train": everything[:5], "val": everything[4:6], "test": everything[6:]}.items():
        (copy / "shape_ann" / f"{split}_ann_file.txt").write_text("".join(f"{name}.jpg 0\n" for name in listed))
    for split in ("train", "val"):
        with pytest.raises(ValueError, match=f"{everything[4]} and 0 others are in .*: take them out") as error:
            names(copy, split)
        assert "\n" not in str(error.value)
    assert names(copy, "test") == everything[6:]


@pytest.mark.parametrize(("gone", "named"), [("", ""), ("images", "images"), ("segm", "segm")])
def test_what_is_missing_is_named_with_the_tree_and_the_source(copy, gone, named):
    shutil.rmtree(copy / gone)
    with pytest.raises(FileNotFoundError, match=f"no folder {copy / named}: expected images/NAME") as error:
        module(copy).setup("fit")
    assert "\n" not in str(error.value)
    assert "https://github.com/yumingj/DeepFashion-MultiModal" in str(error.value)
    assert "experiments/data/synthetic.yaml" in str(error.value)


def test_too_few_outfits_are_named(copy):
    for path in sorted((copy / "segm").iterdir())[1:]:
        path.unlink()
    assert len(module(copy).dataset("train")) == 1
    with pytest.raises(
        ValueError, match=r"no image for split 'val' among 1 with a mask: three outfits or more"
    ):
        module(copy).dataset("val")


def test_real_photographs_become_512_by_751():
    rng = np.random.default_rng(0)
    stripes = np.broadcast_to(np.arange(750)[None, :, None] % 2 * 255, (1101, 750, 3)).astype(np.uint8)
    label = rng.integers(0, 24, (1101, 750)).astype(np.uint8)
    fitted = FitWidth(512)(image=stripes, mask=label)
    assert fitted["image"].shape == (751, 512, 3)
    # Lines finer than a pixel turn grey where the filter is antialiased; without, they make broad bands.
    assert fitted["image"].std() < 40 < cv2.resize(stripes, (512, 751)).std()
    rows = ((np.arange(751) + 0.5) * 1101 / 751).astype(int)
    columns = ((np.arange(512) + 0.5) * 750 / 512).astype(int)
    assert np.array_equal(fitted["mask"], label[rows[:, None], columns])


def coded(height, width):
    """Each pixel's label is its row, and the image says the same."""
    label = np.broadcast_to(np.arange(height, dtype=np.uint16)[:, None], (height, width)).copy()
    return np.repeat(label[..., None], 3, 2).astype(np.uint8), label


def test_training_pictures_are_cut_at_any_height_and_nothing_else(twin):
    augment = module(twin).augment
    tops = set()
    for number in range(200):
        image, label = augment(*coded(48, 40), number)
        assert label.shape == (32, 40)
        assert np.array_equal(image[..., 0], label)  # neither flipped nor recoloured
        assert (np.diff(label[:, 0].astype(int)) == 1).all()
        tops.add(int(label[0, 0]))
    assert tops == set(range(17))


def test_heights_are_drawn_evenly_even_where_all_is_background(twin):
    image, label = coded(48, 40)
    label[label < 30] = 0
    tops = [module(twin).augment(image, label, number)[0][0, 0, 0] for number in range(300)]
    assert np.mean(tops) == pytest.approx(8, abs=0.9)


def test_short_pictures_are_padded_at_any_height_without_a_label(twin):
    tops = set()
    for number in range(200):
        image, label = module(twin).augment(*coded(20, 40), number)
        there = label[:, 0] != 255
        assert there.sum() == 20
        assert (image[~there] == 128).all()
        tops.add(int(there.argmax()))
    assert tops == set(range(13))


def test_batches_have_the_width_of_the_crop_and_repeat(twin):
    (first, again) = (next(iter(module(twin).train_dataloader())) for _ in range(2))
    assert first.image.shape == (2, 3, 32, 40)
    assert first.label.shape == (2, 32, 40)
    assert first.name == again.name
    assert bool((first.image == again.image).all())
    dataset = module(twin).dataset("train")
    assert len({dataset[SampleIndex(0, number)].label.numpy().tobytes() for number in range(20)}) > 5


def test_a_scale_asks_for_the_standard_augmentation(twin):
    plain, standard = (module(twin, scale=scale).augment for scale in (None, (88, 60)))
    assert isinstance(plain, Transforms)
    assert FitWidth in [type(transform) for transform in plain.compose]
    assert isinstance(standard, StandardAugment)
    assert standard.colors


def test_short_pictures_are_padded_alike_wherever_they_are_drawn(twin):
    one, other = (module(twin, seed=3).augment for _ in range(2))
    other(*coded(20, 40), 99)
    for a, b in zip(one(*coded(20, 40), 7), other(*coded(20, 40), 7), strict=True):
        assert np.array_equal(a, b)


TINY = """
model:
  init_args:
    from_scratch: true
    encoder:
      init_args: {model_name: vit_tiny_patch16_384, depths: [0]}
    schedule: {init_args: {warmup_steps: 0}}
    window: [32, 32]
    stride: [24, 32]
    resize: [128, 32]
data:
  init_args: {img_size: [32, 32], batch_size: 2, num_workers: 0}
trainer:
  accelerator: cpu
  max_steps: 1
  val_check_interval: 1
  enable_progress_bar: false
  enable_model_summary: false
"""


def test_the_overlay_trains_and_the_run_says_who_was_where(twin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    configs = [EXPERIMENTS / "linear.yaml", EXPERIMENTS / "data" / "deepfashion.yaml", "tiny.yaml"]
    arguments = [word for config in configs for word in ("--config", str(config))]
    main(["fit", *arguments, "--data.init_args.root", str(twin)])
    (run,) = Path("runs").glob("*/*")
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["resize"] == [128, 32]
    written = {path.stem: path.read_text().splitlines() for path in (run / "splits").iterdir()}
    assert written == {split: names(twin, split) for split in COUNTS}
    main(["test", "--checkpoint", str(run / "checkpoints" / "best.ckpt")])
    (own,) = set(Path("runs").glob("*/*")) - {run}
    assert (own / "splits" / "test.txt").read_text().splitlines() == names(twin, "test")
    assert not (own / "splits" / "train.txt").exists()


def test_two_masks_of_one_photograph_are_refused(copy):
    name = module(copy).dataset("train").pairs[0].name
    shutil.copy(copy / "segm" / f"{name}_segm.png", copy / "segm" / f"{name}.png")
    with pytest.raises(ValueError, match=rf"{name}\.png and {name}_segm\.png would both be the mask"):
        module(copy).dataset("train")
