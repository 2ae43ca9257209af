"""Ids in files and training ids."""

import numpy as np
import pytest

from segbench.data.spec import DatasetSpec, default_palette


def spec(num_classes, **arguments):
    return DatasetSpec(tuple(f"c{i}" for i in range(num_classes)), default_palette(num_classes), **arguments)


ADE = {0: 255} | {k: k - 1 for k in range(1, 151)}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize(
    ("num_classes", "remap", "pairs"),
    [
        (150, ADE, [(0, 255), (1, 0), (2, 1), (150, 149), (255, 255)]),  # 0 − 1 must not wrap around to a class
        (11, {11: 255}, [(0, 0), (10, 10), (11, 255), (255, 255)]),
        (3, {}, [(0, 0), (2, 2), (255, 255)]),
        (2, {7: 0, 8: 1} | dict.fromkeys(range(7), 255), [(7, 0), (8, 1), (3, 255)]),
    ],
)
def test_decodes_each_id_as_told(num_classes, remap, pairs, dtype):
    file_ids = np.array([[file_id for file_id, _ in pairs]], dtype)
    label = spec(num_classes, remap=remap).decode(file_ids)
    assert label.tolist() == [[label for _, label in pairs]]
    assert label.dtype == np.uint8


@pytest.mark.parametrize("remap", [ADE, {}, {200: 255}, {i: 149 - i for i in range(150)}])
def test_encode_and_decode_are_inverse(remap):
    training_ids = np.array([[*range(150), 255]])
    dataset = spec(150, remap=remap)
    array = dataset.encode(training_ids)
    assert array.dtype == np.uint8
    assert np.array_equal(dataset.decode(array), training_ids)


def test_ade_writes_ignored_pixels_as_zero():
    assert spec(150, remap=ADE).encode(np.array([[255, 0, 149]])).tolist() == [[0, 1, 150]]


def test_more_classes_than_bytes_hold():
    dataset = spec(300, ignore_index=65535)
    array = np.array([[0, 255, 256, 299, 65535]], np.uint16)
    assert np.array_equal(dataset.decode(array), array)
    assert np.array_equal(dataset.encode(array), array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[3, 11]], np.uint8), r"label 11 with 11 classes .*--data.init_args.remap '\{11: 255\}'"),
        (np.array([[11, 200]], np.uint16), r"label 11, 200 with 11 classes .*\{11: 255, 200: 255\}"),
        (np.array([[-1, 3]], np.int32), "label -1 with 11 classes"),
        (np.array([[70000]], np.int32), "label 70000 with 11 classes"),
        (np.arange(256, dtype=np.uint8)[None], "look like grey values"),
    ],
)
def test_names_ids_that_are_no_class(array, message):
    with pytest.raises(ValueError, match=message) as error:
        spec(11).decode(array)
    assert "\n" not in str(error.value)


def test_the_proposed_remap_keeps_the_present_one():
    with pytest.raises(ValueError, match=r"'\{11: 255, 12: 255\}'"):
        spec(11, remap={11: 255}).decode(np.array([[12]], np.uint8))


def test_a_label_that_no_file_can_hold_is_not_written():
    with pytest.raises(ValueError, match=r"labels \[1\]"):
        spec(2, remap={1: 0}).encode(np.array([[0, 1]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ignore_index": 2}, "ignore_index=2 with 3 classes"),
        ({"ignore_index": -1}, "ignore_index=-1"),
        ({"remap": {0: -1}}, r"remap \{0: -1\}"),
        ({"remap": {0: 3}}, r"remap \{0: 3\}"),
        ({"remap": {-(2**40): 0}}, r"remap \{-1099511627776: 0\}"),
    ],
)
def test_refuses_contradictions(arguments, message):
    with pytest.raises(ValueError, match=message):
        spec(3, **arguments)


def test_refuses_two_classes_of_one_name():
    with pytest.raises(ValueError, match="each of them once"):
        DatasetSpec(("a", "a"), default_palette(2))
    with pytest.raises(ValueError, match="1 colours for 2 classes"):
        DatasetSpec(("a", "b"), default_palette(1))


def test_palette_is_distinct_and_stays():
    assert len(set(default_palette(1000))) == 1000
    assert default_palette(20) == default_palette(40)[:20]
