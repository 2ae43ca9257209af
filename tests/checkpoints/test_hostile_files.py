"""Files that claim more than they hold: refused in one line, within seconds, and within 1 GB."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from reference.tiny_tasks import hyper_parameters, write_checkpoint

from segbench.checkpoints.reading import load_task
from segbench.data.folder_layout import FolderLayout

# What the process had before counts as well: the libraries alone take several hundred MB.
MEASURE = """
import sys
from pathlib import Path
from peak import peak
from segbench.data.folder_layout import FolderLayout
from segbench.runs.ledger_file import load_ledger
from segbench.checkpoints.reading import load_task, read_checkpoint, run_config
before = peak()
wrong = []
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        if file.name.startswith("yaml_"):
            run_config(read_checkpoint(file), file)
        (load_ledger if file.suffix == ".npz" else load_task)(file)
        wrong.append(f"{file.name}: taken")
    except ValueError as error:
        if file.name not in str(error) or len(str(error)) > 600:
            wrong.append(f"{file.name}: {str(error)[:600]}")
    except BaseException as error:
        wrong.append(f"{file.name}: {type(error).__name__} {str(error)[:300]}")
    grown = (peak() - before) / 1e6
    if grown > 700:
        wrong.append(f"{file.name}: {grown:.0f} MB")
        break
print("\\n".join(wrong))
"""


def shared(levels):
    """Lists of lists, each of them there twice: 2^levels values in a few bytes."""
    value = []
    for _ in range(levels):
        value = [value, value]
    return value


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def saved(path, **changes):
    """A checkpoint of few weights."""
    content = {"state_dict": {"a": torch.zeros(2)}, "hyper_parameters": hyper_parameters("linear")}
    content["hyper_parameters"].update(changes.pop("hyper_parameters", {}))
    torch.save({**content, **changes}, path)


def repacked(path, out, compression, replace=None):
    """The same archive, compressed, or with other contents."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for member in old.infolist():
            name = member.filename.rpartition("/")[2]
            content = old.read(member)
            new.writestr(member.filename, replace.get(name, content) if replace else content)


UNEXPECTED = {
    "sets": b"(" + b"\x8f" * ((4 << 20) - 99) + b"l",
    "bytes": b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R",  # 2 GB
    "numbers": b"ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R",
    "two_in_one": b"",
}


def unexpected(path, name, plain):
    """What torch reads as weights, and makes gigabytes of."""
    if name == "two_in_one":  # a pickle in the form of before 2020, with an archive behind it that is in order
        old = b"".join(pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/version", "3")
        path.write_bytes(old + b"\x80\x02(" + b"]" * (24 << 20) + b"l." + buffer.getvalue())
        return
    weights = b"X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00a" + UNEXPECTED[name] + b"s"
    content = b"\x80\x02}(" + weights + b"X\x10\x00\x00\x00hyper_parameters}u."
    repacked(plain, path, zipfile.ZIP_STORED, {"data.pkl": content})


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    make = tmp_path_factory.mktemp("make")
    saved(folder / "shared.ckpt", hyper_parameters={"necks": shared(40)})
    # The pickle is written by hand: Python's own writer does not go as deep.
    saved(make / "plain.ckpt")
    with zipfile.ZipFile(make / "plain.ckpt") as archive:
        (name,) = (member for member in archive.namelist() if member.endswith("data.pkl"))
        whole = archive.read(name)
    deep = (
        b"\x80\x02}X\x10\x00\x00\x00hyper_parameters}X\x01\x00\x00\x00a" + b"]" * 5000 + b"a" * 4999 + b"ssX\n"
    )
    deep += b"\x00\x00\x00state_dict}s."
    repacked(make / "plain.ckpt", folder / "nested.ckpt", zipfile.ZIP_STORED, {"data.pkl": deep})
    lists = b"\x80\x02(" + b"]" * (6 << 20) + b"l."
    repacked(make / "plain.ckpt", folder / "lists.ckpt", zipfile.ZIP_STORED, {"data.pkl": lists})
    repacked(
        make / "plain.ckpt", folder / "packed.ckpt", zipfile.ZIP_DEFLATED, {"data.pkl": b"]" * (160 << 20)}
    )
    repacked(make / "plain.ckpt", folder / "zeros.ckpt", zipfile.ZIP_DEFLATED, {"0": bytes(160 << 20)})
    (folder / "legacy.ckpt").write_bytes(pickle.dumps({"state_dict": {}, "hyper_parameters": {}}, 2))
    (folder / "appended.ckpt").write_bytes((make / "plain.ckpt").read_bytes() + bytes(100))
    assert whole
    for name in UNEXPECTED:
        unexpected(folder / f"{name}.ckpt", name, make / "plain.ckpt")
    # Weights that claim more numbers than there are, and models far larger than their weights.
    saved(folder / "stretched.ckpt", state_dict={"a": torch.zeros(1).expand(10**12)})
    saved(folder / "many_views.ckpt", state_dict={str(i): torch.zeros(9).expand(9, 9) for i in range(99)})
    saved(folder / "huge_image.ckpt", hyper_parameters={"img_size": [100_000, 100_000]})
    classes = {"num_classes": 50_000, "class_names": ["x"] * 50_000, "palette": [[0, 0, 0]] * 50_000}
    saved(folder / "many_classes.ckpt", hyper_parameters=classes)
    decoder = {
        "class_path": "segbench.decoders.mask_transformer.MaskTransformer",
        "init_args": {"depth": 10**9},
    }
    saved(folder / "deep_model.ckpt", hyper_parameters={"decoder": decoder})
    saved(folder / "big_number.ckpt", hyper_parameters={"num_classes": 10**100})
    for key, text in {
        "aliases": "- &a [x, x]\n"
        + "".join(f"- &{new} [*{old}, *{old}]\n" for old, new in pairwise("abcdefghijklmnopqrstuvwxyz")),
        "levels": "[" * 5000,
        "blocks": "\n".join(" " * i + "a:" for i in range(1000)),
        "letters": "a" * (3 << 20),
        "values": "[" + "1," * 500_000 + "1]",
    }.items():
        saved(folder / f"yaml_{key}.ckpt", segbench={"version": "0", "config": text})
        if key != "letters":
            saved(folder / f"text_{key}.ckpt", hyper_parameters={"class_names": [text, "b", "c"]})
    # safetensors
    header = struct.pack("<Q", 1 << 40)
    (folder / "header.safetensors").write_bytes(header + bytes(100))
    (folder / "long_header.safetensors").write_bytes(struct.pack("<Q", 90 << 20) + b"{" + b" " * (90 << 20))
    for name, text in {"levels": "[" * 5000 + "]" * 5000, "values": json.dumps([1] * 400_000)}.items():
        described = json.dumps(
            {"__metadata__": {"segbench": f'{{"hyper_parameters": {{"a": {text}}}}}'}}
        ).encode()
        (folder / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(described)) + described)
    # ledgers
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"descr": "<i8", "fortran_order": False, "shape": (500_000_000, 3)}
    )
    with zipfile.ZipFile(folder / "claims.npz", "w") as archive:
        archive.writestr("rows.npy", array.getvalue() + bytes(100))
    with (
        zipfile.ZipFile(folder / "unpacks.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("rows.npy", "w") as file,
    ):
        file.write(array.getvalue())
        for _ in range(10):
            file.write(bytes(16 << 20))
    return folder


@pytest.mark.slow
def test_each_ends_in_one_line_within_a_gigabyte(hostile):
    """All in one process, which is killed where one of them hangs."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, str(hostile)],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("name", "told"),
    [("two_in_one", "not an archive of torch"), ("bytes", "a bytearray"), ("sets", "524,288 values")],
)
def test_memory_is_not_filled_before_a_file_is_refused(tmp_path, name, told):
    saved(tmp_path / "plain.ckpt")
    unexpected(tmp_path / "file.ckpt", name, tmp_path / "plain.ckpt")
    with pytest.raises(ValueError, match=told):
        load_task(tmp_path / "file.ckpt")


@pytest.mark.parametrize(
    "template",
    ["{split!r:>999999999}", "{split:>999999999}", "{split.__class__}", "{0}", "{", "{split}}", "{{}}"],
)
def test_formats_in_a_layout_are_no_formats(template):
    with pytest.raises(ValueError, match=r"braces around something else than \{split\}"):
        FolderLayout(images=(template,), masks=("masks",))


def test_a_configuration_within_the_limits_of_a_strange_but_honest_user(tmp_path):
    """Names of images by the thousand, classes with signs in their names, keys that are numbers."""
    path = write_checkpoint(tmp_path / "model.ckpt", "linear", class_names=["a: b", "[x]", "{split}"])
    content = torch.load(path)
    config = {
        "model": {"class_path": "x"},
        "data": {"init_args": {"exclude": [f"images/{i}.jpg" for i in range(9000)]}},
    }
    config["data"]["init_args"] |= {"remap": {-1: 255, 0: 3}, "merge": {"traffic light": ["a (b)", "Straße"]}}
    content["segbench"] = {"version": "0", "config": yaml.safe_dump({**config, "trainer": {}})}
    torch.save(content, path)
    assert load_task(path).class_names == ["a: b", "[x]", "{split}"]
