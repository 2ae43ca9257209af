import json

import torch

from segbench.commands.bench.report import Report
from segbench.commands.bench.section import CASE, COSTS, VARIANT, Clock, Section, compare

CLOCK = Clock(torch.device("cpu"), repeats=1)


def test_rows_are_printed_and_written_as_soon_as_they_are_known(tmp_path, capsys):
    out, json_file = tmp_path / "bench.md", tmp_path / "bench.json"

    def first(clock):
        return compare("first", {"plain": lambda: torch.ones(9), "gpu": "no a|b here"}, clock)

    def second(clock):
        printed = capsys.readouterr().out
        assert "| first  | plain |" in printed
        assert out.read_text() == printed
        assert json.loads(json_file.read_text())["sections"][0]["rows"][0]["variant"] == "plain"
        return compare("second", {"plain": lambda: torch.ones(9)}, clock)

    report = Report({"machine": "mine", "versions": {"torch": "2"}}, out, json_file)
    section = Section(
        "kernel", "A kernel", "A note.", (CASE, VARIANT, *COSTS), {"first": first, "second": second}
    )
    report.run([section], CLOCK)
    assert "| second | plain |" in capsys.readouterr().out
    text = out.read_text()
    assert text.startswith(
        "- machine: mine\n- versions: torch 2\n\n### A kernel\n\nA note.\n\n| case   | how   |"
    )
    assert "| first  | gpu (not measured: no a/b here) |" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {9}
    assert len(table) == 5
    rows = json.loads(json_file.read_text())["sections"][0]["rows"]
    assert [row["case"] for row in rows] == ["first", "first", "second"]
    assert rows[2]["seconds"] == [rows[2]["median_s"]]
