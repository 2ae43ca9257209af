"""One process of the DDP check, run as a script: it imports the decoder by its class path, as any run would."""

import pickle
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from segbench.commands.check_decoder.decoder_under_test import NUM_CLASSES, format_error, objective, outputs
from segbench.decoders.base import Decoder
from segbench.types import Features

PROCESSES = 2
STEPS = 2  # DDP complains of a parameter without gradient when the second step begins


def main(folder: Path, rank: int) -> None:
    """Trains in one of the processes.

    Args:
        folder: Where recipe and features lie and the outcome goes.
        rank: Of this process.
    """
    dist.init_process_group(
        "gloo",
        init_method=(folder / "rendezvous").as_uri(),
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(minutes=5),
    )
    factory, info, seed = pickle.loads((folder / "recipe.pkl").read_bytes())  # noqa: S301 (written by `ddp`)
    torch.manual_seed(seed)
    decoder = factory(info, NUM_CLASSES)
    features = torch.load(folder / "features.pt", weights_only=False)
    own = Features(features.image[rank::PROCESSES], tuple(level[rank::PROCESSES] for level in features.maps))
    model = DistributedDataParallel(decoder)
    without: list[str] = []
    try:
        for _ in range(STEPS):
            model.zero_grad()
            torch.autograd.backward(objective(outputs(model(own))))
            without = [name for name, p in decoder.named_parameters() if p.requires_grad and p.grad is None]
            _descend(decoder)
    except Exception as error:
        told = f"{', '.join(without[:3])} got no gradient; use it in forward, or do not make it"
        fault = told if without else f"{type(error).__name__}: {format_error(error)}"
        (folder / f"fault-{rank}.txt").write_text(f"DistributedDataParallel stops: {fault}")
        traceback.print_exc()
        sys.exit(1)
    torch.save(dict(decoder.named_parameters()), folder / f"weights-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@torch.no_grad()
def _descend(decoder: Decoder) -> None:
    """Takes a step as SGD would, whose import lasts longer than all the rest."""
    for parameter in decoder.parameters():
        if parameter.grad is not None:
            parameter.add_(parameter.grad, alpha=-1e-3)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
