"""The command line `segbench COMMAND …`: a dispatcher that imports the module of one command only."""

import difflib
import sys
from importlib import import_module

from segbench import __version__
from segbench.parsing.command_line import check_words
from segbench.training.short_help import short_help
from segbench.utils.errors import one_line_errors, one_line_warnings
from segbench.utils.lean_imports import import_torchmetrics

TRAINER_VERBS = {
    "fit": "train a model from YAML, or resume a run",
    "validate": "score a checkpoint on the validation split",
    "test": "score a checkpoint on the test split",
    "predict": "predict labels for the images of a dataset without ground truth",
}
# Each has a folder in segbench/commands, whose command.py has a function of the same name (with underscores).
COMMANDS = {
    "segment": "segment images with a checkpoint: class ids, colours, overlay",
    "convert": "convert a checkpoint of official Segmenter or MMSegmentation",
    "synth": "write a synthetic twin of a dataset in its real layout",
    "doctor": "find problems in a dataset, with the YAML that fixes them",
    "export": "export to safetensors, ONNX, torch.export or a Hugging Face folder, verified",
    "tune-regions": "tune the region post-processing on the validation split",
    "sweep": "run a sweep file in W&B's format without an account",
    "report": "tables and plots of runs, next to published results",
    "options": "list the classes that YAML may name, or the options of one",
    "bench": "benchmark kernels, models and data loading",
    "check-decoder": "test whether a decoder, such as your own, meets the contract",
}

USAGE = """\
usage: segbench COMMAND [options]

Which segmentation decoder is better, where, by how much, at what cost, and is the difference real?

{commands}

  segbench fit --config experiments/meanshift.yaml --config experiments/data/synthetic.yaml
  segbench COMMAND --help    the options of a command
  segbench --version
"""


def main(args: list[str] | None = None) -> None:
    """Runs one command.

    Args:
        args: The command line, the command first; default: `sys.argv[1:]`.

    Raises:
        SystemExit: With status 2 and one line on stderr after a user error, 130 after Ctrl-C.
    """
    args = sys.argv[1:] if args is None else list(args)
    verb, rest = (args[0], args[1:]) if args else ("--help", [])
    if verb in {"-h", "--help", "help"}:
        print(USAGE.format(commands=_table()), end="")
    elif verb in {"-V", "--version"}:
        print(f"segbench {__version__}")
    elif verb in TRAINER_VERBS:
        if (words := _help_wanted(rest)) is not None and words[:1] != ["all"]:
            print(short_help(verb), end="")
            return
        with one_line_errors(verb), one_line_warnings():
            check_words(rest)  # reports missing and invalid files before seconds of imports
            import_torchmetrics()
            import_module("segbench.training.lightning_cli").run([verb, "--help"] if words else [verb, *rest])
    elif verb in COMMANDS:
        with one_line_errors(verb), one_line_warnings():
            _run_command(verb, rest)
    else:
        close = difflib.get_close_matches(verb, [*TRAINER_VERBS, *COMMANDS], n=1)
        hint = f"did you mean '{close[0]}'?" if close else "segbench --help lists the commands"
        print(f"segbench: error: unknown command '{verb}'; {hint}", file=sys.stderr)
        raise SystemExit(2)


def _help_wanted(words: list[str]) -> list[str] | None:
    """Returns the words after `--help`; None without it."""
    for index, word in enumerate(words):
        if word in {"-h", "--help"}:
            return words[index + 1 :]
        if word.startswith("--help="):
            return [word.partition("=")[2]]
    return None


def _table() -> str:
    verbs = TRAINER_VERBS | COMMANDS
    return "\n".join(f"  {verb:<13} {text}" for verb, text in verbs.items())


def _run_command(verb: str, args: list[str]) -> None:
    """Parses the arguments of the function of a command by its signature and docstring, and calls it."""
    from segbench.parsing.parser import ExplainedParser

    file = verb.replace("-", "_")
    module = import_module(f"segbench.commands.{file}.command")
    if hasattr(module, "run"):  # it reads YAML like `fit` and has its own parser
        module.run(args)
        return
    function = getattr(module, file)
    parser = ExplainedParser(prog=f"segbench {verb}", description=COMMANDS[verb])
    positional = getattr(
        module, "POSITIONAL", {}
    )  # and options with several values, which signatures cannot express
    parser.add_function_arguments(function, skip={name.lstrip("-") for name in positional})
    for name, options in positional.items():
        parser.add_argument(name, **options)
    function(**parser.instantiate(parser.parse_args(args)).as_dict())
