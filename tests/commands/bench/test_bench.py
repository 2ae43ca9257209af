import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import yaml

import segbench
from segbench.__main__ import main
from segbench.commands.bench import command as bench
from segbench.commands.bench import kernels, loss

TINY = """
data:
  class_path: segbench.data.ade20k.ADE20K
  init_args: {root: nowhere, img_size: [32, 32]}
model:
  class_path: segbench.tasks.semantic.SemanticTask
  init_args:
    encoder: {class_path: segbench.encoders.timm_vit.TimmViT, init_args: {depths: [0], pretrained: true}}
    decoder: {class_path: segbench.decoders.linear.LinearDecoder}
"""


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(kernels, "KERNELS", (lambda: loss.section([loss.Case(5, 32, 1)]),))


def error_of(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *args])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_kernels_print_a_table_with_its_circumstances_and_write_it_once(capsys, tmp_path):
    out, json_file = tmp_path / "new" / "bench.md", tmp_path / "new" / "bench.json"
    args = ["kernels", "--repeats", "2", "--out", str(out)]
    main(["bench", *args, "--json", str(json_file)])
    printed = capsys.readouterr().out
    assert printed == out.read_text()
    for words in ("processor:", "torch ", "threads:", "commit:", "rounds: 2", "| chunked |", "| plain   |"):
        assert words in printed
    content = json.loads(json_file.read_text())
    rows = [row for row in content["sections"][0]["rows"] if "reason" not in row]
    assert len(rows) >= 2
    assert all(len(row["seconds"]) == 2 for row in rows)
    assert "bench.md exists" in error_of(args, capsys)
    assert out.read_text() == printed


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["speed"], "speed"),
        (["kernels", "--repeats", "0"], "repeats is 0"),
        (["kernels", "--oversubscribed", "-1"], "oversubscribed is -1"),
        (["kernels", "--only", "unet"], "fits none of these: loss: K=5"),
        (["models", "--batch_size", "0"], "batch_size is 0"),
        (["models", "--plot", "plot.png"], "give --runs"),
        (["models", "--experiments", "nowhere"], "nowhere has no YAML"),
    ],
)
def test_mistakes_are_named(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(args, capsys)


def test_models_of_a_folder_are_measured_without_data_or_weights(tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(TINY)
    main(["bench", "models", "--experiments", str(tmp_path), "--repeats", "1", "--num_classes", "7"])
    printed = capsys.readouterr().out
    for words in ("### Parameters", "### Training step, 2 images, fp32", "### One image to labels", "| plain "):
        assert words in printed
    assert re.search(r"\| tiny  \| +32×32 \| +7 \| plain +\|", printed)


@pytest.mark.slow
def test_runs_are_measured_and_plotted(tmp_path, capsys):
    runs = [tmp_path / "runs" / "linear" / name for name in ("1", "2")]
    for score, run in enumerate(runs, 1):
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump(yaml.safe_load(TINY)))
        (run / "run.json").write_text(json.dumps({"scores": {"val": {"miou": score / 10}}}))
    plot = tmp_path / "new" / "plot.png"
    args = [
        "models",
        "--runs",
        *map(str, runs),
        "--plot",
        str(plot),
        "--only",
        "size",
        "--img_size",
        "32",
        "48",
    ]
    main(["bench", *args])
    printed = capsys.readouterr().out
    assert "| linear/1 |" in printed
    assert re.search(r"\| linear/2 \| +32×48 \| 150 \|", printed)
    assert cv2.imread(str(plot)) is not None
    assert "plot.png exists" in error_of(args, capsys)


@pytest.mark.usefixtures("tiny")
def test_an_allocator_that_keeps_blocks_is_set_before_the_process_starts(monkeypatch, capsys):
    started = []

    def run(command, *, env, check):
        started.append((command, env))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=run))
    args = ["kernels", "--malloc", "retained", "--repeats", "1"]
    with pytest.raises(SystemExit) as stop:
        bench.run(args)
    assert stop.value.code == 3
    ((command, environment),) = started
    assert command == [sys.executable, "-m", "segbench", "bench", *args]
    assert Path(environment["PYTHONPATH"].split(os.pathsep)[0]) == Path(segbench.__file__).parents[1]
    monkeypatch.setattr(os, "environ", environment)
    bench.run(args)  # there it is measured
    assert "MALLOC_TRIM_THRESHOLD_ 17179869184" in capsys.readouterr().out
    assert len(started) == 1


def test_neither_import_nor_help_imports_torch():
    code = (
        "import sys, segbench.commands.bench.command as bench\n"
        "try: bench.run(['models', '--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
