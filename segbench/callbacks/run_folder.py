"""One run folder for all processes of a run, whatever launched them."""

import lightning as L


class RunFolder(L.Callback):
    """Tells all processes which folder the first one made.

    Processes that `torchrun` or SLURM start do not hear of each other before the trainer connects them, so that
    each has chosen a folder of its own until then. None but the first has made it.
    """

    def __init__(self, checkpoint: str | None = None) -> None:
        """Takes what the processes must agree on besides.

        Args:
            checkpoint: What this process is about to load, if anything.
        """
        self.checkpoint = checkpoint

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Agrees, before any callback writes.

        Raises:
            ValueError: If processes would load different checkpoints.
        """
        folder, first = trainer.strategy.broadcast((trainer.default_root_dir, self.checkpoint))
        # The public name is read-only, and it is what every callback asks for the folder.
        trainer._default_root_dir = folder  # type: ignore[attr-defined]
        if not trainer.strategy.reduce_boolean_decision(first == self.checkpoint, all=True):
            raise ValueError(
                f"process {trainer.global_rank} is about to load {self.checkpoint}, the first process {first}: "
                "all machines must see the same run folders; put --runs_dir on a file system that they share"
            )
