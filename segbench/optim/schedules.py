"""Learning-rate schedules, counted in optimiser steps, each with a warm-up and a floor."""

import math
from abc import ABC, abstractmethod

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Schedule(LRScheduler, ABC):
    """From a group's own learning rate down to a floor, over a known number of steps.

    The floor of a group is scaled as its learning rate is (`lr_scale`), so that all groups keep their ratio.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, min_lr: float = 0.0, warmup_steps: int = 0
    ) -> None:
        """Starts the schedule at step 0.

        Args:
            optimizer: Its groups' learning rates are where the schedule begins.
            total_steps: Optimiser steps of the whole training, warm-up included.
            min_lr: The floor.
            warmup_steps: Steps of linear rise from almost 0 to the full rate.

        Raises:
            ValueError: If warm-up takes all steps, or the floor is above the rate.
        """
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"a schedule of {total_steps} optimiser steps cannot have {warmup_steps} of warm-up; "
                "lower --model.init_args.schedule.init_args.warmup_steps or raise trainer.max_steps"
            )
        lowest = min(float(group["lr"]) / group.get("lr_scale", 1.0) for group in optimizer.param_groups)
        if min_lr > lowest:
            raise ValueError(f"min_lr {min_lr} is above the learning rate {lowest}; lower min_lr")
        self.total_steps = total_steps
        self.min_lr = min_lr
        self.warmup_steps = warmup_steps
        super().__init__(optimizer)

    @abstractmethod
    def factor(self, progress: float) -> float:
        """Gives the height between floor (0) and full rate (1).

        Args:
            progress: Share of the steps after warm-up that is done, in [0, 1].
        """

    def state_dict(self) -> dict[str, int]:
        """Keeps the step only: everything else is configuration, and may be changed when a run is resumed."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes to the saved step.

        Args:
            state_dict: From `state_dict()`.
        """
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = self.get_lr()
        # The optimiser was restored with the rate of the schedule that it was saved with.
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    def get_lr(self) -> list[float | Tensor]:
        """Computes each group's rate from the step alone, so that resuming is exact."""
        step = self.last_epoch
        if step < self.warmup_steps:
            return [base * (step + 1) / (self.warmup_steps + 1) for base in self.base_lrs]
        done = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        height = self.factor(done)
        rates: list[float | Tensor] = []
        for base, group in zip(self.base_lrs, self.optimizer.param_groups, strict=True):
            floor = self.min_lr * group.get("lr_scale", 1.0)
            rates.append((base - floor) * height + floor)
        return rates


class Poly(Schedule):
    """`(lr − min_lr) · (1 − t/T)^power + min_lr`, as Segmenter (floor 1e-5) and MMSegmentation (1e-4) train."""

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        power: float = 0.9,
        min_lr: float = 0.0,
        warmup_steps: int = 0,
    ) -> None:
        """Starts the schedule at step 0.

        Args:
            optimizer: Its groups' learning rates are where the schedule begins.
            total_steps: Optimiser steps of the whole training, warm-up included.
            power: Exponent of the fall.
            min_lr: The floor.
            warmup_steps: Steps of linear rise from almost 0 to the full rate.
        """
        self.power = power
        super().__init__(optimizer, total_steps, min_lr, warmup_steps)

    def factor(self, progress: float) -> float:
        """Gives `(1 − progress)^power`."""
        return float((1 - progress) ** self.power)


class Cosine(Schedule):
    """Half a cosine from the full rate to the floor (https://arxiv.org/abs/1608.03983, without restarts)."""

    def factor(self, progress: float) -> float:
        """Gives `(1 + cos(π · progress)) / 2`."""
        return 0.5 * (1 + math.cos(math.pi * progress))
