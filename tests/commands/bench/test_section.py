from typing import Literal

import pytest
import torch

from segbench.commands.bench.section import Clock, Section, backends, choose, compare, significant

CLOCK = Clock(torch.device("cpu"), repeats=2)


def section(name, *cases):
    return Section(name, name, "", (), {case: lambda clock: [] for case in cases})


def chosen(only):
    sections = [
        section("training", "linear", "mask", "meanshift_mask"),
        section("loss", "K=150 B=2", "K=19 B=2"),
    ]
    return {found.name: list(found.cases) for found in choose(sections, only)}


def test_cases_are_chosen_by_whole_words_of_section_or_name():
    assert chosen("linear|mask") == {"training": ["linear", "mask"]}
    assert chosen("K=19") == {"loss": ["K=19 B=2"]}
    assert chosen("loss") == {"loss": ["K=150 B=2", "K=19 B=2"]}
    assert chosen("mean.*") == {"training": ["meanshift_mask"]}
    assert chosen(None) == {"training": ["linear", "mask", "meanshift_mask"], "loss": ["K=150 B=2", "K=19 B=2"]}


@pytest.mark.parametrize(("only", "message"), [("unet", "linear, mask"), ("(", "not a regular expression")])
def test_a_choice_of_nothing_is_refused(only, message):
    with pytest.raises(ValueError, match=message):
        chosen(only)


def test_what_cannot_run_is_named_and_the_rest_is_measured():
    def broken():
        raise RuntimeError("needs a GPU")

    works = {"a": lambda: torch.ones(4000), "b": broken, "c": "not here", "d": lambda: torch.ones(1000)}
    a, b, c, d = compare("case", works, CLOCK)
    assert b == {"case": "case", "variant": "b", "reason": "needs a GPU"}
    assert c["reason"] == "not here"
    assert (a["variant"], a["ratio"], a["peak_ratio"], a["peak_bytes"]) == ("a", 1, 1, 16000)
    assert d["peak_ratio"] == 0.25
    assert len(d["seconds"]) == len(d["ratios"]) == 2
    assert d["median_s"] > 0


def test_without_the_yardstick_there_is_no_ratio():
    _, row = compare("case", {"plain": "not here", "ours": lambda: torch.ones(9)}, CLOCK)
    assert row["median_s"] > 0
    assert row["ratio"] is row["ratios"] is row["peak_ratio"] is None


def test_backends_are_read_from_the_signature():
    def kernel(x: int, *, backend: Literal["auto", "fast", "plain"] = "auto") -> None: ...

    assert backends(kernel) == ["plain", "fast"]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0.00"), (0.012345, "0.0123"), (1.2345, "1.23"), (99.96, "100"), (12345.6, "12346")]
)
def test_figures_have_three_digits(value, text):
    assert significant(value) == text
