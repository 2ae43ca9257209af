"""`segbench options`: lists the classes that YAML may name, or the options of one of them."""

import shutil
from itertools import groupby

POSITIONAL = {
    "part": {"nargs": "?", "help": "A class, its dotted path, a package as decoders, or a file as mean_shift."}
}


def options(part: str | None = None) -> None:
    """Prints classes with a line each, or all options of those that are asked for.

    Args:
        part: A class, its dotted path, a package as decoders, or a file as mean_shift; None lists all classes.

    Raises:
        ValueError: If nothing has that name.
    """
    from segbench.training.option_help import components, find, section

    if part is not None:
        print("\n".join(section(component) for component in find(part)), end="")
        return
    width = shutil.get_terminal_size().columns
    for package, members in groupby(components(), key=lambda component: component.package):
        print(f"{package}:")
        for one in members:
            line = f"  {one.cls.__name__:<26} {one.summary}"
            print(line if len(line) <= width else f"{line[: width - 1]}…")
    print("\nsegbench options NAME     the options of a class, a package or a file")
