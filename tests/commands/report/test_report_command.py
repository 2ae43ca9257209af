"""`segbench report` on run folders as `segbench fit` and `test` leave them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml

from segbench.__main__ import main
from segbench.commands.report.meanshifter import published

MEAN_SHIFT = "segbench.necks.mean_shift.MeanShift"
ADE20K = "segbench.data.ade20k.ADE20K"


def write_run(folder, shift=None, miou=0.3, seed=0, **more):
    """A run folder, less what the report does not read. Scores: aAcc is mIoU + 0.4, mAcc mIoU + 0.1."""
    options = {
        "verb": "fit",
        "decoder": "linear.LinearDecoder",
        "lr": 0.001,
        "data": ADE20K,
        "steps": 160000,
    } | more
    necks = []
    if shift:
        necks = [
            {"class_path": MEAN_SHIFT, "init_args": {"iterations": shift[0], "dim": shift[1], "bias": True}}
        ]
    config = {
        "seed_everything": seed,
        "runs_dir": str(folder.parent),
        "model": {
            "class_path": "segbench.tasks.semantic.SemanticTask",
            "init_args": {
                "encoder": {
                    "class_path": "segbench.encoders.timm_vit.TimmViT",
                    "init_args": {"model_name": "vit_x"},
                },
                "necks": necks,
                "decoder": {"class_path": f"segbench.decoders.{options['decoder']}"},
                "neck_iterations": options.get("neck_iterations"),
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": options["lr"]}},
            },
        },
        "data": {"class_path": options["data"], "init_args": {"root": "data", "num_workers": seed}},
        "trainer": {"max_steps": options["steps"]},
    }
    scores = options.get("scores") or {"val": miou}
    card = {
        "verb": options["verb"],
        "finished": options.get("finished", True),
        "checkpoint": options.get("checkpoint"),
        "commit": "abc",
        "parameters": {"total": 5_712_342},
        "scores": {
            split: {
                "miou": value,
                "macc": value and value + 0.1,
                "aacc": value and value + 0.4,
                "iou": {},
                "step": 1,
            }
            for split, value in scores.items()
        },
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(card))
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def report(*places, out="out"):
    main(["report", *map(str, places), "--out", str(out)])
    return {path.name: path for path in Path(out).iterdir()}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_our_figures_stand_beside_those_of_table_1(place):
    write_run(Path("runs/t1/a"), None, 0.31)
    for seed, miou in enumerate((0.20, 0.28, 0.25)):
        write_run(Path(f"runs/t1/b{seed}"), (1, 192), miou, seed)
    write_run(Path("runs/t1/c"), (3, 768), 0.11)
    files = report("runs")
    assert files.keys() == {"report.md", "runs.csv", "table1.csv", "table1.png"}
    table = {(row["row"], row["d_ms"]): row for row in rows(files["table1.csv"])}
    assert len(table) == 16
    assert table["L_ms 1", "192"]["runs"] == "3"
    assert float(table["L_ms 1", "192"]["ours mIoU"]) == pytest.approx(25)  # the median, of each metric
    assert float(table["L_ms 1", "192"]["ours aAcc"]) == pytest.approx(65)
    assert table["L_ms 1", "192"]["thesis mIoU"] == "31.05"
    assert table["L_ms 1", "192"]["thesis, M parameters"] == "5.75*"
    assert float(table["linear", ""]["ours mIoU"]) == pytest.approx(31)
    assert float(table["linear", ""]["ours, M parameters"]) == pytest.approx(5.712342)
    assert (table["L_ms 2", "64"]["runs"], table["L_ms 2", "64"]["ours mIoU"]) == ("0", "")
    assert table["L_ms 3", "768"]["thesis mAcc"] == "16.66"
    text = files["report.md"].read_text()
    assert "| L_ms 1 | 192 | 3 | 65.00 | 35.00 | 25.00 | 5.71 | 75.89 | 40.96 | 31.05 | 5.75* |" in text
    assert "cannot be compared" not in text
    overview = rows(files["runs.csv"])
    assert list(overview[0])[:5] == [
        "experiment",
        "necks.0",
        "iterations",
        "dim",
        "runs",
    ]  # not bias: all have it
    assert [row["necks.0"] for row in overview] == ["", "MeanShift", "MeanShift"]
    assert [row["runs"] for row in overview] == ["1", "3", "1"]
    assert float(overview[1]["val mIoU"]) == pytest.approx(73 / 3)
    assert float(overview[1]["val mIoU ± s"]) == pytest.approx(4.041, abs=1e-3)
    assert cv2.imread(str(files["table1.png"])).shape == (480, 1280, 3)


def test_iterations_at_test_time_stand_beside_those_of_table_2(place):
    train = write_run(Path("runs/t1/a"), (2, 64), 0.2)
    checkpoint = str(train / "checkpoints" / "best.ckpt")
    scored = {"test": 0.11, "test_iterations_2": 0.12, "test_iterations_4": None}
    write_run(
        Path("runs/t2/a"),
        (2, 64),
        verb="test",
        checkpoint=checkpoint,
        scores=scored,
        neck_iterations=[1, 2, 4],
        steps=-1,  # of a trainer that does not train
    )
    table = {(row["L_ms"], row["d_ms"], row["L'_ms"]): row for row in rows(report("runs")["table2.csv"])}
    assert len(table) == 48
    assert float(table["2", "64", "1"]["ours mIoU"]) == pytest.approx(11)
    assert float(table["2", "64", "2"]["ours mIoU"]) == pytest.approx(12)
    assert table["2", "64", "3"]["ours mIoU"] == ""
    assert table["2", "64", "4"]["ours mIoU"] == ""
    assert table["2", "64", "4"]["thesis mIoU"] == "12.81"
    assert table["3", "192", "1"]["thesis aAcc"] == "40.8"


def test_test_scores_of_a_checkpoint_join_its_training(place):
    train = write_run(Path("old/runs/x/a"), None, 0.2)
    (train / "checkpoints").mkdir()
    (train / "checkpoints" / "best.ckpt").touch()
    write_run(
        Path("old/runs/x/b"),
        None,
        verb="test",
        checkpoint="runs/x/a/checkpoints/best.ckpt",  # as it was given there, in `old`
        scores={"test": 0.1},
    )
    (row,) = rows(report("old/runs/x")["runs.csv"])
    assert (float(row["val mIoU"]), float(row["test mIoU"])) == (pytest.approx(20), pytest.approx(10))


def test_other_data_and_settings_are_never_mixed_into_one_row(place, capsys):
    write_run(Path("runs/x/a"), (1, 64), 0.2, lr=0.001, steps=40)
    write_run(Path("runs/x/b"), (1, 64), 0.6, lr=0.01, steps=40)
    write_run(Path("runs/x/c"), None, 0.9, decoder="mask_transformer.MaskTransformer", steps=40)
    write_run(Path("runs/x/d"), (1, 64), 0.9, finished=False)
    files = report("runs")
    assert "x/d is left out: it is not finished" in capsys.readouterr().err
    assert len(rows(files["runs.csv"])) == 3
    assert {float(row["lr"]) for row in rows(files["runs.csv"])} == {0.001, 0.01}
    for name, miou in (("table1.csv", 20), ("table1_2.csv", 60)):
        (ours,) = (row for row in rows(files[name]) if row["runs"] == "1")
        assert float(ours["ours mIoU"]) == pytest.approx(miou)
    text = files["report.md"].read_text()
    assert "(lr 0.01)" in text
    assert "cannot be compared value by value" in text


@pytest.mark.parametrize(("damage", "told"), [("{", "run.json is damaged"), (None, "is not a run folder")])
def test_what_is_no_run_is_told_in_a_line(place, capsys, damage, told):
    folder = write_run(Path("runs/x/a"))
    (folder / "run.json").unlink() if damage is None else (folder / "run.json").write_text(damage)
    with pytest.raises(SystemExit):
        report("runs")
    assert told in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_run_that_began_with_other_weights_is_no_further_seed(place):
    for seed, start in enumerate((None, None, "one.ckpt", "two.ckpt")):
        folder = write_run(Path(f"runs/x/{seed}"), seed=seed)
        config = yaml.safe_load((folder / "config.yaml").read_text()) | {"start": {"checkpoint": start}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert [row["runs"] for row in rows(report("runs")["runs.csv"])] == ["2", "2"]


def test_a_run_repeated_with_its_seed_counts_once(place, capsys):
    for name, miou, seed in (("a", 0.2, 0), ("b", 0.4, 0), ("c", 0.6, 1)):
        write_run(Path(f"runs/x/{name}"), None, miou, seed)
    checkpoint = Path("runs/x/a/checkpoints/best.ckpt")
    checkpoint.parent.mkdir()
    checkpoint.touch()
    write_run(Path("runs/y/t"), verb="test", checkpoint=str(checkpoint), scores={"test": 0.1})
    (row,) = rows(report("runs")["runs.csv"])
    assert (row["runs"], float(row["val mIoU"]), row.get("test mIoU")) == ("2", pytest.approx(50), None)
    left_out = capsys.readouterr().err
    assert "x/a is left out: another run has its configuration and its seed" in left_out
    assert "y/t is left out" in left_out


def test_a_damaged_run_folder_is_left_out_of_the_others(place, capsys):
    write_run(Path("runs/x/a"))
    (write_run(Path("runs/x/b")) / "run.json").write_text("{")
    (write_run(Path("runs/x/c")) / "config.yaml").unlink()  # as who is killed in the first second leaves it
    assert len(rows(report("runs")["runs.csv"])) == 1
    told = capsys.readouterr().err
    assert (
        told.count("is damaged (") + told.count("config.yaml is missing") == told.count("; it is left out") == 2
    )


def test_the_published_tables_agree_where_they_overlap():
    """L'_ms = L_ms is the checkpoint as it was trained: the same figures stand in both tables."""
    for (iterations, dim), row in published.TABLE_2.items():
        assert row[iterations - 1] == published.TABLE_1[iterations, dim].scores


def test_a_report_needs_no_torch(place):
    write_run(Path("runs/x/a"), (1, 64))
    code = (
        "import sys; from segbench.__main__ import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, "report", "runs", "--out", "out"], check=True)


def say_data(folder, root, classes=("sky", "road"), **digests):
    """Gives a run folder the data that it was trained on."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["init_args"]["root"] = root
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if digests:
        card = json.loads((folder / "run.json").read_text())
        splits = {split: {"images": 3, "digest": digest} for split, digest in digests.items()}
        card["data"] = {"classes": list(classes), "splits": splits}
        (folder / "run.json").write_text(json.dumps(card))
    return folder


def test_seeds_are_averaged_by_content_of_the_data_never_by_path(place, capsys):
    same = {"train": "a", "val": "b"}
    say_data(write_run(Path("runs/x/0"), miou=0.2), "mine", **same)
    say_data(write_run(Path("runs/x/1"), miou=0.4, seed=1), "/elsewhere/moved", **same)
    say_data(write_run(Path("runs/x/2"), miou=0.9, seed=2), "mine", train="a", val="c")  # was replaced
    say_data(write_run(Path("runs/x/3"), miou=0.9), "mine", ("road", "sky"), **same)
    files = report("runs")
    found = [(round(float(row["val mIoU"])), row["runs"]) for row in rows(files["runs.csv"])]
    assert found == [(30, "2"), (90, "1"), (90, "1")]
    assert len({row["data"] for row in rows(files["runs.csv"])}) == 3
    assert "mine, /elsewhere/moved" in files["report.md"].read_text()
    told = capsys.readouterr().err
    assert "left out" not in told
    assert "fingerprint" not in told


def test_data_of_old_run_folders_are_told_apart_by_root(place, capsys):
    for number, root in enumerate(("mine", "mine", "yours")):
        say_data(write_run(Path(f"runs/x/{number}"), miou=0.2 + 0.2 * number, seed=number), root)
    files = report("runs")
    assert [(row["data"], row["runs"]) for row in rows(files["runs.csv"])] == [("mine", "2"), ("yours", "1")]
    assert "have no fingerprint of their data" in capsys.readouterr().err


def test_a_test_on_other_data_does_not_join_the_training(place):
    train = say_data(write_run(Path("runs/x/a"), None, 0.2), "mine", train="a", val="b", test="c")
    (train / "checkpoints").mkdir()
    checkpoint = train / "checkpoints" / "best.ckpt"
    checkpoint.touch()
    for name, digest in (("same", "c"), ("other", "d")):
        scored = {"verb": "test", "checkpoint": str(checkpoint), "scores": {"test": 0.1}}
        say_data(write_run(Path(f"runs/{name}/t"), **scored), "mine", test=digest)
    joined, alone = rows(report("runs")["runs.csv"])
    assert (joined["val mIoU"] != "", joined["test mIoU"] != "") == (True, True)
    assert (alone["val mIoU"], alone["test mIoU"] != "") == ("", True)
