"""Conclusions from records alone: conventions of ids and colours that take other datasets than a folder's."""

from dataclasses import replace

import pytest

from segbench.commands.doctor.diagnose import diagnose
from segbench.commands.doctor.examine import Record
from segbench.commands.doctor.finding import Finding, as_yaml, remedy
from segbench.data.ade20k import ADE20K_SPEC
from segbench.data.cityscapes_classes import CITYSCAPES_SPEC
from segbench.data.spec import DatasetSpec, default_palette

VIVID = DatasetSpec(("sky", "road", "car"), ((1, 1, 1), (2, 2, 2), (3, 0, 3)))
SPEC = DatasetSpec(("sky", "road", "car"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
OPTIONS = {"remap", "exclude", "palette", "ignore", "splits", "split_seed"}


def records(*ids, **fields):
    """Makes one record for each set of ids, each of its own image, training and validation in turn."""
    return [
        Record(
            ("train", "val")[i % 2], f"{i}.png", f"m/{i}.png", (4, 4), (4, 4), digest=str(i), **fields
        )._replace(ids=dict.fromkeys(row, 2))
        for i, row in enumerate(ids)
    ]


def painted(*colors):
    return [
        Record(split, f"{split}.png", f"m/{split}.png", (4, 4), (4, 4), fault="colour mask",
               colors=dict.fromkeys(colors, 5), digest=split)
        for split in ("train", "val")
    ]  # fmt: skip


def errors(found):
    return {finding.name: finding for finding in found if finding.level == "error"}


def test_training_ids_of_cityscapes_are_told_from_label_ids():
    found = errors(diagnose(records([0, 1, 18, 255], [2, 13]), CITYSCAPES_SPEC, OPTIONS))
    assert found["trainIds for labelIds"].options == {"remap": {i: i for i in range(19)}}
    sound = records([0, 7, 8, 26], [11, 33], [7, 255])
    assert not errors(diagnose(sound, CITYSCAPES_SPEC, OPTIONS))


def test_an_id_too_many_may_also_be_the_first():
    (finding,) = errors(diagnose(records([0, 1], [2, 3]), SPEC, OPTIONS)).values()
    assert finding.name == "ids 0..N"
    assert not finding.options
    assert "{3: 255}" in finding.advice
    assert "{0: 255, 1: 0, 2: 1, 3: 2}" in finding.advice


@pytest.mark.parametrize("present", [[0, 1, 2], [0, 2], [1], [0, 1, 2, 255]])
def test_ids_as_they_should_be_are_no_fault(present):
    names = errors(diagnose(records(present, present, [0, 1]), SPEC, OPTIONS))
    assert not names


def test_remapped_ids_are_known():
    spec = DatasetSpec(("a", "b"), default_palette(2), remap={255: 1, 7: 0})
    assert not errors(diagnose(records([0, 255], [7, 255]), spec, OPTIONS))


@pytest.mark.parametrize("greys", [[0, 255], [0, 1, 2], [0, 2, 255], [0, 7, 99, 255]])
def test_grey_values_saved_as_rgb_lead_to_one_channel(greys):
    found = errors(diagnose(painted(*((g, g, g) for g in greys)), SPEC, OPTIONS))
    assert not found["RGB masks"].options
    assert "getchannel(0)" in found["RGB masks"].advice


def test_colours_beside_those_of_the_classes_are_not_ignored_unasked():
    finding = errors(diagnose(painted((1, 1, 1), (2, 2, 2), (9, 8, 7)), VIVID, OPTIONS))["RGB masks"]
    assert not finding.options
    assert "lines 'R G B name'" in errors(diagnose(painted((9, 8, 7)), SPEC, OPTIONS))["RGB masks"].advice


def test_masks_that_were_converted_already_are_named():
    spec = DatasetSpec(("a", "b", "c"), default_palette(3), remap={0: 255, 1: 0, 2: 1, 3: 2})
    assert "ids converted already" in errors(diagnose(records([0, 1, 255], [2, 0]), spec, OPTIONS))
    assert not errors(diagnose(records([0, 1, 3], [2, 3, 1]), spec, OPTIONS))
    found = errors(diagnose(records([0, 1, 8], [2, 10, 13]), CITYSCAPES_SPEC, OPTIONS))["trainIds for labelIds"]
    assert not found.options
    fixed = replace(CITYSCAPES_SPEC, remap={**CITYSCAPES_SPEC.remap, **{i: i for i in range(19)}})
    assert "trainIds for labelIds" not in errors(diagnose(records([0, 1, 8, 255], [2, 13]), fixed, OPTIONS))


def test_training_ids_among_label_ids_are_named():
    rows = [0, 7, 8, 26], [11, 33], [0, 2, 8, 10, 255]
    found = errors(diagnose(records(*rows), CITYSCAPES_SPEC, OPTIONS))["mixed ids"]
    assert found.files == ["m/2.png"]
    rows = [0, 7, 8, 26], [11, 33], [0, 2, 8, 10]
    (found,) = [f for f in diagnose(records(*rows), CITYSCAPES_SPEC, OPTIONS) if f.name == "mixed ids"]
    assert (found.level, found.files) == ("warning", ["m/2.png"])
    rows = [0, 7, 8, 26], [11, 33], [0, 7, 8, 11, 17]  # as labels are that were turned back
    assert "mixed ids" not in {f.name for f in diagnose(records(*rows), CITYSCAPES_SPEC, OPTIONS)}


@pytest.mark.parametrize(
    ("rows", "level"),
    [
        (([0, 3, 255], [0, 1, 150]), "error"),
        (([0, 3], [0, 1, 150]), None),
        (([0, 3, 150], [0, 1, 150, 255]), None),
    ],
)
def test_shifted_masks_among_others_are_named(rows, level):
    found = {f.name: f for f in diagnose(records(*rows), ADE20K_SPEC, OPTIONS)}
    assert ("mixed ids" in found) == (level is not None)
    if level:
        assert (found["mixed ids"].level, found["mixed ids"].files) == (level, ["m/0.png"])
    own = DatasetSpec(tuple("abc"), default_palette(3), remap={0: 255, 1: 0, 2: 1, 3: 2})
    (mixed,) = [f for f in diagnose(records([0, 1, 255], [0, 3]), own, OPTIONS) if f.name == "mixed ids"]
    assert mixed.level == "warning"  # 255 may be beside 1..N there


def test_one_folder_for_all_splits_is_divided():
    twice = [
        Record(split, "0.png", "m/0.png", (4, 4), (4, 4), {0: 1, 1: 2}, "same") for split in ("train", "val")
    ]
    assert errors(diagnose(twice, SPEC, OPTIONS))["images in two splits"].options == {
        "splits": {"val": 0.1, "test": 0.1}
    }


def test_palettes_whose_colours_are_not_those_of_the_classes_are_of_no_consequence():
    colors = {0: (9, 9, 9), 1: (3, 3, 3)}
    assert not errors(diagnose(records([0, 1], [0, 1], palette=colors), SPEC, OPTIONS))
    swapped = {0: (2, 2, 2), 1: (1, 1, 1)}
    found = errors(diagnose(records([0, 1], [0, 1], palette=swapped), SPEC, OPTIONS))
    assert found["palette order"].options == {"remap": {0: 1, 1: 0}}


def test_remedies_keep_what_was_given_and_leave_out_what_the_dataset_has_no_option_for():
    findings = [
        Finding("error", "a", "", options={"remap": {7: 255}, "exclude": ["b.png"]}),
        Finding("error", "b", "", options={"remap": {8: 255}, "palette": [[1, 2, 3]]}),
    ]
    overlay = remedy(findings, {"remap": {9: 0}, "exclude": ["a.png"], "root": "x"}, {"remap", "exclude"})
    assert overlay == {"data": {"init_args": {"remap": {9: 0, 7: 255, 8: 255}, "exclude": ["a.png", "b.png"]}}}
    assert as_yaml(overlay).splitlines()[-1] == "    exclude: [a.png, b.png]"
    assert remedy(findings[1:], {}, {"exclude"}) is None


def test_half_of_the_pixels_without_a_class_is_a_warning():
    many = [Record("train", "0.png", "m.png", (4, 4), (4, 4), {0: 1, 255: 8}, "0")]
    (finding,) = [f for f in diagnose(many, SPEC, OPTIONS) if f.name == "ignored pixels"]
    assert finding.level == "warning"
    assert "88.9%" in finding.text
