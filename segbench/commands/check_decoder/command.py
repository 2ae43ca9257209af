"""`segbench check-decoder`: does a decoder, your own included, keep the contract?"""

from typing import Any, Literal

POSITIONAL = {
    "class_path": {"help": "The decoder, as in a YAML: my_file.MyDecoder, in this folder or any package."},
    "--only": {"nargs": "+", "help": "Names of the checks to run; default: all."},
    "--skip": {"nargs": "+", "help": "Names of checks to leave out."},
}


def check_decoder(
    class_path: str,
    only: list[str] | None = None,
    skip: list[str] | None = None,
    init_args: dict[str, Any] | None = None,
    necks: list[str | dict[str, Any]] | None = None,
    seed: int = 0,
    backend: Literal["aot_eager", "inductor"] = "aot_eager",
) -> None:
    """Runs the conformance tests on the CPU and prints a table, a row as soon as a check has ended.

    Args:
        class_path: The decoder.
        only: Names of the checks to run; default: all.
        skip: Names of checks to leave out.
        init_args: The decoder's own arguments, each as in --init_args.depth 1.
        necks: What stands between encoder and decoder, each as in --necks+=CLASS_PATH. By default nothing, and
            the pyramid if the decoder refuses plain maps.
        seed: Of random weights and inputs.
        backend: What compiles the one graph; inductor needs a C++ compiler and takes longer.

    Raises:
        ValueError: If the decoder or check does not exist, or the decoder cannot be built.
        SystemExit: With status 1 after the table if a check failed.
    """
    from rich.console import Console

    from segbench.commands.check_decoder.fixtures import prepare
    from segbench.commands.check_decoder.suite import choose, examine

    names = choose(only, skip)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    with console.status("building encoders"):
        decoder, built_necks = _factories(class_path, init_args or {}, necks)
        subject = prepare(decoder, built_necks, seed, backend)
    console.print(f"{class_path} on {subject.bed.arrangement}\n")
    width = max(map(len, names))
    console.print(f"| {'check':{width}} | result  |     s | what\n|{'-' * (width + 2)}|---------|------:|---")
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    results = examine(subject, names)
    for name in names:
        with console.status(name):
            result = next(results)
        counts[result.outcome] += 1
        style = {"passed": "green", "failed": "bold red", "skipped": "yellow"}[result.outcome]
        row = f"| {name:{width}} | {result.outcome:7} | {result.seconds:5.1f} | {result.message}".rstrip()
        console.print(row, style=style if console.is_terminal else None)
    console.print(f"\n{', '.join(f'{count} {outcome}' for outcome, count in counts.items() if count)}")
    if counts["failed"]:
        raise SystemExit(1)


def _factories(class_path: str, init_args: dict[str, Any], necks: list[str | dict[str, Any]] | None) -> Any:
    """Resolves class paths as `segbench fit` does: wrong kinds of class and unknown arguments are refused."""
    from collections.abc import Callable

    from segbench.decoders.base import Decoder
    from segbench.necks.base import Neck
    from segbench.parsing.names import import_components
    from segbench.parsing.parser import ExplainedParser
    from segbench.types import FeatureInfo

    import_components()
    _import(class_path)
    parser = ExplainedParser()
    parser.add_argument("--decoder", type=Callable[[FeatureInfo, int], Decoder])
    parser.add_argument("--necks", type=list[Callable[[FeatureInfo], Neck]] | None)
    chosen = {"decoder": {"class_path": class_path, "init_args": init_args}, "necks": necks}
    built = parser.instantiate(parser.parse_object(chosen))
    return built.decoder, built.necks


def _import(class_path: str) -> None:
    """Imports the decoder's file, so that a mistake in it is told as such.

    Raises:
        ValueError: If the file is there but cannot be run.
    """
    from importlib import import_module
    from traceback import extract_tb

    module = class_path.rpartition(".")[0]
    if not module:
        return  # one of ours, by its name alone
    try:
        import_module(module)
    except ImportError:
        return  # no such file, or it needs another: jsonargparse says which
    except SyntaxError as error:
        raise ValueError(f"{error.filename}, line {error.lineno}: {error.msg}; fix the file") from error
    except Exception as error:
        place = extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"{place.filename}, line {place.lineno}: {type(error).__name__}: {error}; fix the file"
        ) from error
