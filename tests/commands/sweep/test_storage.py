"""SQLite storages survive a kill at any moment of their creation."""

import sqlite3

import optuna
import pytest

from segbench.commands.sweep.storage import backend


def create(file):
    return optuna.create_study(study_name="s", storage=backend(f"sqlite:///{file}"), load_if_exists=True)


def test_a_database_appears_with_all_of_its_tables_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "study.db"
    opened = optuna.storages.RDBStorage

    def killed(url, **options):
        opened(url)
        assert not file.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna.storages, "RDBStorage", killed)
    with pytest.raises(KeyboardInterrupt):
        backend(f"sqlite:///{file}")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    create(file)
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def test_the_database_of_a_faster_process_is_kept(tmp_path, monkeypatch):
    file = tmp_path / "study.db"
    opened = optuna.storages.RDBStorage

    def slow(url, **options):
        made = opened(url, **options)
        if not file.exists():
            monkeypatch.setattr(optuna.storages, "RDBStorage", opened)
            create(file).set_user_attr("of", "the other")
        return made

    monkeypatch.setattr(optuna.storages, "RDBStorage", slow)
    assert create(file).user_attrs == {"of": "the other"}


def test_an_index_that_a_kill_kept_from_an_earlier_version_is_added(tmp_path):
    """Without it a study could exist twice, and the sweep could not be opened any more."""
    file = tmp_path / "study.db"
    create(file)
    with sqlite3.connect(file) as database:
        database.execute("DROP INDEX ix_studies_study_name")
    create(file)
    with sqlite3.connect(file) as database, pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        database.execute("INSERT INTO studies (study_name) VALUES ('s')")
