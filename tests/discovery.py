"""Finds all implementations of a contract in its room, so that a new file is tested by being there."""

import importlib
import inspect
import pkgutil
from types import ModuleType


def discover(room: ModuleType, contract: type) -> list[type]:
    found = []
    for file in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
        module = importlib.import_module(file.name)
        found += [
            cls
            for _, cls in inspect.getmembers(module, inspect.isclass)
            if issubclass(cls, contract) and not inspect.isabstract(cls) and cls.__module__ == file.name
        ]
    return found
