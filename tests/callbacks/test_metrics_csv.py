"""metrics.csv is continued where a run is resumed."""

import csv

from segbench.runs.metrics_csv import MetricsCSV


def read(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def test_one_row_for_each_step_with_columns_that_come_later(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.log_metrics({"val/miou": 0.5}, 0)
    logger.log_metrics({"train/loss": 0.5}, 1)
    logger.finalize("success")
    assert read(tmp_path) == [
        {"step": "0", "train/loss": "1.0", "val/miou": "0.5"},
        {"step": "1", "train/loss": "0.5"},
    ]


def test_a_resumed_run_replaces_what_it_logs_again(tmp_path):
    first = MetricsCSV(tmp_path)
    for step in range(5):
        first.log_metrics({"train/loss": float(step)}, step)
    first.log_metrics({"val/miou": 0.1}, 4)
    first.save()
    again = MetricsCSV(tmp_path)
    again.log_metrics({"train/loss": 30.0}, 3)
    again.log_metrics({"train/loss": 40.0}, 4)
    again.save()
    assert [(row["step"], row["train/loss"]) for row in read(tmp_path)] == [
        ("0", "0.0"),
        ("1", "1.0"),
        ("2", "2.0"),
        ("3", "30.0"),
        ("4", "40.0"),
    ]


def test_a_validation_before_the_checkpoint_is_kept(tmp_path):
    first = MetricsCSV(tmp_path)
    first.log_metrics({"train/loss": 1.0}, 2)
    first.log_metrics({"val/miou": 0.1}, 2)
    first.save()
    again = MetricsCSV(tmp_path)
    again.log_metrics({"train/loss": 2.0}, 3)
    again.save()
    assert read(tmp_path)[0] == {"step": "2", "train/loss": "1.0", "val/miou": "0.1"}


def test_a_resumed_run_keeps_what_its_checkpoint_knows_and_nothing_else(tmp_path):
    first = MetricsCSV(tmp_path)
    for step in range(3):
        first.log_metrics({"lr": 0.1, "train/loss": float(step)}, step)
    row = first.sync()  # the checkpoint of step 3
    first.log_metrics({"val/miou": 0.1}, 2)  # all of this is done again
    first.log_metrics({"lr": 0.1, "train/loss": 9.0, "later": 9.0}, 3)
    first.log_metrics({"lr": 0.1}, 4)
    again = MetricsCSV(tmp_path)
    again.resume_after(row)
    again.log_metrics({"lr": 0.1, "train/loss": 3.0}, 3)
    assert [(row["step"], row["train/loss"]) for row in read(tmp_path)] == [
        *(("0", "0.0"), ("1", "1.0"), ("2", "2.0"), ("3", "3.0"))
    ]
    assert {name for row in read(tmp_path) for name in row} == {"step", "lr", "train/loss"}


def test_a_checkpoint_from_before_the_first_row_keeps_none(tmp_path):
    row = MetricsCSV(tmp_path).sync()
    MetricsCSV(tmp_path).log_metrics({"train/loss": 1.0}, 49)
    again = MetricsCSV(tmp_path)
    again.resume_after(row)
    again.log_metrics({"train/loss": 2.0}, 49)
    assert read(tmp_path) == [{"step": "49", "train/loss": "2.0"}]


def test_another_runs_checkpoint_adds_nothing_to_a_new_file(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.resume_after({"step": "7", "train/loss": "7.0"})
    logger.log_metrics({"train/loss": 1.0}, 8)
    assert read(tmp_path) == [{"step": "8", "train/loss": "1.0"}]


def test_a_damaged_row_is_dropped_when_a_run_is_resumed(tmp_path):
    first = MetricsCSV(tmp_path)
    for step in range(3):
        first.log_metrics({"train/loss": float(step)}, step)
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes().replace(b"1,1.0", b"\xff,1.0"))
    again = MetricsCSV(tmp_path)
    again.log_metrics({"train/loss": 3.0}, 3)
    assert [row["step"] for row in read(tmp_path)] == ["0", "2", "3"]
