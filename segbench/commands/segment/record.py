"""`segment.jsonl`: what in a folder of labels was made of which image, by which model, and how.

By it a call resumes where the last one was stopped, and tells its own files from those of others. Its lines are
only ever added, each before or after what it tells of is written, so that a kill at any moment leaves it true.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

from segbench.commands.segment.names import AREAS, Names, is_safe, outputs
from segbench.utils.files import atomic_write, naming, remove_drafts
from segbench.utils.lock import FolderLock

FILE = "segment.jsonl"
_VERSION = 1

Options: TypeAlias = Mapping[str, Any]


class Done(NamedTuple):
    """One image or video whose outputs are complete.

    Attributes:
        source: Absolute path.
        stamp: Its size in bytes and time of change in nanoseconds.
        files: Size of each output by its name in the folder: bytes, or of a folder of frames their number.
        pixels: Of each class; None for a video.
    """

    source: str
    stamp: tuple[int, int]
    files: dict[str, int]
    pixels: list[int] | None


class _Content(NamedTuple):
    options: Options
    names: dict[str, str]  # of the outputs, by the image's absolute path
    done: dict[str, Done]  # by that name


class Record:
    """The record of one folder, open for one call."""

    def __init__(self, out: Path, content: _Content, file: IO[str]) -> None:
        """Takes what `open_record` found."""
        self.out = out
        self._content = content
        self._file = file

    @property
    def done(self) -> Mapping[str, Done]:
        """What is complete, by its name."""
        return self._content.done

    def name_of(self, path: Path) -> str:
        """Gives the name under which the outputs of a file go."""
        return self._content.names[_absolute(path)]

    def is_done(self, path: Path) -> bool:
        """Returns whether all outputs are there and the file is still what it was."""
        done = self.done.get(self.name_of(path))
        try:
            return done is not None and done.stamp == _stamp(path) and done.files == self._sizes(done.files)
        except OSError:
            return False

    def add(self, path: Path, files: Iterable[str], pixels: list[int] | None) -> None:
        """Notes a file whose outputs are complete.

        Args:
            path: Of the image or video.
            files: Its outputs, by their names in the folder.
            pixels: Of each class.
        """
        done = Done(_absolute(path), _stamp(path), self._sizes(files), pixels)
        name = self.name_of(path)
        self._content.done[name] = done
        self._write({"done": name, **done._asdict()})

    def _sizes(self, files: Iterable[str]) -> dict[str, int]:
        return {file: _size(self.out / file) for file in files}

    def _write(self, line: Mapping[str, Any]) -> None:
        with naming(self.out / FILE):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


@contextmanager
def open_record(out: Path, files: Iterable[Path], options: Options, overwrite: bool) -> Iterator[Record]:
    """Makes the folder, looks whether it may be written into, and gives every file a name.

    Args:
        out: Folder of outputs.
        files: Images and videos.
        options: All that decides on what the outputs are, checkpoint included; JSON.
        overwrite: Label everything again, whatever lies there.

    Yields:
        The record, while no other process writes into the folder.

    Raises:
        ValueError: If the folder holds what these options did not make, or an image would be written over.
    """
    options = json.loads(json.dumps(options))  # as the file will have them
    out.mkdir(parents=True, exist_ok=True)
    with FolderLock(out, "give another --out"):
        before = _read(out)
        ours = None if before is None else set(before.names.values())
        if before is not None and before.options != options:
            if before.done and not overwrite:
                raise ValueError(
                    f"{out} holds labels made otherwise ({_difference(before.options, options)}): give another"
                    " --out, or --overwrite to replace them"
                )
            before = before._replace(done={})
        if before is None or overwrite:
            before = _Content(options, {} if before is None else before.names, {})
        content = _Content(options, dict(before.names), dict(before.done))
        names = Names(content.names.values())
        files = list(files)
        for file in files:
            if _absolute(file) not in content.names:
                content.names[_absolute(file)] = names.choose(file)
        _protect(out, files, content.names, ours, overwrite)
        with atomic_write(out / FILE) as draft:
            draft.write_text("".join(json.dumps(line) + "\n" for line in _lines(content)))
        remove_drafts(out)  # of a call that was killed while it wrote
        with (out / FILE).open("a", encoding="ascii") as record:
            yield Record(out, content, record)


def written_files(out: Path) -> set[str]:
    """Names what earlier calls may have written into a folder, by its record."""
    content = _read(out)
    return set() if content is None else {file for name in content.names.values() for file in outputs(name)}


def checkpoint_digest(path: Path) -> str:
    """Tells checkpoints apart by what is in them.

    Args:
        path: A file, or a folder of files.

    Returns:
        Hexadecimal digits.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _lines(content: _Content) -> Iterator[dict[str, Any]]:
    yield {"segment": _VERSION, "options": content.options}
    for source, name in content.names.items():
        yield {"name": name, "source": source}
    for name, done in content.done.items():
        yield {"done": name, **done._asdict()}


def _read(out: Path) -> _Content | None:
    """Reads the record of a folder, if there is one; a last line that was cut short counts for nothing."""
    try:
        text = (out / FILE).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, IsADirectoryError):
        raise ValueError(_damaged(out)) from None
    lines = text.split("\n")[:-1]
    try:
        entries = [json.loads(line) for line in lines]
        head = entries[0]
        content = _Content(head["options"], {}, {})
        _demand(head["segment"] == _VERSION and isinstance(content.options, dict))
        for entry in entries[1:]:
            if "done" in entry:
                name, done = _done(entry)
                content.done[name] = done
            else:
                _demand(isinstance(entry["source"], str) and isinstance(entry["name"], str))
                content.names[entry["source"]] = entry["name"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(_damaged(out)) from None
    known = {file for name in content.names.values() for file in outputs(name)}
    # The folder may be a stranger's: what stands there must not lead out of it.
    outside = {file for done in content.done.values() for file in done.files} - known
    if outside or not all(map(is_safe, content.names.values())):
        raise ValueError(_damaged(out))
    return content


def _done(entry: Mapping[str, Any]) -> tuple[str, Done]:
    """Reads the line of a complete file."""
    name, source, stamp, files, pixels = (entry[key] for key in ("done", *Done._fields))
    _demand(isinstance(name, str) and isinstance(source, str))
    _demand(isinstance(stamp, list) and len(stamp) == 2 and all(type(number) is int for number in stamp))
    _demand(isinstance(files, dict) and all(type(size) is int for size in files.values()))
    _demand(pixels is None or (isinstance(pixels, list) and all(type(count) is int for count in pixels)))
    return name, Done(source, (stamp[0], stamp[1]), files, pixels)


def _demand(holds: bool) -> None:
    if not holds:
        raise ValueError


def _damaged(out: Path) -> str:
    return (
        f"{out / FILE} is damaged, or not a record of `segbench segment`: move it away, or give another --out"
    )


def _difference(there: Options, here: Options) -> str:
    keys = [key for key in here.keys() | there.keys() if here.get(key) != there.get(key)]
    return "; ".join(f"{key}: {there.get(key)} there, {here.get(key)} here" for key in sorted(keys))


def _protect(
    out: Path, files: Iterable[Path], names: Mapping[str, str], ours: set[str] | None, overwrite: bool
) -> None:
    """Refuses to write over images, and over what no earlier call wrote.

    Args:
        out: The folder.
        files: Images and videos.
        names: Of the outputs, by the absolute path of each file.
        ours: Names of earlier calls; None if there was none.
        overwrite: Whether the files of others may be replaced; images never.
    """
    loaded = {os.path.realpath(file) for file in files}
    own = ours or set()
    fresh = set() if ours is not None else {AREAS}
    for name in {names[_absolute(file)] for file in files}:
        if name not in own:
            fresh |= outputs(name)
        for output in sorted(outputs(name)):
            if os.path.realpath(out / output) in loaded:
                raise ValueError(
                    f"{out / output} is a photograph and would be written over; give another --out"
                )
    for output in sorted(fresh):
        if not overwrite and os.path.lexists(out / output):
            raise ValueError(
                f"{out / output} is there, and no earlier `segbench segment` wrote it: give another --out, or"
                " --overwrite to replace it"
            )


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (a link is what its user calls it)


def _stamp(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _size(path: Path) -> int:
    return sum(1 for _ in path.iterdir()) if path.is_dir() else path.stat().st_size
