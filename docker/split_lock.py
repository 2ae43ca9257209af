"""Split requirements.lock for a machine without a GPU.

Writes `others.txt`, with the hashes of the lock file, and `torch.txt`, which names the CPU builds of the locked
versions of torch and torchvision. Packages that only builds for CUDA need are left out.
"""

import re
import sys
from pathlib import Path

CUDA = re.compile(r"(nvidia|cuda)-[\w.-]+|triton")
TORCH = {"torch", "torchvision"}


def split_lock(text: str) -> tuple[str, str]:
    """Returns the contents of `others.txt` and `torch.txt`."""
    others, torch = [], []
    for entry in re.split(r"\n(?=\S)", text.strip()):
        name, version = re.match(r"([\w.-]+)==([^\s;\\]+)", entry).groups()
        if name in TORCH:
            torch.append(f"{name}=={version}+cpu")
        elif not CUDA.fullmatch(name):
            others.append(entry)
    return "\n".join(others) + "\n", "\n".join(torch) + "\n"


if __name__ == "__main__":
    for name, content in zip(
        ("others.txt", "torch.txt"), split_lock(Path(sys.argv[1]).read_text()), strict=True
    ):
        Path(name).write_text(content)
