"""`segbench options` and the short help name what exists."""

import subprocess
import sys

import pytest
from command_line import refuse

from segbench.__main__ import main
from segbench.training.parser import verb_parsers
from segbench.training.short_help import options_shown, short_help

VERBS = ("fit", "validate", "test", "predict")


@pytest.fixture(scope="module")
def parsers():
    return verb_parsers()


@pytest.mark.parametrize("verb", VERBS)
def test_short_help_names_existing_options_on_one_screen(verb, parsers, capsys):
    parser = parsers[verb]
    known = {*parser._options(), *parser.also}
    shown = options_shown(verb)
    assert len(shown) > 10
    assert [option for option in shown if option not in known] == []
    main([verb, "--help"])
    printed = capsys.readouterr().out
    assert printed == short_help(verb)
    lines = printed.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith(" ") for line in lines)


def test_short_help_states_the_defaults_of_the_parser(parsers):
    for verb in VERBS:
        defaults = {action.dest: action.default for action in parsers[verb]._actions}
        for line in short_help(verb).splitlines():
            stated = line.partition("(default: ")[2].rstrip(")")
            option = line.split()[0].removeprefix("--") if line.startswith("  --") else ""
            if stated and defaults.get(option) is not None:
                assert str(defaults[option]) == stated, option


def test_short_help_does_not_import_torch():
    code = (
        "import sys; from segbench.cli import main\n"
        "for words in (['fit', '--help'], ['test', '-h'], ['fit', '-c', 'x.yaml', '--help']): main(words)\n"
        "print('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.endswith("False\n")


def test_a_missing_configuration_is_reported_before_torch_is_imported():
    code = (
        "import sys; from segbench.cli import main\n"
        "try: main(['fit', '--config', 'nowhere.yaml'])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert "file not found: nowhere.yaml" in done.stderr


def test_help_all_lists_options_of_verb_and_classes(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help", "all"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "--trainer.gradient_clip_val" in printed
    assert "segbench.necks.mean_shift.MeanShift" in printed


def test_options_lists_classes_and_the_options_of_one(capsys):
    main(["options"])
    printed = capsys.readouterr().out
    assert printed.startswith("encoders:\n") or "\ndecoders:\n" in printed
    assert "  MaskTransformer " in printed
    for name in ("MeanShift", "meanshift", "mean_shift", "segbench.necks.mean_shift.MeanShift", "necks"):
        main(["options", name])
        printed = capsys.readouterr().out
        assert "segbench.necks.mean_shift.MeanShift\n" in printed
        assert "iterations" in printed
        assert "--init_args" not in printed


def test_options_suggests_a_near_name(capsys):
    assert "MeanShift" in refuse(capsys, "options", "MeanShft")


def test_a_closed_pipe_ends_the_command_silently():
    """As `segbench options | head -1`; unbuffered, so that a later line meets the closed pipe."""
    command = [sys.executable, "-u", "-m", "segbench", "options"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
