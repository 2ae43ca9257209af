"""Mistakes in YAML files are reported with file and line."""

import time
from pathlib import Path

import pytest

from segbench.utils.yaml_files import check_yaml, line_of, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer:\n\tmax_steps: 1\n", "line 2: a tab; indent with spaces"),
        ("trainer:\n  devices: [0, 1\nmodel: {}\n", "line 3: '[' of line 2 is not closed"),
        ("trainer: {max_steps: 3\nmodel: 1\n", "'{' of line 1 is not closed"),
        ("trainer:\n  a: 1\n  a: 2\n", "line 3: 'a' is given twice, first in line 2"),
        ("a: {b: 1, 'b': 2}\n", "'b' is given twice"),
        ("a: 1\n---\na: 2\n", "line 2: a second document"),
        ("a:\n  b: 1\n c: 2\n", "line 3: wrong indentation"),
        ("- a\nb: 1\n", "line 2: wrong indentation"),
        ("a: b: c\n", "line 1: a second ':'"),
        ("a: 'b\n", "a quote is not closed"),
        ("a: @b\n", "line 1: '@' cannot begin plain text; quote it"),
        ("a: *b\n", "line 1: '*' refers to an unknown anchor"),
        ("a: &a [*a]\n", "line 1: an alias contains itself"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "line 1: !!python/object/apply:os.system creates an object",
        ),
        ("a: !mine 1\n", "line 1: !mine creates an object"),
        ("? [a, b]\n: 1\n", "line 1: a sequence cannot be a key"),
        ("a\0b", "line 1: unacceptable character"),
        ("[" * 100_000, "nested more than 100 levels deep"),
        ("{a: " * 100_000, "nested more than 100 levels deep"),
        (BOMB, "aliases repeat values more than 1,000,000 times"),
    ],
)
def test_invalid_yaml_is_reported_with_line_and_reason(text, expected):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"^mine\.yaml, line ") as refused:
        check_yaml(text, "mine.yaml")
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "<unicode string>" not in str(refused.value)
    assert time.monotonic() - start < 15


def test_valid_yaml_is_accepted():
    for text in (
        "",
        "# nothing\n",
        "a: 1\n",
        "base: &b {x: 1}\nmine: {<<: *b, y: 2}\n",
        "d: 2020-01-01\n",
        "1: a\n'1': b\n",
    ):
        check_yaml(text, "mine.yaml")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a: 1\n# Gr\xfc\xdfe\n", "line 2: byte 0xfc is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "saved as UTF-16"),
        (b"", "is empty"),
        (b"# a\n", "is empty"),
    ],
)
def test_file_without_yaml_is_refused(tmp_path, data, expected):
    file = tmp_path / "mine.yaml"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"mine\.yaml") as refused:
        read_yaml(file)
    assert expected in str(refused.value)


def test_folder_is_refused_with_its_yaml_files(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with pytest.raises(ValueError, match=r"is a folder; give a YAML file; it contains mine\.yaml"):
        read_yaml(tmp_path)


def test_checkpoint_given_as_yaml_is_refused():
    with pytest.raises(ValueError, match=r"give a checkpoint by --checkpoint runs/best\.ckpt"):
        read_yaml(Path("runs/best.ckpt"))


def test_byte_order_mark_is_ignored(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(file) == {"a": 1}


def test_line_of_finds_nested_and_dotted_keys():
    text = "model:\n  init_args:\n    losses:\n      - x\ntrainer.max_steps: 3\na: {b: 1}\n"
    assert line_of(text, ["model", "init_args", "losses"]) == 3
    assert line_of(text, ["model", "init_args", "losses", "init_args", "weight"]) == 3  # of an element
    assert line_of(text, ["trainer", "max_steps"]) == 5
    assert line_of(text, ["a", "b"]) == 6
    assert line_of(text, ["a", "c"]) is None
