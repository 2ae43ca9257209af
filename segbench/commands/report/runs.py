"""What run folders say: configuration, parameters, scores."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from segbench.runs.run_json import data_digests, read_config, read_run_json
from segbench.utils.fingerprint import json_hash

SPLITS = {"validate": "val", "test": "test"}  # by verbs that only score
METRICS = ("aacc", "macc", "miou")  # in the order in which the field prints them


class Run(NamedTuple):
    """A run folder.

    Attributes:
        folder: Where it is.
        verb: fit, validate or test.
        config: The resolved configuration.
        parameters: Of the whole model.
        scores: aAcc, mAcc and mIoU in per cent by split; nan where undefined.
        checkpoint: Of what was scored; None for a training.
        commit: Of the code.
        finished: Whether it came to its end.
        data: Digest of the classes and of each split; empty for a run of a version that recorded none.
    """

    folder: Path
    verb: str
    config: dict[str, Any]
    parameters: int
    scores: dict[str, tuple[float, float, float]]
    checkpoint: Path | None
    commit: str | None
    finished: bool
    data: Mapping[str, str] = MappingProxyType({})

    @property
    def name(self) -> str:
        """Experiment and run id."""
        return "/".join(self.folder.absolute().parts[-2:])

    @property
    def origin(self) -> Path | None:
        """The run folder of the training whose checkpoint was scored."""
        return None if self.checkpoint is None else self.checkpoint.parent.parent

    @property
    def data_identity(self) -> str:
        """Identifies the data by what is in them; where nothing is recorded of that, by the folder."""
        if self.data:
            return json_hash(dict(self.data), 8)
        return str(self.setting("data.init_args.root", ""))

    @property
    def limit(self) -> int | float | None:
        """How many batches were scored, or what share of them; None for all."""
        given = self.setting("trainer.overfit_batches") if self.verb == "fit" else None
        given = given or self.setting(f"trainer.limit_{SPLITS.get(self.verb, 'val')}_batches")
        # 1.0 is all batches, and 1 a single one.
        return None if given is None or (isinstance(given, float) and given == 1.0) else given

    def setting(self, key: str, default: Any = None) -> Any:
        """Looks a setting up.

        Args:
            key: Dotted.
            default: Where there is none.

        Returns:
            Its value.
        """
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value


def find_runs(places: Iterable[Path]) -> list[Path]:
    """Finds all run folders in some places.

    Args:
        places: Run folders, folders of them such as `runs/meanshift_table1`, or `runs` itself.

    Returns:
        Sorted by folder, each once.

    Raises:
        ValueError: If a place has no run folder.
    """
    cards: dict[Path, None] = {}
    for place in places:
        found = [card for pattern in ("", "*/", "*/*/") for card in place.glob(f"{pattern}run.json")]
        if not found:
            raise ValueError(f"{place} is not a run folder, and has none in it; give runs/EXPERIMENT or runs")
        cards |= dict.fromkeys(card.resolve() for card in found)
    return [card.parent for card in sorted(cards)]


def read_run(folder: Path) -> Run:
    """Reads a run folder.

    Args:
        folder: With run.json and config.yaml.

    Returns:
        What it says.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        card = read_run_json(folder)
        config = read_config(folder / "config.yaml")
        scores = {
            split: (_percent(entry["aacc"]), _percent(entry["macc"]), _percent(entry["miou"]))
            for split, entry in card["scores"].items()
        }
        checkpoint = card["checkpoint"] if card["verb"] != "fit" else None
        return Run(
            folder,
            str(card["verb"]),
            config,
            int(card["parameters"]["total"]),
            scores,
            None if checkpoint is None else _found(Path(checkpoint), folder),
            card.get("commit"),
            bool(card.get("finished", True)),  # earlier versions did not say
            data_digests(card),
        )
    except KeyError as error:
        raise ValueError(f"{folder / 'run.json'} is damaged ({error.args[0]} is missing)") from None
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is not a complete run folder: {error.filename} is missing") from None


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Lists the leaves of a configuration.

    Args:
        value: Nested dictionaries and lists.
        prefix: Of the keys.

    Yields:
        Dotted key and value; entries of lists are numbered.
    """
    if isinstance(value, Mapping) and value:
        for key, entry in value.items():
            yield from flatten(entry, f"{prefix}{key}.")
    elif isinstance(value, list) and any(isinstance(entry, (Mapping, list)) for entry in value):
        for index, entry in enumerate(value):
            yield from flatten(entry, f"{prefix}{index}.")
    else:
        yield prefix.removesuffix("."), value


def _found(checkpoint: Path, folder: Path) -> Path:
    """Resolves a path relative to where the run was started: here, or some folder above the run's."""
    places = [checkpoint, *(place / checkpoint for place in folder.resolve().parents)]
    return next((place for place in places if place.is_file()), checkpoint).resolve()


def _percent(value: float | None) -> float:
    return float("nan") if value is None else 100 * value
