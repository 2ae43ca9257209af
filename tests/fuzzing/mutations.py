"""Random damage to files, reproducible for a given random generator."""

import copy
import io
import json
import random
import string
import zipfile
import zlib

import numpy as np
import torch
import yaml

# Values that often break readers of nested data.
NASTY = (
    *(None, True, False, 0, -1, 1, 255, 256, 2**31, 2**63, 10**30, 0.5, 1e308, float("inf"), float("nan")),
    *("", " ", "~", "null", "../../x", "/", "\0", "\x1b[31m", "ä" * 300, "x" * 5000, "{a: b", "a.b.c", "1e5"),
    *([], {}, [[]], [None], [1, "a", None], {"class_path": "os.system"}, {"": ""}, {"a": {"b": {"c": []}}}),
)


def damage_bytes(data: bytes, random: random.Random) -> bytes:
    """Flips, cuts, repeats, zeroes or inserts bytes at one to three positions."""
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if not data:
            return bytes(random.randbytes(random.randrange(20)))
        at = random.randrange(len(data))
        length = random.choice((1, 2, 4, 16, 256, len(data)))
        kind = random.randrange(7)
        if kind == 0:
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at : at + length] = bytes(min(length, len(data) - at))
        elif kind == 4:
            data[at:at] = random.randbytes(min(length, 4096))
        elif kind == 5:
            data[at:at] = data[at : at + min(length, 4096)]
        else:  # extreme numbers, which may replace sizes and offsets
            value = random.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"))
            data[at : at + 4] = value
    return bytes(data)


def damage_text(text: str, random: random.Random) -> bytes:
    """Deletes, repeats, swaps and replaces lines and words, sometimes bytes."""
    if random.random() < 0.2:
        return damage_bytes(text.encode(), random)
    lines = text.split("\n")
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(lines))
        kind = random.randrange(8)
        if kind == 0:
            del lines[at]
            lines = lines or [""]
        elif kind == 1:
            lines.insert(at, lines[random.randrange(len(lines))])
        elif kind == 2:
            other = random.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            words = lines[at].split(" ")
            words[random.randrange(len(words))] = str(random.choice(NASTY))
            lines[at] = " ".join(words)
        elif kind == 4:
            column = random.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:column] + random.choice(string.punctuation + "\t\0\r é") + lines[at][column:]
        elif kind == 5:
            lines[at] = " " * random.randrange(6) + lines[at].lstrip()
        elif kind == 6:
            column = random.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:column]
        else:
            lines = lines[:at] or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damage_tree(tree, random: random.Random):
    """Replaces, removes, renames, adds or moves entries of nested dictionaries and lists."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        entries = list(_entries(tree))
        if not entries:
            return random.choice(NASTY)
        owner, key = random.choice(entries)
        kind = random.randrange(6)
        if kind <= 2:
            owner[key] = copy.deepcopy(random.choice(NASTY))
        elif kind == 3:
            del owner[key]
        elif kind == 4 and isinstance(owner, dict):
            owner[random.choice((f"{key}x", str(key)[:-1], f"{key}.a", f"{key}+", "", "class_path"))] = (
                owner.pop(key)
            )
        else:
            other, name = random.choice(entries)
            if name in other if isinstance(other, dict) else name < len(other):
                owner[key] = copy.deepcopy(other[name])
    return tree


def _entries(tree):
    """Yields each container with each of its keys."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _entries(value)


def damage_yaml(data: bytes, random: random.Random) -> bytes:
    """Damages the text, or the values of valid YAML."""
    if random.random() < 0.5:
        return damage_text(data.decode(), random)
    return yaml.safe_dump(damage_tree(yaml.safe_load(data), random), allow_unicode=True).encode(
        "utf-8", "replace"
    )


def damage_json(data: bytes, random: random.Random) -> bytes:
    """Damages the text, or the values of valid JSON."""
    if random.random() < 0.3:
        return damage_text(data.decode(), random)
    return json.dumps(damage_tree(json.loads(data), random)).encode()


def damage_json_lines(data: bytes, random: random.Random) -> bytes:
    """Damages the text, or the values in one line."""
    if random.random() < 0.3:
        return damage_text(data.decode(), random)
    lines = data.decode().splitlines()
    at = random.randrange(len(lines))
    lines[at] = json.dumps(damage_tree(json.loads(lines[at]), random))
    return ("\n".join(lines) + "\n").encode()


def damage_png(data: bytes, random: random.Random) -> bytes:
    """Damages bytes, or the content of a chunk, with a valid checksum."""
    if random.random() < 0.4:
        return damage_bytes(data, random)
    chunks, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    index = random.randrange(len(chunks))
    kind, content = chunks[index]
    chunks[index] = kind, damage_bytes(content, random)
    parts = [
        len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)
        for kind, content in chunks
    ]
    return data[:8] + b"".join(parts)


def damage_checkpoint(data: bytes, random: random.Random) -> bytes:
    """Damages bytes, a member of the archive, or the values in it."""
    choice = random.random()
    if choice < 0.3:
        return damage_bytes(data, random)
    if choice < 0.5:
        return _damage_member(data, random)
    tree = torch.load(io.BytesIO(data), weights_only=True)
    out = io.BytesIO()
    torch.save(damage_tree(tree, random), out)
    return out.getvalue()


def damage_safetensors(data: bytes, random: random.Random) -> bytes:
    """Damages bytes, or the values of the header, which stays JSON of the declared length."""
    if random.random() < 0.4:
        return damage_bytes(data, random)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    nested = next((key for key, value in metadata.items() if value[:1] == "{"), None)
    if nested is not None and random.random() < 0.5:
        metadata[nested] = json.dumps(damage_tree(json.loads(metadata[nested]), random))
    else:
        header = damage_tree(header, random)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def damage_ledger(data: bytes, random: random.Random) -> bytes:
    """Damages bytes, a member of the archive, or an array: its values, type, shape or presence."""
    choice = random.random()
    if choice < 0.3:
        return damage_bytes(data, random)
    if choice < 0.5:
        return _damage_member(data, random)
    arrays = dict(np.load(io.BytesIO(data)))
    name = random.choice(list(arrays))
    array = arrays[name]
    kind = random.randrange(7)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[name] = (
            array.astype(random.choice((np.float32, np.uint8, "U3", "S2", bool, np.int16)), casting="unsafe")
            if array.dtype.kind != "U"
            else np.arange(array.size)
        )
    elif kind == 2:
        arrays[name] = array[..., None]
    elif kind == 3:
        arrays[name] = array.ravel()[: random.randrange(array.size + 1)]
    elif kind == 4 and array.dtype.kind == "i" and array.size:
        array.ravel()[random.randrange(array.size)] = random.choice((-1, 2**62, -(2**62), 10**6, 0))
    elif kind == 5:
        arrays[name] = np.concatenate([array.ravel(), array.ravel()])
    else:
        arrays[name] = np.zeros((0,) * random.randrange(3), array.dtype)
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def _damage_member(data: bytes, random: random.Random) -> bytes:
    """Damages one file inside a ZIP archive, with valid checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as damaged:
        names = archive.namelist()
        chosen = random.choice(names)
        for name in names:
            content = archive.read(name)
            damaged.writestr(name, damage_bytes(content, random) if name == chosen else content)
    return out.getvalue()
