import json

import numpy as np
import pytest

from segbench.commands.bench.pareto import common_split, plot, read_runs


def write(folder, scores):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"scores": scores}))
    return folder


def test_runs_are_named_by_their_folders_and_compared_on_one_split(tmp_path):
    val, test = {"val": {"miou": 0.2}}, {"val": {"miou": 0.3}, "test": {"miou": 0.25}}
    one, other = write(tmp_path / "linear" / "1", val), write(tmp_path / "mask" / "2", test)
    runs = read_runs([one, other])
    assert list(runs) == ["linear/1", "mask/2"]
    assert runs["mask/2"].experiment == "mask"
    assert runs["linear/1"].config == one / "config.yaml"
    assert common_split(runs) == "val"
    assert common_split(read_runs([other])) == "test"


def test_scores_of_different_splits_are_not_put_together(tmp_path):
    folders = [write(tmp_path / name / "1", {name: {"miou": 0.2}}) for name in ("val", "test")]
    with pytest.raises(ValueError, match="no split has scores of all runs"):
        read_runs(folders)


def test_scores_on_different_data_are_not_put_together(tmp_path):
    folders = [write(tmp_path / name / "1", {"val": {"miou": 0.2}}) for name in ("linear", "mask")]
    for folder, digest in zip(folders, ("a", "b"), strict=True):
        card = json.loads((folder / "run.json").read_text())
        card["data"] = {"classes": ["sky"], "splits": {"val": {"images": 2, "digest": digest}}}
        (folder / "run.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="linear/1 and mask/1 were scored on different val data"):
        read_runs(folders)
    assert len(read_runs(folders[:1])) == 1


@pytest.mark.parametrize("scores", [{"val": {"miou": None}}, None])
def test_runs_without_scores_are_refused(tmp_path, scores):
    folder = tmp_path / "linear" / "1"
    if scores:
        write(folder, scores)
    with pytest.raises(ValueError, match=r"has no scores|not a run folder"):
        read_runs([folder])


def test_one_panel_for_every_cost_that_was_measured(tmp_path):
    runs = read_runs([write(tmp_path / name / "1", {"val": {"miou": 0.2}}) for name in ("linear", "mask")])
    sizes = [{"case": name, "flops": {"total": 1e9}} for name in runs]
    times = [{"case": name, "variant": "segbench", "median_s": 0.1} for name in runs]
    alone = [{"case": name, "variant": "encoder alone", "median_s": 0.1} for name in runs]
    failed = [{"case": name, "variant": "segbench", "reason": "no memory"} for name in runs]
    size, evaluation = {"name": "size", "rows": sizes}, {"name": "evaluation", "rows": [*times, *alone]}
    one, two = plot(runs, [size]), plot(runs, [size, evaluation])
    assert two.shape[1] == 2 * one.shape[1]
    assert np.array_equal(two[:, one.shape[1] :], one)
    assert plot(runs, [{"name": "training", "rows": failed}]) is None
