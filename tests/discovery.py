"""Discovers all implementations of a contract in a package, so that new files are tested automatically."""

import importlib
import inspect
import pkgutil
from types import ModuleType


def discover(package: ModuleType, contract: type) -> list[type]:
    found = []
    for file in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(file.name)
        found += [
            cls
            for _, cls in inspect.getmembers(module, inspect.isclass)
            if issubclass(cls, contract) and not inspect.isabstract(cls) and cls.__module__ == file.name
        ]
    return found
