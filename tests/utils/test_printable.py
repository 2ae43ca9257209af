"""Untrusted text is escaped for terminals, Markdown, HTML and messages."""

import sys

import pytest

from segbench.commands.report.tables import Table
from segbench.data.spec import DatasetSpec
from segbench.utils.errors import one_line_errors
from segbench.utils.printable import escape_controls, for_html, for_markdown, printable, without_passwords


@pytest.mark.parametrize(
    "control", ["\x1b[2J", "\x9b31m", "\x07", "\r", "\x7f", "\u202e", "\u2066", "\u200f", "\u2028", "\udcff"]
)
def test_control_characters_are_escaped_for_terminals(control, capsys):
    assert control[0] not in escape_controls(f"a{control}b")
    with pytest.raises(SystemExit), one_line_errors():
        raise ValueError(f"unknown class a{control}b")
    line = capsys.readouterr().err
    assert control[0] not in line
    assert line.count("\n") == 1
    with pytest.raises(ValueError, match="holds control characters"):
        DatasetSpec((f"road{control}",), ((0, 0, 0),))


def test_printable_unicode_is_unchanged():
    for text in ("Straße", "道路", "дорога", "طريق", "a b", "🚗"):
        assert escape_controls(text) == text
    assert len(printable("x" * 10_000)) == 200


def test_markup_in_names_is_escaped():
    hostile = "<script>alert(1)</script> [x](javascript:y) | `z` &amp;"
    table = Table("t", hostile, (hostile,), ((hostile,),)).markdown()
    assert "<" not in table
    assert "](" not in table.replace("\\](", "")
    assert table.splitlines()[2].count("|") - table.splitlines()[2].count("\\|") == 2
    assert for_html('"><img src=x>') == "&quot;&gt;&lt;img src=x&gt;"
    assert "\x1b" not in for_markdown("\x1b[0m")


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://bob:{}@host/base",
        "postgresql+psycopg2://bob:{}@host:5432/base?sslmode=require",
        "mysql://:{}@host",
        "redis://host/0?password={}&x=1",
        "(OperationalError) could not connect to postgresql://a:{}@b:5432/c, is it there?",
    ],
)
@pytest.mark.parametrize("secret", ["s3cret", "s3:cret", "s3@cret", "s3/cret"])
def test_passwords_in_urls_are_masked(address, secret, capsys):
    assert "cret" not in without_passwords(address.format(secret))
    with pytest.raises(SystemExit), one_line_errors():
        raise ValueError(address.format(secret))
    assert "cret" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "address", ["bob:s3cret@host", "postgresql://bob:s3cret@nowhere/x", "nodriver://a:s3cret@b"]
)
def test_password_of_an_invalid_storage_is_masked(address):
    storage = pytest.importorskip("segbench.commands.sweep.storage")
    assert "s3cret" not in storage.without_password(address)
    if "postgresql" in address and "psycopg2" in sys.modules:
        pytest.skip("the driver is installed and would use the network")
    with pytest.raises(ValueError, match="give a URL as") as error:
        storage.backend(address)
    assert "s3cret" not in str(error.value)
