"""`segbench check-decoder` on a user's own file."""

import subprocess
import sys

import pytest

from segbench.__main__ import main

SOUND = """
from torch import nn

from segbench.decoders.base import Decoder
from segbench.types import FeatureInfo, Features, Prediction


class MyDecoder(Decoder):
    def __init__(self, info: FeatureInfo, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(info.channels[-1], width, 3, padding=1), nn.GELU(), nn.Conv2d(width, num_classes, 1)
        )

    def forward(self, features: Features) -> Prediction:
        return Prediction(self.layers(features.maps[-1]))


class Leaky(MyDecoder):
    def forward(self, features: Features) -> Prediction:
        return Prediction(self.layers(features.maps[-1] - features.maps[-1].mean(0)))


class NeedsWidth(MyDecoder):
    def __init__(self, info: FeatureInfo, num_classes: int, depth: int) -> None:
        super().__init__(info, num_classes)


class Stumbles(MyDecoder):
    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        super().__init__(info, num_classes)
        self.layers[7].requires_grad_(False)
"""
SOUND += """

class Leaves(MyDecoder):
    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        raise SystemExit(3)


class NoInfo(MyDecoder):
    def __init__(self, num_classes: int) -> None:
        super().__init__(None, num_classes)
"""
FEW = ["--only", "patch-16", "batch"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_decoders.py").write_text(SOUND)
    (tmp_path / "my_syntax.py").write_text("x = 1\nclass Any(:\n")
    (tmp_path / "my_names.py").write_text("x = 1\n\nclass Any(undefined):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_decoders", None)


@pytest.mark.slow
def test_a_sound_decoder_in_the_working_folder_passes(folder):
    command = [sys.executable, "-m", "segbench", "check-decoder", "my_decoders.MyDecoder"]
    done = subprocess.run(
        [*command, "--skip", "ddp", "onnx", "compile", "--init_args.width", "16"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, _, header, rule, *rows = done.stdout.splitlines()
    assert first == "my_decoders.MyDecoder on vit_tiny_patch16_224 → 4 maps"
    assert header.startswith("| check      | result  |     s | what")
    assert set(rule) == set("|-:")
    assert rows[0].startswith("| patch-16   | passed  |")
    assert rows[-1] == "10 passed"


def test_a_broken_decoder_is_told_by_the_table_and_the_exit_status(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check-decoder", "my_decoders.Leaky", "--only", "batch", "gradients"])
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "| gradients | passed  |" in printed
    assert "| batch     | failed  |" in printed
    assert "with the other images of its batch; reduce over channels or cells" in printed
    assert printed.endswith("1 passed, 1 failed\n")


def test_necks_come_in_between(folder, capsys):
    neck = "--necks+=segbench.necks.mean_shift.MeanShift"
    main(["check-decoder", "my_decoders.MyDecoder", neck, "--only", "overfit"])
    assert "on vit_tiny_patch16_224 → 4 maps → MeanShift" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["my_decoders.Nobody"], "unknown class 'my_decoders.Nobody'"),
        (["nowhere.MyDecoder"], "unknown class 'nowhere.MyDecoder'"),
        (["segbench.necks.mean_shift.MeanShift"], "MeanShift is not one of the Decoder classes"),
        (["segbench.decoders.base.Decoder"], "abstract"),
        (["my_decoders.MyDecoder", "--init_args.widht", "16"], "did you mean width?"),
        (["my_decoders.MyDecoder", "--init_args.width", "wide"], "width"),
        (["my_decoders.NeedsWidth"], "depth"),
        (["my_decoders.Stumbles"], "the decoder cannot be built: IndexError"),
        (["my_decoders.Leaves"], "the decoder cannot be built: SystemExit"),
        (["my_decoders.NoInfo"], "its constructor takes (info, num_classes, …)"),
        (["my_syntax.Any"], "my_syntax.py, line 2: "),
        (["my_names.Any"], "my_names.py, line 3: NameError: name 'undefined' is not defined; fix the file"),
        (["my_decoders.MyDecoder", "--only", "speed"], "unknown check speed; choose among patch-16"),
        (["my_decoders.MyDecoder", "--necks+=segbench.decoders.linear.LinearDecoder"], "Neck classes"),
        ([], "CLASS_PATH must be given"),
    ],
)
def test_mistakes_are_told_in_one_line(folder, capsys, args, message):
    with pytest.raises(SystemExit) as stop:
        main(["check-decoder", *args])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_help_tells_every_option_and_does_not_import_torch():
    code = (
        "import sys; from segbench.cli import main\n"
        "try: main(['check-decoder', '--help'])\n"
        "finally: print('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    for option in ("class_path", "--only", "--skip", "--init_args", "--necks", "--seed", "--backend"):
        assert option in printed
    assert printed.endswith("False\n")
