"""The command line `segbench VERB …`: finds the module of a verb and imports no other."""

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
    "predict": "label the images of a dataset that has no labels",
}
# Each is a folder in segbench/commands whose command.py has a function of that name, hyphens as underscores.
COMMANDS = {
    "segment": "label photographs with a checkpoint: indices, colours, overlay",
    "convert": "make a checkpoint of one of official Segmenter or MMSegmentation",
    "synth": "write a synthetic twin of a dataset, in its real layout",
    "doctor": "name what is wrong with a dataset, and the YAML that fixes it",
    "export": "write a model as safetensors, ONNX, torch.export or Hugging Face folder, compared",
    "tune-regions": "choose parameters of the region post-processing on validation, and say what they gain",
    "sweep": "run a sweep file of W&B's format here, without an account",
    "report": "make tables and plots of runs, beside published figures",
    "options": "list the classes that YAML may name, or the options of one",
    "bench": "measure kernels and models beside what they replace",
    "check-decoder": "test whether a decoder, your own included, keeps the contract",
}

USAGE = """\
usage: segbench VERB [options]

Which segmentation decoder is better, where, by how much, at what cost, and is the difference real?

{verbs}

  segbench fit --config experiments/meanshift.yaml --config experiments/data/synthetic.yaml
  segbench VERB --help       the options of a verb
  segbench --version
"""


def main(args: list[str] | None = None) -> None:
    """Runs one verb.

    Args:
        args: As on the command line, the verb first; default: `sys.argv[1:]`.

    Raises:
        SystemExit: With status 2 and one line on stderr after a user's mistake, 130 after Ctrl-C.
    """
    args = sys.argv[1:] if args is None else list(args)
    verb, rest = (args[0], args[1:]) if args else ("--help", [])
    if verb in {"-h", "--help", "help"}:
        print(USAGE.format(verbs=_table()), end="")
    elif verb in {"-V", "--version"}:
        print(f"segbench {__version__}")
    elif verb in TRAINER_VERBS:
        if (words := _help_wanted(rest)) is not None and words[:1] != ["all"]:
            print(short_help(verb), end="")
            return
        with one_line_errors(verb), one_line_warnings():
            check_words(rest)  # missing and broken files, before seconds of imports
            import_torchmetrics()
            import_module("segbench.training.lightning_cli").run([verb, "--help"] if words else [verb, *rest])
    elif verb in COMMANDS:
        with one_line_errors(verb), one_line_warnings():
            _run_command(verb, rest)
    else:
        near = difflib.get_close_matches(verb, [*TRAINER_VERBS, *COMMANDS], n=1)
        hint = f"did you mean '{near[0]}'?" if near else "segbench --help lists the verbs"
        print(f"segbench: error: unknown verb '{verb}'; {hint}", file=sys.stderr)
        raise SystemExit(2)


def _help_wanted(words: list[str]) -> list[str] | None:
    """Returns the words after `--help`; None where it is not among them."""
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
    """Turns the command's function into a parser: its arguments, their types, its docstring."""
    from segbench.parsing.parser import ExplainedParser

    file = verb.replace("-", "_")
    module = import_module(f"segbench.commands.{file}.command")
    if hasattr(module, "run"):  # it reads YAML as `fit` does, by a parser of its own
        module.run(args)
        return
    function = getattr(module, file)
    parser = ExplainedParser(prog=f"segbench {verb}", description=COMMANDS[verb])
    positional = getattr(module, "POSITIONAL", {})  # and options of several words, which signatures cannot say
    parser.add_function_arguments(function, skip={name.lstrip("-") for name in positional})
    for name, options in positional.items():
        parser.add_argument(name, **options)
    function(**parser.instantiate(parser.parse_args(args)).as_dict())
