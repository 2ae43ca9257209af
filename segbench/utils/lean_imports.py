"""Imports torchmetrics without the packages that only its audio, image and plotting metrics need.

Lightning imports torchmetrics, which imports SciPy's signal processing, torchvision and matplotlib wherever
they are installed. segbench uses none of these metrics, and they would take more than a second before the first
message of a command. In a process started by `segbench fit` those metrics report that their package is missing;
programs that import segbench as a library are not affected.
"""

import importlib
import sys
from typing import Any

_UNUSED = ("scipy", "torchvision", "matplotlib")


def import_torchmetrics() -> None:
    """Imports torchmetrics, unless that is done already, as if `_UNUSED` were not installed."""
    if "torchmetrics" in sys.modules:
        return
    imports: Any = importlib.import_module("lightning_utilities.core.imports")
    available, is_met = imports.package_available, imports.RequirementCache.__bool__

    def package_available(name: str) -> bool:
        return name not in _UNUSED and bool(available(name))

    def is_met_and_used(requirement: Any) -> bool:
        caller = str(sys._getframe(1).f_globals.get("__name__", ""))
        unused = caller.startswith("torchmetrics") and str(requirement.requirement).startswith(_UNUSED)
        return not unused and bool(is_met(requirement))

    imports.package_available = package_available
    imports.RequirementCache.__bool__ = is_met_and_used
    try:
        importlib.import_module("torchmetrics")
    finally:
        imports.package_available = available
        imports.RequirementCache.__bool__ = is_met
