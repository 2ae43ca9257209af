"""Damaged run folders are refused with the file and the field."""

import json

import numpy as np
import pytest

from segbench.commands.segment.record import open_record
from segbench.runs.ledger_file import Ledger, load_ledger, save_ledger
from segbench.runs.run_json import read_config, read_run_json

SCORES = {"miou": 0.5, "macc": None, "aacc": 0.7, "step": 3, "iou": {"sky": 0.5, "road": None}}
RUN = {
    "verb": "fit",
    "finished": True,
    "checkpoint": None,
    "wandb": {"id": "a", "project": "b"},
    "parameters": {"encoder": 1, "total": 2},
    "step_time_s": 0.5,
    "scores": {"val": SCORES},
    "history": [{"step": 3, "miou": 0.5, "macc": None, "aacc": 0.7}],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("verb", None),
        ("finished", "yes"),
        ("checkpoint", 3),
        ("wandb", "abc"),
        ("wandb", {"id": None}),
        ("parameters", {"total": "many"}),
        ("parameters", [1]),
        ("step_time_s", "fast"),
        ("scores", []),
        ("scores", {"val": None}),
        ("scores", {"val": {"macc": 0.5}}),
        ("scores", {"val": SCORES | {"miou": "high"}}),
        ("scores", {"val": SCORES | {"iou": {"sky": "high"}}}),
        ("history", {}),
        ("history", [None]),
        ("history", [{"miou": 0.5}]),
        ("history", [{"step": 3, "miou": [0.5]}]),
        ("device", "cpu"),
    ],
)
def test_run_json_with_a_field_of_the_wrong_type_names_the_field(tmp_path, field, value):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(RUN))
    assert read_run_json(tmp_path) == RUN
    path.write_text(json.dumps(RUN | {field: value}))
    with pytest.raises(ValueError, match=f"run.json is damaged \\({field}: expected "):
        read_run_json(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_run_json_that_is_not_an_object_is_damaged(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        read_run_json(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"a: [", b"- 1", b"\xff\xfe\xfa", b"text", b"1: 2", b"a: !!python/name:os.system"]
)
def test_config_yaml_that_is_not_a_configuration_is_damaged(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config.yaml is damaged") as error:
        read_config(path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"names": np.array("one")},
        {"names": np.array([1, 2])},
        {"class_names": np.array([[b"a"]])},
        {"split": np.array([1.0])},
        {"offsets": np.array([0.0, 1.0])},
        {"offsets": np.array(0)},
        {"rows": np.zeros((1, 3))},
        {"rows": np.zeros(3, np.int64)},
        {"rows": np.array([[0, 0, -1]])},
        {"rows": np.array([[0, 7, 1]])},
    ],
)
def test_a_ledger_with_an_array_of_the_wrong_kind_is_refused(tmp_path, change):
    path = tmp_path / "ledger.npz"
    ledger = Ledger(("a",), np.array([0, 1]), np.array([[0, 1, 5]]))
    save_ledger(path, ledger, "val", ["sky", "road"])
    arrays = dict(np.load(path))
    assert load_ledger(path).ledger.total(2)[0, 1] == 5
    np.savez(path, **(arrays | change))
    with pytest.raises(ValueError, match=r"ledger\.npz"):
        load_ledger(path)


HEAD = '{"segment": 1, "options": {}}'


@pytest.mark.parametrize(
    "lines",
    [
        ["[]"],
        ["null"],
        ['{"segment": 1}'],
        ['{"segment": 1, "options": []}'],
        [HEAD, '{"name": 3, "source": "a"}'],
        [HEAD, '{"name": "a", "source": ["a"]}'],
        [HEAD, '{"done": "a", "source": "a", "stamp": 3, "files": {}, "pixels": null}'],
        [HEAD, '{"done": "a", "source": "a", "stamp": [1, 2], "files": [], "pixels": null}'],
        [HEAD, '{"done": [], "source": "a", "stamp": [1, 2], "files": {}, "pixels": null}'],
    ],
)
def test_a_damaged_record_of_segment_is_refused(tmp_path, lines):
    (tmp_path / "segment.jsonl").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(ValueError, match=r"segment\.jsonl is damaged"), open_record(tmp_path, [], {}, False):
        pass
