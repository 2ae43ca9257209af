"""Somebody's own classes: numbered, coloured, merged, ignored."""

import numpy as np
import pytest
from PIL import Image

from segbench.data.class_files import read_rows, rows_of
from segbench.data.class_table import read_table, training_spec
from segbench.data.folder import FolderDataModule
from segbench.data.io.color_masks import ids_of_colors
from segbench.data.spec import default_palette

NAMES = ["sky", "road", "car", "bus", "void"]
COLORS = [(70, 130, 180), (128, 64, 128), (0, 0, 142), (0, 60, 100), (0, 0, 0)]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def folder(tmp_path, mask, **arguments):
    """One image with one mask, read through the data module."""
    save(tmp_path / "images/train/a.png", np.zeros((*np.shape(mask)[:2], 3)))
    save(tmp_path / "masks/train/a.png", mask)
    return FolderDataModule(tmp_path, **({"classes": NAMES, "num_workers": 0} | arguments))


def labels(data):
    return data.dataset("train").read(0).label.tolist()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["sky", "car"], [("sky", 0), ("car", 1)]),
        (["7 sky", "26 sports car"], [("sky", 7), ("sports car", 26)]),
        (["2-wheeler", "car"], [("2-wheeler", 0), ("car", 1)]),
        (["highway 66", "3d model"], [("highway 66", 0), ("3d model", 1)]),
        (["70 130 180 sky", "0 0 142\tcar"], [("sky", 0, (70, 130, 180)), ("car", 1, (0, 0, 142))]),
        (["70, 130, 180, sky", "0,0,142 car"], [("sky", 0, (70, 130, 180)), ("car", 1, (0, 0, 142))]),
        (["7 70 130 180 sky", "26 0 0 142 car"], [("sky", 7, (70, 130, 180)), ("car", 26, (0, 0, 142))]),
    ],
)
def test_lines_of_a_table(lines, expected):
    palette = default_palette(2)
    whole = [entry if len(entry) == 3 else (*entry, palette[i]) for i, entry in enumerate(expected)]
    assert read_table(rows_of(lines)) == whole


def test_a_table_in_a_file(tmp_path):
    (tmp_path / "table.txt").write_text("7 sky\n\n26 car\n27 car\n", encoding="utf-8")
    data = folder(tmp_path, [[7, 26, 27, 255]], classes="table.txt")
    assert data.class_names == ["sky", "car"]  # lines of one name are one class
    assert labels(data) == [[0, 1, 1, 255]]


def test_ids_that_the_table_does_not_name_are_no_classes(tmp_path):
    """With classes 7 and 26, the ids 0 and 1 must not pass for the first and second class."""
    data = folder(tmp_path, [[7, 0, 1]], classes=["7 sky", "26 car"])
    with pytest.raises(ValueError, match=r"a\.png: label 0, 1 with 2 classes .*remap"):
        labels(data)
    assert labels(folder(tmp_path, [[7, 0, 1]], classes=["7 sky", "26 car"], ignore=[0, 1])) == [[0, 255, 255]]
    assert labels(folder(tmp_path, [[7, 0, 1]], classes=["7 sky", "26 car"], remap={0: 1, 1: 255})) == [
        [0, 1, 255]
    ]


def test_merging_takes_the_place_and_colour_of_the_first(tmp_path):
    data = folder(tmp_path, [[0, 1, 2, 3, 4]], palette=COLORS, merge={"vehicle": ["bus", "car"]})
    assert data.class_names == ["sky", "road", "vehicle", "void"]
    assert data.palette == [list(color) for color in (COLORS[0], COLORS[1], COLORS[2], COLORS[4])]
    assert labels(data) == [[0, 1, 2, 2, 3]]
    joined = folder(tmp_path, [[0, 1, 2, 3, 4]], merge={"car": ["bus"]})  # into a class that is there
    assert joined.class_names == ["sky", "road", "car", "void"]
    assert labels(joined) == [[0, 1, 2, 2, 3]]


@pytest.mark.parametrize("ignore", [["void", "road"], [4, 1], [4, "road"], ["0 0 0", "128 64 128"]])
def test_ignoring_by_name_id_or_colour(tmp_path, ignore):
    data = folder(tmp_path, [[0, 1, 2, 3, 4, 255]], palette=COLORS, ignore=ignore)
    assert data.class_names == ["sky", "car", "bus"]
    assert labels(data) == [[0, 255, 1, 2, 255, 255]]


@pytest.mark.parametrize("classes", [["0 0 0 0 bg", "255 255 255 255 fg"], ["0 0 0 bg", "255 255 255 fg"]])
def test_an_ignored_colour_is_never_a_class(tmp_path, classes):
    painted = [[[0, 0, 0], [255, 255, 255], [9, 9, 9]]]
    data = folder(tmp_path, painted, classes=classes, ignore=["9 9 9"])
    assert labels(data) == [[0, 1, 255]]
    with pytest.raises(ValueError, match="label 2 with 2 classes"):  # in masks of ids nothing changes
        labels(folder(tmp_path, [[0, 2]], classes=classes, ignore=["9 9 9"]))


def test_an_ignored_colour_stays_so_though_remap_makes_a_class_of_255(tmp_path):
    table = {"classes": ["255 0 0 sky", "0 255 0 road"], "ignore": ["9 9 9"], "remap": {255: 1}}
    painted = [[[255, 0, 0], [0, 255, 0], [9, 9, 9]]]
    assert labels(folder(tmp_path, painted, **table)) == [[0, 1, 255]]
    assert labels(folder(tmp_path, [[0, 1, 255]], **table)) == [[0, 1, 1]]


@pytest.mark.parametrize("alpha", [0, 254])
def test_transparent_pixels_of_painted_masks_are_refused(tmp_path, alpha):
    """Below them lies some colour, often that of a class, which nobody sees."""
    painted = [[[*COLORS[0], 255], [*COLORS[1], alpha], [*COLORS[1], 255]]]
    with pytest.raises(ValueError, match=r"a\.png: 1 pixels are transparent, .*: fill them with"):
        labels(folder(tmp_path, painted, palette=COLORS))


def test_what_cannot_be_a_label_is_held_against_the_ids_of_the_table(tmp_path):
    with pytest.raises(ValueError, match=r"label 3 with 2 classes \(1, 2, 4\)"):
        labels(folder(tmp_path, [[1, 3]], classes=["1 a", "2 b", "4 c"], merge={"ab": ["a", "b"]}))


def test_a_table_of_another_encoding_is_named(tmp_path):
    (tmp_path / "classes.txt").write_bytes("straße\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.txt is not UTF-8: save it as UTF-8"):
        FolderDataModule(tmp_path)


def test_merged_classes_may_be_ignored_too(tmp_path):
    data = folder(tmp_path, [[0, 1, 2, 3, 4]], merge={"vehicle": ["bus", "car"]}, ignore=["vehicle", 9])
    assert data.class_names == ["sky", "road", "void"]
    assert labels(data) == [[0, 1, 255, 255, 2]]


def test_what_is_written_is_read_again():
    spec, _ = training_spec(
        read_table(rows_of(["7 sky", "26 car", "27 bus"])), {"vehicle": ["car", "bus"]}, [0, 1]
    )
    assert spec.encode(np.array([[0, 1, 255]])).tolist() == [[7, 26, 0]]
    assert spec.decode(spec.encode(np.array([[0, 1, 255]]))).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("how", ["palette", "table"])
@pytest.mark.parametrize("alpha", [False, True])
def test_masks_painted_in_the_classes_colours(tmp_path, how, alpha):
    classes = {"classes": NAMES, "palette": COLORS}
    if how == "table":
        rows = zip(COLORS, NAMES, strict=True)
        classes = {"classes": [f"{' '.join(map(str, color))} {name}" for color, name in rows]}
    expected = np.random.default_rng(0).integers(0, 5, (13, 17))
    painted = np.array(COLORS, np.uint8)[expected]  # (13, 17, 3)
    if alpha:
        painted = np.concatenate([painted, np.full((13, 17, 1), 255, np.uint8)], -1)
    assert labels(folder(tmp_path, painted, **classes)) == expected.tolist()
    ignoring = folder(tmp_path, painted, **classes, ignore=["void"], merge={"vehicle": ["car", "bus"]})
    assert labels(ignoring) == np.array([0, 1, 2, 2, 255])[expected].tolist()
    assert labels(folder(tmp_path, expected, **classes)) == expected.tolist()  # grey masks of the same classes


def test_every_colour_is_told_from_its_neighbours():
    rng = np.random.default_rng(0)
    known = {tuple(color): i for i, color in enumerate(rng.integers(0, 256, (40, 3)).tolist())}
    ids = rng.integers(0, len(known), (30, 20))
    picture = np.array(list(known), np.uint8)[ids]
    slow = [[known[tuple(pixel)] for pixel in row] for row in picture.tolist()]
    assert ids_of_colors(picture, known).tolist() == slow == ids.tolist()
    for channel in range(3):
        near = picture.copy()
        near[3, 4, channel] ^= 1
        if tuple(near[3, 4].tolist()) not in known:
            with pytest.raises(ValueError, match="in 1 pixels"):
                ids_of_colors(near, known)


def test_an_unknown_colour_is_named_with_its_count_and_the_remedy_works(tmp_path):
    painted = np.array(COLORS, np.uint8)[np.zeros((6, 5), int)]
    painted[:2] = (12, 3, 4)
    painted[2, 0] = (9, 9, 9)
    with pytest.raises(
        ValueError, match="colour 12 3 4 in 10 pixels, and 1 others in 1, mean no class"
    ) as error:
        labels(folder(tmp_path, painted, palette=COLORS))
    text = str(error.value)
    assert "\n" not in text
    assert str(tmp_path / "masks/train/a.png") in text
    assert "--data.init_args.ignore+='[12 3 4, 9 9 9]'" in text
    fixed = labels(folder(tmp_path, painted, palette=COLORS, ignore=["12 3 4", "9 9 9"]))
    assert fixed == [[255] * 5] * 2 + [[255, 0, 0, 0, 0]] + [[0] * 5] * 3


def test_smoothed_masks_are_recognised(tmp_path):
    painted = np.random.default_rng(0).integers(0, 256, (20, 20, 3))
    with pytest.raises(ValueError, match="mixed by smoothing or JPEG") as error:
        labels(folder(tmp_path, painted, palette=COLORS))
    assert "\n" not in str(error.value)


def test_one_colour_for_two_classes_matters_in_painted_masks_only(tmp_path):
    palette = [*COLORS[:3], COLORS[2], COLORS[4]]
    assert labels(folder(tmp_path, [[2, 3]], palette=palette)) == [[2, 3]]
    painted = np.array(palette, np.uint8)[[[2, 0]]]
    with pytest.raises(ValueError, match="colour 0 0 142 in 1 pixels mean no class, or two"):
        labels(folder(tmp_path, painted, palette=palette))
    merged = folder(tmp_path, painted, palette=palette, merge={"vehicle": ["car", "bus"]})
    assert labels(merged) == [[2, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"merge": {"vehicle": ["car", "tram"]}},
            "merge: vehicle: unknown class 'tram'; classes are bus, car",
        ),
        ({"merge": {"a": ["car"], "b": ["car"]}}, "'car' goes to 'a' and to 'b'"),
        ({"ignore": ["voids"]}, "ignore: unknown class 'voids'"),
        ({"ignore": NAMES}, "none is left of 5"),
        ({"palette": COLORS[:2]}, "palette has 2 colours for 5 classes"),
        ({"classes": ["1 2 3 a"], "palette": [(0, 0, 0)]}, "both give colours"),
        ({"classes": ["1 2 300 a"]}, "colour 1 2 300: each of"),
        ({"classes": ["1 2 3 a", "b"]}, "must be all 'name', 'id name'"),
        ({"classes": ["1 road", "2 car", "void"]}, "'1 road' has an id and 'void' has none: .*'2-wheeler'"),
        ({"classes": ["name,r,g,b", "road,128,64,128"]}, "'road,128,64,128' has numbers behind .*'R G B name'"),
        ({"classes": ["road 128 64 128"]}, "'road 128 64 128' has numbers behind the name"),
        ({"classes": ["1: sky", "2: road"]}, "'1: sky' has a sign behind the id: write 'id name'"),
        ({"classes": ["1) sky"]}, "has a sign behind the id"),
        ({"classes": ["# mine", "road"]}, "'# mine' begins with '#'.*take comments out"),
        ({"classes": ["7 a", "7 b"]}, "id 7 occurs twice"),
        ({"classes": ["a", "a"]}, "'a' occurs twice"),
    ],
)
def test_contradictions_are_one_line(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        folder(tmp_path, [[0]], **arguments)
    assert "\n" not in str(error.value)


ADE = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.15\t9\t7\t1\twall\n2\t0.1\t6\t6\t1\tbuilding, edifice\n"
CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nsports car:10,20,30:door,wheel:drive\n"
READ = [
    ("labels.txt", "__ignore__\n_background_\nred\n", [("_background_", 0), ("red", 1)]),
    ("labelmap.txt", CVAT, [("background", 0, (0, 0, 0)), ("sports car", 1, (10, 20, 30))]),
    ("labelmap.txt", CVAT.partition("\n")[2], [("background", 0, (0, 0, 0)), ("sports car", 1, (10, 20, 30))]),
    ("data.yaml", "path: x\nnc: 2\nnames: [bg, 3d model]\n", [("bg", 0), ("3d model", 1)]),
    ("data.yml", "names:\n  0: bg\n  5: car\n", [("bg", 0), ("car", 5)]),
    ("coco.json", '{"images": [], "categories": [{"id": 3, "name": "car", "isthing": 1}]}', [("car", 3)]),
    ("config.json", '{"id2label": {"0": "bg", "1": "car"}}', [("bg", 0), ("car", 1)]),
    ("label2id.json", '{"bg": 0, "car": 4}', [("bg", 0), ("car", 4)]),
    ("names.json", '["bg", "7 up"]', [("bg", 0), ("7 up", 1)]),
    ("objectInfo150.txt", ADE, [("wall", 1), ("building, edifice", 2)]),
    ("dict.csv", "name,r,g,b\nbg,0,0,0\ncar, 64,0,128\n", [("bg", 0, (0, 0, 0)), ("car", 1, (64, 0, 128))]),
    ("c.csv", 'ID;Class;Color\n0;bg;#000001\n2;"a; b";9 8 0\n', [("bg", 0, (0, 0, 1)), ("a; b", 2, (9, 8, 0))]),
    ("c.csv", "label,name\n0,bg\n1,car\n", [("bg", 0), ("car", 1)]),
    ("_classes.csv", "Pixel Value, Class\n0, bg\n3, car\n", [("bg", 0), ("car", 3)]),  # Roboflow
    ("c.txt", "\ufeffbg  \r\n\r\ncar\t\r\n", [("bg", 0), ("car", 1)]),
    ("c.txt", "1 road\n2 car\n", [("road", 1), ("car", 2)]),
    ("c.txt", "0,bg\n7,car\n", [("bg", 0), ("car", 7)]),
    ("c.txt", "-1 void\n0 car\n", [("void", -1), ("car", 0)]),
    ("c.txt", "level 1\nlevel 2\n", [("level 1", 0), ("level 2", 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("file", "text", "expected"), READ)
def test_lists_of_classes_that_tools_write(tmp_path, file, text, expected):
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    entries = read_table(read_rows(tmp_path, file))
    palette = default_palette(len(expected))
    assert entries == [entry if len(entry) == 3 else (*entry, palette[i]) for i, entry in enumerate(expected)]


BOMB = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 10)}]" for i in range(10))
REFUSED = [
    ("c.txt", "road\n__ignore__\n", "line 2: '__ignore__' is not a class"),
    ("c.txt", "255 __ignore__\n0 road\n", "line 1: '__ignore__' is not a class"),
    ("c.txt", "name\nsky\n", "line 1: 'name' looks like a header"),
    ("c.txt", "road 0\ncar 1\n", "line 1: 'road 0', like all lines, has a number behind the name: .*'id name'"),
    ("c.txt", "road\t0\ncar\t1\n", "has a number behind the name"),
    ("c.txt", "road,0\ncar,1\n", "line 1: 'road,0' has a number behind the name: write 'id name'"),
    ("c.txt", "sky\n# trees\ntree\n", "line 2: '# trees' begins with '#'"),
    ("c.txt", "#ff0000 road\n", "begins with '#'"),
    ("c.txt", "0\troad\tdrivable\n", r"line 1: .*other columns need a first line"),
    ("c.txt", '"road"\n"car"\n', "line 1: \"road\" stands in quotes, which would be part of the name"),
    ("c.txt", "'road'\n'car'\n", "line 1: 'road' stands in quotes"),
    ("c.txt", "sky #0000ff\nroad #804080\n", "line 1: 'sky #0000ff' has a colour behind the name"),
    ("c.txt", "sky, road, car\n", "line 1: 'sky, road, car' looks like several names: write one per line"),
    ("c.txt", "sky;road\n", "looks like several names"),
    ("c.txt", "- road\n- car\n", "line 1: '- road' is not a plain name"),
    ("c.txt", "['road', 'car']\n", "is not a plain name"),
    ("c.txt", "names:\n  0: road\n", "line 1: 'names:' is not a plain name"),
    ("c.txt", "road,\ncar,\n", "line 1: 'road,' is not a plain name"),
    ("c.txt", "21\nroad\n", "line 1: '21' is a number without a name"),
    ("c.txt", "\n\n", "there is none"),
    ("c.txt", CVAT + "road 1 2 3\n", "line 4: 'road 1 2 3' is not 'label:color_rgb"),
    ("c.csv", "name,pixels\nroad,7\ncar,9\n", "line 1: column 'pixels' may be the id"),
    ("c.csv", "id,index,name\n0,1,road\n1,2,car\n", "line 1: has columns id, index of ids"),
    ("c.csv", "id,name\n0,road\n1,car,x\n", "line 3: '1,car,x' has 3 columns, line 1 has 2"),
    ("c.csv", "id,name\n0,road\none,car\n", "line 3: 'one' is not a whole number"),
    ("c.csv", "name,color\nroad,red\n", "line 2: 'red' is not a colour"),
    ("c.csv", "id,name\n0,road\n0,car\n", "line 3: id 0 occurs twice"),
    ("data.yaml", "nc: 3\nnames: [a, b]\n", "nc is 3, but there are 2 names"),
    ("data.yaml", "names: [off, on]\n", "False is not a name: put it in quotes"),
    ("data.yaml", "names: [a, a]\n", "'a' occurs twice"),
    ("data.yaml", "train: x\n", "has neither names nor categories"),
    ("data.yaml", "names: [a\n", r"data\.yaml, line 1: .* is not closed"),
    ("data.yaml", BOMB + "\nnames: [*a9]\n", "aliases"),
    ("c.json", "[" * 99 + '"x"' + "]" * 99, "is not a name"),
    ("meta.json", '{"classes": [{"title": "road", "color": "#FF0000"}]}', "neither names nor categories"),
    ("meta.json", '[{"title": "road"}]', "each class needs id and name"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "text", "message"), REFUSED)
def test_lists_that_may_mean_something_else_are_refused_by_line(tmp_path, file, text, message):
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_table(read_rows(tmp_path, file))
    assert "\n" not in str(error.value)
    assert file in str(error.value) or message == "there is none"
