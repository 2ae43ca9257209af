"""Optuna's storage: opened patiently, and safe for several processes even where it is an SQLite file."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.storages._rdb.models import BaseModel
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import IntegrityError, OperationalError

from segbench.utils.files import scratch
from segbench.utils.printable import without_passwords

T = TypeVar("T")


def exists(storage: str, name: str) -> bool:
    """Returns whether a storage has a study, without making one.

    Args:
        storage: URL as Optuna takes it.
        name: Of the study.

    Returns:
        False also where the file does not exist yet.

    Raises:
        ValueError: If the storage cannot be opened.
    """
    if storage.startswith("sqlite:///") and not Path(storage.removeprefix("sqlite:///")).is_file():
        return False
    names: list[str] = patiently(lambda: optuna.get_all_study_names(backend(storage)))
    return name in names


def backend(storage: str) -> optuna.storages.RDBStorage:
    """Opens a storage.

    Args:
        storage: URL as Optuna takes it.

    Returns:
        The storage; on SQLite one whose transactions no other process gets in between.

    Raises:
        ValueError: If the URL is none, or its driver is missing.
        OperationalError: If the database cannot be reached or is being made by another process just now.
        IntegrityError: Likewise.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Several processes write at a time, and SQLite gives up after 5 s.
    options = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    try:
        _create_whole(storage)
        opened = optuna.storages.RDBStorage(storage, engine_kwargs=options)
    except (OperationalError, IntegrityError):
        raise
    except Exception as error:  # a driver that is missing, or a URL that is none
        raise ValueError(
            f"storage {without_password(storage)}: {_told(error, storage)[:300]}; give a URL as "
            "sqlite:///FILE or postgresql+psycopg2://USER@HOST/DATABASE"
        ) from None
    if opened.engine.dialect.name == "sqlite":
        _add_missing_indexes(opened.engine)
        _lock_before_reading(opened.engine)
    return opened


def _create_whole(storage: str) -> None:
    """Creates an SQLite database that does not exist yet under another name, and moves it into place.

    A kill between a table and its index would leave a database in which a study can exist twice.
    """
    file = Path(storage.removeprefix("sqlite:///"))
    if not storage.startswith("sqlite:///") or "?" in storage or not file.name or file.exists():
        return
    if not file.parent.is_dir():
        return  # Optuna says so
    with scratch(file.parent) as folder:
        draft = folder / file.name
        made = optuna.storages.RDBStorage(f"sqlite:///{draft}")
        made.engine.dispose()
        try:
            os.link(draft, file)  # unlike a rename it never replaces the database of a faster process
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            draft.replace(file)


def _add_missing_indexes(engine: Engine) -> None:
    """Adds what a kill during the creation of a database kept earlier versions from adding."""
    for table in BaseModel.metadata.tables.values():
        for index in table.indexes:
            index.create(engine, checkfirst=True)


def _lock_before_reading(engine: Engine) -> None:
    """Makes of every transaction on SQLite one that no other process gets in between.

    Optuna reads that a trial waits, then writes that it runs, under a lock on the row, which SQLite does not
    have: without this, two processes now and then take the same trial.
    """

    def leave_transactions_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", leave_transactions_to_us)
    event.listen(engine, "begin", begin)
    engine.dispose()  # connections that were made without


def patiently(work: Callable[[], T], seconds: float = 60.0) -> T:
    """Repeats what fails because another process makes the same tables at the same moment.

    Args:
        work: Opens a storage.
        seconds: For so long.

    Returns:
        What `work` does.

    Raises:
        ValueError: If it still fails then.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return work()
        except (OperationalError, IntegrityError) as error:
            if time.monotonic() > end:
                raise ValueError(f"the storage cannot be opened: {_told(error.orig)}") from None
            time.sleep(0.3)


def without_password(storage: str) -> str:
    """Leaves user and password out of a URL.

    Args:
        storage: URL as Optuna takes it.

    Returns:
        For messages.
    """
    head, at, place = storage.rpartition("@")
    scheme, known, _ = head.partition("://")
    return without_passwords(f"{scheme + known if known else ''}…@{place}" if at else storage)


def _told(error: object, storage: str = "") -> str:
    """Makes one line of what a database says, without the address it may repeat."""
    text = " ".join(str(error).split())
    return without_passwords(text.replace(storage, without_password(storage)) if storage else text)
