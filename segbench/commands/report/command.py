"""`segbench report`: run folders in, tables and plots out."""

from pathlib import Path

from segbench.utils.printable import escape_controls

POSITIONAL = {
    "runs": {"nargs": "+", "type": Path, "help": "Run folders, or folders of them such as runs/EXPERIMENT."}
}


def report(runs: list[Path], out: Path) -> None:
    """Compares runs, and where they are mean shift on a linear decoder, with the tables of its thesis.

    Args:
        runs: Run folders, or folders of them such as runs/EXPERIMENT.
        out: Folder for report.md, and a CSV file and a plot for each table; a report that is there is replaced.

    Raises:
        ValueError: If there is no run with scores.
    """
    import sys

    from segbench.commands.report.groups import attach_tests, repeats
    from segbench.commands.report.meanshifter.plots import plot_table_1, plot_table_2
    from segbench.commands.report.meanshifter.tables import comparisons, table_1, table_2
    from segbench.commands.report.overview import overview
    from segbench.commands.report.runs import find_runs, read_run
    from segbench.utils.files import atomic_write
    from segbench.visualization.pictures import write_png

    found = []
    for folder in find_runs(runs):
        try:
            found.append(read_run(folder))
        except ValueError as error:
            print(f"{escape_controls(str(error))}; it is left out", file=sys.stderr)
    scored = [run for run in found if run.finished and run.scores]
    for run in found:
        if run not in scored:
            reason = "no scores" if run.finished else "it is not finished"
            print(f"{escape_controls(run.name)} is left out: {reason}", file=sys.stderr)
    unknown = [run.name for run in scored if not run.data]
    if unknown:
        print(
            f"{escape_controls(unknown[0])} and {len(unknown) - 1} other runs have no fingerprint of their data"
            " in run.json, as earlier versions wrote it: they are told apart by data.init_args.root alone",
            file=sys.stderr,
        )
    for run in repeats(scored):
        print(
            f"{escape_controls(run.name)} is left out: another run has its configuration and its seed",
            file=sys.stderr,
        )
        scored.remove(run)
    if not scored:
        raise ValueError(f"none of the {len(found)} runs is finished and scored; validate or test them")

    out.mkdir(parents=True, exist_ok=True)
    tables = [overview(attach_tests(scored))]
    pictures = {}
    for number, comparison in enumerate(comparisons(scored), 1):
        for make, plot in ((table_1, plot_table_1), (table_2, plot_table_2)):
            table = make(comparison)
            if table is not None:
                table = table if number == 1 else table._replace(name=f"{table.name}_{number}")
                tables.append(table)
                pictures[table.name] = plot(table)
    commits = ", ".join(dict.fromkeys(run.commit or "unknown" for run in scored))
    text = ["# Report\n", f"{len(scored)} runs; commit {commits}.\n"]
    for table in tables:
        text.append(table.markdown())
        with atomic_write(out / f"{table.name}.csv") as draft:
            draft.write_text(table.csv(), encoding="utf-8")
        if table.name in pictures:
            write_png(str(out / f"{table.name}.png"), pictures[table.name])
            text.append(f"![{table.title}]({table.name}.png)\n")
    with atomic_write(out / "report.md") as draft:
        draft.write_text("\n".join(text), encoding="utf-8")
    print(f"{len(scored)} runs; tables and plots are in {out}/report.md")
