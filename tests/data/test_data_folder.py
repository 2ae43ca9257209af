"""Folders as users have them, and what they are told when something is wrong."""

import inspect
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from segbench.data.folder import FolderDataModule, FolderLayout

CLASSES = ["sky", "road", "car"]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def write_pair(root, image, mask, value=1, size=(20, 30)):
    save(root / image, np.full((*size, 3), 10 * value))
    save(root / mask, np.full(size, value))


@pytest.fixture
def root(tmp_path):
    for split, count in {"train": 3, "val": 2, "test": 1}.items():
        for i in range(count):
            write_pair(tmp_path, f"images/{split}/{i}.png", f"masks/{split}/{i}.png", value=i)
    (tmp_path / "classes.txt").write_text("sky\nroad\n\ncar\n", encoding="utf-8")
    return tmp_path


def module(root, **arguments):
    return FolderDataModule(root, num_workers=0, **arguments)


def test_what_the_command_line_links_is_known_at_once(root):
    data = module(root, img_size=(32, 48))
    assert (data.num_classes, data.ignore_index, data.img_size) == (3, 255, (32, 48))
    assert data.class_names == CLASSES
    assert [type(x) for x in (data.num_classes, data.ignore_index, *data.img_size, *data.palette[0])] == [
        int
    ] * 7
    assert len(data.palette) == 3
    assert type(data.palette) is list


def test_reads_what_is_there(root):
    data = module(root)
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [3, 2, 1]
    name, image, label = data.dataset("train").read(2)
    assert name == "2"
    assert image.shape == (20, 30, 3)
    assert (image == 20).all()
    assert label.shape == (20, 30)
    assert (label == 2).all()


@pytest.mark.parametrize(
    ("files", "arguments"),
    [
        (("train/a.png", "trainannot/a.png"), {"images": ["images/{split}", "{split}"],
                                               "masks": ["masks/{split}", "{split}annot"]}),
        (("images/train/a.jpg", "masks/train/a.png"), {}),
        (("images/train/a.JPG", "masks/train/a.tif"), {}),
        (("images/training/a.png", "masks/training/a.png"), {"splits": {"train": "training"}}),
        (("img/a.png", "segm/a_segm.png"), {"images": "img", "masks": "segm", "mask_suffix": "_segm"}),
        (("both/a.png", "both/a_mask.png"), {"images": "both", "masks": "both", "mask_suffix": "_mask"}),
        (("x/train/a_left.png", "y/train/a_ids.png"), {"images": "x/{split}", "masks": "y/{split}",
                                                      "image_suffix": "_left", "mask_suffix": "_ids"}),
    ],
)  # fmt: skip
def test_finds_pairs_in_many_arrangements(tmp_path, files, arguments):
    write_pair(tmp_path, *files)
    dataset = module(tmp_path, classes=CLASSES, **arguments).dataset("train")
    assert dataset.pairs == [("a", tmp_path / files[0], tmp_path / files[1])]
    assert (dataset.read(0).label == 1).all()


def test_names_hold_the_subfolders(tmp_path):
    for city in ("ulm", "bonn"):
        write_pair(tmp_path, f"images/train/{city}/a.png", f"masks/train/{city}/a.png")
    assert [pair.name for pair in module(tmp_path, classes=CLASSES).dataset("train").pairs] == [
        "bonn/a",
        "ulm/a",
    ]


def test_images_to_predict_need_no_masks(root):
    save(root / "images/predict/new.png", np.zeros((20, 30, 3)))
    dataset = module(root).dataset("predict")
    assert (dataset.read(0).label == 255).all()
    assert module(root, splits={"predict": "test"}).dataset("predict").pairs[0].label is not None


def test_remap_applies_to_masks(root):
    data = module(root, remap={2: 255, 1: 0})
    assert [np.unique(data.dataset("train").read(i).label).tolist() for i in range(3)] == [[0], [0], [255]]


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_masks_missing_before_training_starts(root):
    (root / "masks/val/1.png").unlink()
    with pytest.raises(ValueError, match=r"images/val/1\.png has no mask, .*exclude") as error:
        module(root).setup("fit")
    one_line(error)


def test_masks_missing_in_the_test_split_are_said_before_training_and_stop_only_tests(root):
    (root / "masks/test/0.png").unlink()
    data = module(root)
    with pytest.warns(UserWarning, match=r"training continues, .*images/test/0\.png has no mask"):
        data.setup("fit")
    with pytest.raises(ValueError, match=r"images/test/0\.png has no mask"):
        data.setup("test")


def test_a_missing_test_split_matters_only_to_tests(root):
    (root / "images/test/0.png").unlink()
    (root / "images/test").rmdir()
    data = module(root)
    data.setup("fit")
    with pytest.raises(FileNotFoundError, match=r"no folder .*images/test for split 'test': expected") as error:
        data.setup("test")
    one_line(error)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (
            "nowhere",
            "no folder .*nowhere for split 'train': expected images/{split}/NAME.jpg with masks/{split}",
        ),
        (".", "no folder .*images/train for split 'train': expected .*data.init_args.images, masks and splits"),
    ],
)
def test_missing_folders_are_named_with_the_expected_tree(tmp_path, folder, message):
    with pytest.raises(FileNotFoundError, match=message) as error:
        module(tmp_path / folder, classes=CLASSES).setup("fit")
    one_line(error)


def test_missing_class_names(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*classes\.txt: .*one per line") as error:
        module(tmp_path)
    one_line(error)


def test_an_empty_split(root):
    (root / "images/empty").mkdir()
    with pytest.raises(ValueError, match="images/empty holds no image") as error:
        module(root, splits={"train": "empty"}).dataset("train")
    one_line(error)


def test_a_mask_without_an_image_is_mentioned_and_left_out(root):
    save(root / "masks/train/lonely.png", np.zeros((20, 30)))
    with pytest.warns(UserWarning, match=r"masks/train/lonely\.png and 0 other masks have no image"):
        assert len(module(root).dataset("train")) == 3


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((20, 31), r"0\.png has 31x20 pixels, its image 0\.png 30x20: save"),
        ((30, 20), "turned by its EXIF tag"),
    ],
)
def test_a_mask_of_another_size(root, shape, message):
    save(root / "masks/train/0.png", np.zeros(shape))
    with pytest.raises(ValueError, match=message) as error:
        module(root).dataset("train").read(0)
    one_line(error)


def test_a_label_that_is_no_class(root):
    save(root / "masks/train/0.png", np.full((20, 30), 11))
    message = r"masks/train/0\.png: label 11 with 3 classes .*--data\.init_args\.remap '\{11: 255\}'"
    with pytest.raises(ValueError, match=message) as error:
        module(root).dataset("train").read(0)
    one_line(error)


def test_the_proposed_remedy_works(root):
    save(root / "masks/train/0.png", np.full((20, 30), 11))
    assert (module(root, remap={11: 255}).dataset("train").read(0).label == 255).all()


def test_templates_come_in_pairs(tmp_path):
    with pytest.raises(ValueError, match="must be as many"):
        module(tmp_path, classes=CLASSES, images=["a", "b"], masks="c")


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"eval_batch_size": 0}, {"img_size": (0, 3)}, {"seed": -1}])
def test_numbers_out_of_range(root, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        module(root, **bad)


@pytest.mark.parametrize("name", ["images/{splt}", "images/{}", "images/{split"])
@pytest.mark.parametrize("option", ["images", "masks"])
def test_a_wrong_placeholder(tmp_path, option, name):
    with pytest.raises(ValueError, match=f"{option}: '{re.escape(name)}' .*write {{split}}") as error:
        module(tmp_path, classes=CLASSES, **{option: name})
    one_line(error)


def test_one_folder_is_not_train_val_and_test(tmp_path):
    for i in range(12):
        write_pair(tmp_path, f"images/{i}.png", f"masks/{i}.png", value=i % 3)
    flat = {"classes": CLASSES, "images": "images", "masks": "masks"}
    with pytest.raises(ValueError, match=r"images would be train, val and test .*splits '\{val: 0\.1") as error:
        module(tmp_path, **flat).setup("fit")
    one_line(error)
    module(tmp_path, **flat).setup("test")  # a checkpoint may be tested on all of it
    module(tmp_path, **flat, splits={"val": 0.1, "test": 0.1}).setup("fit")
    write_pair(tmp_path, "a/train/0.png", "b/train/0.png")
    with pytest.raises(FileNotFoundError, match=r"no folder .*a/val for split 'val'"):
        module(tmp_path, classes=CLASSES, images="a/{split}", masks="b/{split}").setup("fit")
    with pytest.raises(FileNotFoundError, match=r"images/train for .*draw splits by .*splits '\{val: 0\.1"):
        module(tmp_path, classes=CLASSES).setup("fit")


def test_shares_do_not_pool_the_folders_of_splits(root):
    with pytest.raises(ValueError, match=r"images/train and images/val and images/test .* together") as error:
        module(root, splits={"val": 0.1, "test": 0.1}).setup("fit")
    one_line(error)
    for split in ("val", "test"):
        for kind in ("images", "masks"):
            shutil.rmtree(root / kind / split)
    assert len(module(root, splits={"val": 0.1}).dataset("val")) == 1


def test_folders_of_splits_above_images_and_masks_do_not_lead_out_of_the_root(tmp_path):
    write_pair(tmp_path, "images/a.png", "masks/a.png")
    templates = {"images": "{split}/images", "masks": "{split}/masks"}
    for splits in ({"train": "all.txt"}, {"val": 0.1}):
        (tmp_path / "all.txt").write_text("a\n")
        data = module(tmp_path, classes=CLASSES, **templates, splits=splits)
        assert [pair.image for pair in data.dataset("train").pairs] == [tmp_path / "images/a.png"]


def test_left_out_images_must_be_there(root):
    (root / "images/val/gone.png").symlink_to(root / "nowhere.png")
    (root / "other.jpg").touch()  # no image of a split, but it may have been one
    exclude = ["./images/train/0.png", "images/x/../val/1.png", "images/val/gone.png", "other.jpg"]
    data = module(root, exclude=exclude)
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [2, 1, 1]
    for wrong in ("train/0.png", "masks/train/0.png", "masks/val/0.png", "classes.txt"):
        message = rf"exclude: {wrong} and 0 others are not images: .* as in images/train/0\.png"
        with pytest.raises(ValueError, match=message) as error:
            module(root, exclude=[wrong]).dataset("train")
        one_line(error)


def test_photographs_and_masks_match_whatever_the_form_of_their_accents(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Köln") for form in ("NFC", "NFD"))
    write_pair(tmp_path, f"images/train/{apart}.png", f"masks/train/{composed}.png")
    data = module(tmp_path, classes=CLASSES)
    assert data.dataset("train").pairs[0].name == composed
    write_pair(tmp_path, "images/train/b.png", "masks/train/b.png")
    write_pair(tmp_path, "images/val/b.png", "masks/val/b.png")
    for form in (composed, apart):
        data = module(tmp_path, classes=CLASSES, exclude=[f"images/train/{form}.png"])
        assert [pair.name for split in ("train", "val") for pair in data.dataset(split).pairs] == ["b", "b"]
    data = module(tmp_path, classes=CLASSES)
    assert data.dataset("train").pairs[0].label is not None


def test_layout_finds_what_it_places(tmp_path):
    layout = FolderLayout(mask_suffix="_segm", splits={"val": "validation"})
    placed = [layout.place(tmp_path, "val", i) for i in range(3)]
    for pair in placed:
        write_pair(tmp_path, pair.image, pair.label)
    assert layout.pairs(tmp_path, "val") == placed


README = (Path(__file__).parents[2] / "README.md").read_text()
OPTIONS = re.findall(r"`(\w+: [^`]+)`", re.search(r"## Your own images.*?\n## ", README, flags=re.DOTALL)[0])


@pytest.mark.parametrize("option", OPTIONS)
def test_options_that_the_readme_shows_are_taken(tmp_path, option):
    given = yaml.safe_load(option)
    assert given.keys() <= inspect.signature(FolderDataModule.__init__).parameters.keys()
    module(tmp_path, classes=["road", "car", "bus", "tree", "void"], **given)


def test_the_readme_shows_options():
    assert {next(iter(yaml.safe_load(option))) for option in OPTIONS} >= {"merge", "ignore", "splits", "images"}


def test_the_readmes_folder_is_read_as_it_stands(tmp_path):
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    for i in range(12):
        write_pair(tmp_path, f"images/{i}.jpg", f"masks/{i}.png", value=i % 2)
    data = module(tmp_path, splits={"val": 0.1, "test": 0.1})
    data.setup("fit")
    assert sum(len(data.dataset(split)) for split in ("train", "val", "test")) == 12


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[("int8", -1), ("int16", -1), ("int16", -9999), ("int32", -(2**31)), ("float32", -9999)],
        *[("uint16", 65535), ("uint32", 2**32 - 1), ("float32", 65535), ("float64", 255.0)],
    ],
)
def test_nodata_is_named_and_read_as_no_class_where_options_say_so(tmp_path, kind, value):
    value, number = int(value), value
    truth = np.array([[0, 1, 2, number], [number, 2, 1, 0]], kind)
    save(tmp_path / "images/train/a.png", np.zeros((2, 4, 3)))
    (tmp_path / "masks/train").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "masks/train/a.tif", truth)

    def read(classes, **options):
        return module(tmp_path, classes=classes, **options).dataset("train").read(0).label.tolist()

    if value == 255:  # floating-point ids are ids
        assert read(CLASSES) == [[0, 1, 2, 255], [255, 2, 1, 0]]
        return
    with pytest.raises(ValueError, match=rf"a\.tif: label {value} with 3 classes .*{value}: 255") as error:
        read(CLASSES)
    assert ("negative numbers are not class ids" in one_line(error)) == (value < 0)
    for options in ({"ignore": [value]}, {"remap": {value: 255}}):
        assert read(CLASSES, **options) == [[0, 1, 2, 255], [255, 2, 1, 0]]
    assert read(CLASSES, ignore=[value, 2]) == [[0, 1, 255, 255], [255, 255, 1, 0]]
    assert read([*CLASSES, "void"], remap={value: 3}) == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert read([f"{value} void", "0 a", "1 b", "2 c"]) == [[1, 2, 3, 0], [0, 3, 2, 1]]


@pytest.mark.parametrize(
    ("values", "message"),
    [([0, 0.5], "float32, such as 0.5"), ([0, np.nan], "NaN in 1 pixels"), ([0, -3.4e38], "such as -3.4e"),
     ([1, np.inf], "such as inf")],
)  # fmt: skip
def test_masks_of_fractions_are_refused(tmp_path, values, message):
    save(tmp_path / "images/train/a.png", np.zeros((1, 2, 3)))
    (tmp_path / "masks/train").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "masks/train/a.tif", np.array([values], np.float32))
    with pytest.raises(ValueError, match=rf"a\.tif .*{message}"):
        module(tmp_path, classes=CLASSES).dataset("train").read(0)
