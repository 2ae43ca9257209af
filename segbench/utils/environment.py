"""Where a figure comes from: commit of the code, and processor."""

import platform
import subprocess
from pathlib import Path


def commit() -> str:
    """Names the commit of the code that runs.

    Returns:
        The hash, with `-dirty` behind it where files differ from it; `unknown` outside a checkout.
    """
    folder = str(Path(__file__).parents[1])
    git = ["git", "-C", folder]
    try:
        # Not the commit of whatever repository an installed package happens to lie in.
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """Names the CPU.

    Returns:
        The model where Linux tells it, else the architecture.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
