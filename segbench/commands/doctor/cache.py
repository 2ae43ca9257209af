"""What the doctor found in files that have not changed since: a second visit reads the others alone.

One file of JSON for each dataset, in the cache folder. It is a memory and no more: whatever is wrong with it,
the files are read again. A record holds as long as size, modification and status change of both its files, the
code that examines and reads them, and the options of their layout are what they were.
"""

import json
import time
from collections.abc import Iterable, Mapping
from inspect import getfile
from pathlib import Path
from typing import Any

import segbench.data
from segbench.callbacks.feature_cache.views import PACKAGES, package_version
from segbench.commands.doctor import examine
from segbench.commands.doctor.examine import Record
from segbench.data.spec import Layout, Pair
from segbench.utils.files import atomic_write, cache_folder
from segbench.utils.fingerprint import fingerprint_fields, json_hash, short_hash

_ABOUT = "What `segbench doctor` found in the files of a dataset; may be deleted."
# A file that was written a moment ago may be written again without a change of time: clocks of file systems
# tick as rarely as every other second.
_SETTLED_NS = 2 * 10**9

Stamp = list[Any]


class Memory:
    """Records of one dataset's pairs, by their files' names."""

    def __init__(self, layout: Layout, root: Path) -> None:
        """Recalls what is known; nothing if that cannot be read or told from other things.

        Args:
            layout: Opens the files.
            root: Folder of the dataset.
        """
        self.path: Path | None = None
        self._known: Mapping[str, Any] = {}
        self._kept: dict[str, Any] = {}
        try:
            name = json_hash([fingerprint_fields(layout), str(root.absolute())], 24)
            self._code = _code_of(layout)
        except (ValueError, TypeError, OSError):  # a layout of the user's own that cannot be written down
            return
        self.path = cache_folder() / "doctor" / f"{name}.json"
        self._known = self._load(self.path)

    def recall(self, pair: Pair) -> Record | None:
        """Finds the record of a pair whose files are as they were."""
        entry = self._known.get(_key(pair))
        if entry is None:
            return None
        try:
            stamp, fields = entry
            if stamp != _stamp(pair):
                return None
            record = _record(fields)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        self._kept[_key(pair)] = entry
        return record

    def keep(self, pair: Pair, stamp: Stamp | None, record: Record) -> None:
        """Remembers a sound pair. What is wrong is looked at again: it may be the disk's fault, or a moment's.

        Args:
            pair: The files.
            stamp: Of before they were read.
            record: What was found.
        """
        if stamp is None or record.fault is not None:
            return
        newest = max(time_ns for _, *times in stamp for time_ns in times)
        if time.time_ns() - newest > _SETTLED_NS:
            self._kept[_key(pair)] = [stamp, _fields(record)]

    def save(self) -> None:
        """Writes down what was recalled and kept, and forgets files that are gone.

        Raises:
            OSError: If the cache folder cannot be written to.
        """
        if self.path is None or self._kept == self._known:
            return
        body = json.dumps(self._kept, separators=(",", ":"))
        head = {"what": _ABOUT, "code": self._code, "sha256": short_hash(body, 64)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as draft:
            draft.write_text(f"{json.dumps(head)}\n{body}\n", encoding="utf-8")

    def _load(self, path: Path) -> Mapping[str, Any]:
        try:
            head, _, body = path.read_text(encoding="utf-8").partition("\n")
            about, body = json.loads(head), body.rstrip("\n")
            if about["code"] != self._code or about["sha256"] != short_hash(body, 64):
                return {}
            known = json.loads(body)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return {}
        return known if isinstance(known, dict) else {}


def stamp(pair: Pair) -> Stamp | None:
    """Takes down by what a change of a pair's files is noticed; None where one cannot be asked."""
    try:
        return _stamp(pair)
    except OSError:
        return None


def _stamp(pair: Pair) -> Stamp:
    found = (path.stat() for path in _files(pair))
    return [[status.st_size, status.st_mtime_ns, status.st_ctime_ns] for status in found]


def _files(pair: Pair) -> Iterable[Path]:
    return dict.fromkeys(path for path in (pair.image, pair.label) if path is not None)


def _key(pair: Pair) -> str:
    return "\0".join(str(path) for path in (pair.image, pair.label))


def _code_of(layout: Layout) -> str:
    """Hashes the code that records depend on, other packages' included."""
    package = Path(next(iter(segbench.data.__path__)))
    files = {*package.glob("*.py"), Path(examine.__file__)}
    files |= {
        Path(getfile(kind)) for kind in type(layout).__mro__ if kind.__module__ not in {"builtins", "abc"}
    }
    code = repr([package_version(name) for name in PACKAGES]).encode()
    return short_hash(code + b"".join(path.read_bytes() for path in sorted(files)), 64)


def _fields(record: Record) -> dict[str, Any]:
    """Writes a sound record as JSON has it: pairs in place of mappings, whose keys would become text."""
    return {**record._asdict(), "ids": list(record.ids.items()), "palette": list(record.palette.items())}


def _record(fields: Mapping[str, Any]) -> Record:
    """Does the reverse."""
    sizes = {name: fields[name] and tuple(fields[name]) for name in ("size", "label_size")}
    palette = {i: tuple(color) for i, color in fields["palette"]}
    return Record(**{**fields, **sizes, "ids": dict(fields["ids"]), "palette": palette, "colors": {}})
