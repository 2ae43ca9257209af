"""Where runs live: `runs/<experiment>/<run id>/`, one folder for every run, none written over."""

import os
import re
import secrets
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from segbench.utils.files import atomic_write
from segbench.utils.lock import FolderLock

# Of torchrun, SLURM, LSF and Lightning; each is 0 in the first process of a run, where it is set at all.
_RANKS = ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")


def experiment_name(args: list[str]) -> str:
    """Names the experiment after its YAMLs: `meanshift.yaml` and `data/camvid.yaml` make `meanshift-camvid`.

    Args:
        args: As on the command line.

    Returns:
        The name; `unnamed` where no YAML is given.
    """
    finder = ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("-c", "--config", action="append", default=[])
    files = [Path(file) for file in finder.parse_known_args(args)[0].config]
    return "-".join(file.stem for file in files if file.suffix in {".yaml", ".yml"}) or "unnamed"


def run_folder(runs: Path, experiment: str, run_id: str | None = None) -> Path:
    """Chooses the folder of a run; it is not made yet.

    Args:
        runs: Folder of all runs.
        experiment: A name, which cannot lead out of that folder.
        run_id: A name as well; None for one that no other run has.

    Returns:
        Its path.
    """
    if run_id is None:
        run_id = f"{datetime.now().strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    return runs / _safe(experiment) / _safe(run_id)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a run folder, and keeps other processes from writing into it.

    Args:
        folder: The run folder. Where nothing is written into it, it is removed again.

    Raises:
        ValueError: If another process is writing into it, or it cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FolderLock(folder, "choose another name by --run_id NAME")
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise ValueError(
                f"the run folder {folder} cannot be made or written to ({error.strerror}); name another place"
                " by --runs_dir DIR"
            ) from error
        yield
    finally:
        lock.release()
        for path in made:
            with suppress(OSError):  # it is not empty
                path.rmdir()


class RunLocks(ExitStack):
    """What a command has for itself until it ends: run folders, and whatever else is entered."""

    def __init__(self) -> None:
        super().__init__()
        self._folders: set[Path] = set()

    def __deepcopy__(self, memo: dict[int, object]) -> "RunLocks":
        """Stays itself: averages of weights copy the model, and with it the command that configured it."""
        return self

    def __reduce__(self) -> tuple[type["RunLocks"], tuple[()]]:
        """Is empty in the processes of `ddp_spawn`, into which the command goes along with the model."""
        return RunLocks, ()

    def add(self, folder: Path) -> None:
        """Claims a run folder, in the first process of a run; see `locked`."""
        if _is_first_process() and folder.resolve() not in self._folders:
            self.enter_context(locked(folder))
            self._folders.add(folder.resolve())


def run_of(checkpoint: str | None) -> Path | None:
    """Finds the run that is resumed where training starts from a checkpoint.

    Args:
        checkpoint: Its path, or None.

    Returns:
        The run folder whose `last.ckpt` it is; None for any other file, so that going back to `best.ckpt`
        writes over nothing that came after it.
    """
    if checkpoint is None:
        return None
    path = Path(checkpoint).absolute()
    is_last = path.parts[-2:] == ("checkpoints", "last.ckpt")
    return path.parents[1] if is_last and (path.parents[1] / "run.json").is_file() else None


def write_config(folder: Path, config: str) -> None:
    """Writes config.yaml; where the run has a checkpoint of another one, beside that, never over it.

    Args:
        folder: The run folder.
        config: The resolved configuration, as YAML.
    """
    path = folder / "config.yaml"
    number = 0
    trained = (folder / "checkpoints" / "last.ckpt").is_file()
    while trained and path.is_file() and path.read_text() != config:
        number += 1
        path = folder / f"config.{number}.yaml"
    with atomic_write(path) as draft:
        draft.write_text(config)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "unnamed"


def _is_first_process() -> bool:
    """Returns whether this is the process of a run that writes its folder, before Lightning connects them."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)
