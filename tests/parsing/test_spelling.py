"""Options may be spelled with hyphens, and boolean options need no value."""

from pathlib import Path

import pytest

from segbench.parsing.names import import_components
from segbench.parsing.parser import ExplainedParser
from segbench.training.arguments import resolve_config

ROOT = Path(__file__).parents[2]
FIT = ["fit", "--config", str(ROOT / "experiments/linear.yaml")]


@pytest.fixture
def parser():
    def command(
        images: list[str],
        batch_size: int = 1,
        overwrite: bool = False,
        flip: bool | None = None,
        quick: int | bool = False,
        names: dict[str, int] | None = None,
    ) -> None:
        """Serves as a command."""

    parser = ExplainedParser(prog="segbench command")
    parser.add_function_arguments(command, skip={"images"})
    parser.add_argument("images", nargs="*")
    return parser


@pytest.mark.parametrize("option", ["--batch_size", "--batch-size"])
def test_hyphens_and_underscores_name_the_same_option(parser, option):
    assert parser.parse_args([option, "3"]).batch_size == 3
    assert parser.parse_args([f"{option}=3"]).batch_size == 3


def test_a_boolean_option_needs_no_value_before_another_option_a_file_or_the_end(parser):
    assert parser.parse_args(["--overwrite"]).overwrite is True
    assert parser.parse_args(["--overwrite", "--batch-size", "2"]).overwrite is True
    parsed = parser.parse_args(["--overwrite", "a.png", "b.png"])
    assert (parsed.overwrite, parsed.images) == (True, ["a.png", "b.png"])
    assert parser.parse_args(["--flip"]).flip is True
    assert parser.parse_args(["--quick"]).quick is True


def test_a_boolean_option_still_takes_a_value(parser):
    assert parser.parse_args(["--overwrite", "false", "a.png"]).overwrite is False
    assert parser.parse_args(["--overwrite=false"]).overwrite is False
    assert parser.parse_args(["--flip", "null"]).flip is None
    assert parser.parse_args(["--quick", "3"]).quick == 3


def test_hyphens_in_values_and_in_keys_of_dictionaries_stay(parser):
    parsed = parser.parse_args(["--names.traffic-light", "3", "a-b.png"])
    assert parsed.names == {"traffic-light": 3}
    assert parsed.images == ["a-b.png"]


def test_options_of_fit_and_of_its_classes_are_spelled_either_way():
    import_components()
    config = resolve_config(
        [
            *FIT,
            *("--runs-dir", "else-where", "--trainer.max-steps", "7", "--data.init-args.batch-size", "3"),
            *("--model.init-args.encoder.init-args.drop-path-rate", "0.3", "--model.init_args.compile"),
            "--trainer.fast-dev-run",
        ]
    )
    assert config["runs_dir"] == "else-where"
    assert config["trainer"]["max_steps"] == 7
    assert config["trainer"]["fast_dev_run"] is True
    assert config["data"]["init_args"]["batch_size"] == 3
    assert config["model"]["init_args"]["compile"] is True
    assert config["model"]["init_args"]["encoder"]["init_args"]["drop_path_rate"] == 0.3
