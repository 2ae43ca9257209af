"""The order of training images as a pure function of seed and step, so that resuming needs no state.

Training reads one endless stream of draws: a permutation of the images for each pass, one after another, cut
into batches. A draw has a number of its own; seed and number decide its augmentation, wherever it is computed.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler, SequentialSampler


class SampleIndex(NamedTuple):
    """One image at one moment of training.

    Attributes:
        image: Place of the image in the dataset.
        number: Place in the stream; no two draws share it.
        visit: How often the stream went over all images before.
    """

    image: int
    number: int
    visit: int = 0


@lru_cache(maxsize=4)
def permutation(num_images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Computes the order of images in one pass.

    Returns:
        `(num_images,)` every index once.
    """
    return np.random.default_rng((seed, epoch)).permutation(num_images)


def batch_indices(number: int, num_images: int, batch_size: int, seed: int) -> list[SampleIndex]:
    """Computes one batch of the stream.

    A pass has as many whole batches as its images fill; the last images of the permutation wait for another
    pass. Where the images do not fill one batch they are repeated.

    Args:
        number: Batches before this one since the beginning of training.
        num_images: Images of the split.
        batch_size: Images of the batch, on all devices together.
        seed: Seed of the order.

    Returns:
        `batch_size` draws.
    """
    epoch, position = divmod(number, batches_per_epoch(num_images, batch_size))
    order = permutation(num_images, seed, epoch)
    visits_per_epoch = -(-batch_size // num_images)  # more than one where images do not fill a batch
    draws = []
    for i in range(batch_size):
        again, place = divmod(position * batch_size + i, num_images)
        draws.append(SampleIndex(int(order[place]), number * batch_size + i, epoch * visits_per_epoch + again))
    return draws


def batches_per_epoch(num_images: int, batch_size: int) -> int:
    """Counts the whole batches of a pass, at least one."""
    return max(1, num_images // batch_size)


class TrainBatchSampler(Sampler[list[SampleIndex]]):
    """Hands a data loader its batches, from wherever training stands.

    Each of `world_size` processes takes every `world_size`-th draw of the same batches, so that more processes
    with smaller batches see what one process with a large batch sees.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batches_done: Callable[[], int] = int,
        overfit: int | float = 0,
    ) -> None:
        """Sets up the stream.

        Args:
            num_images: Images of the split.
            batch_size: Images in a batch of this process.
            seed: Seed of the order.
            rank: Number of this process.
            world_size: Number of processes.
            batches_done: Asked each time iteration begins: the batches trained so far.
            overfit: How many batches, or which share of a pass, to show over and over: the same images with the
                same augmentation; 0 for an endless stream.
        """
        self.num_images = num_images
        self.global_batch_size = batch_size * world_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batches_done = batches_done
        share = overfit if isinstance(overfit, int) else int(overfit * len(self))
        self.repeated = min(share, len(self))

    def __len__(self) -> int:
        return batches_per_epoch(self.num_images, self.global_batch_size)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        # Asked here, not in the generator's body, which runs at the first `next`, when the count may differ.
        return self._batches(self.batches_done())

    def _batches(self, first: int) -> Iterator[list[SampleIndex]]:
        for number in range(first, first + len(self)):
            shown = number % self.repeated if self.repeated else number
            batch = batch_indices(shown, self.num_images, self.global_batch_size, self.seed)
            yield batch[self.rank :: self.world_size]


class DistributedEvalSampler(SequentialSampler):
    """Hands out the images that one of several processes evaluates: every image once, none twice, none padded.

    Batches are dealt out whole, so that each image meets the same neighbours and gets the same labels, bit for
    bit, whatever the number of processes. Shares may differ by a batch, and some may be empty. It is a
    SequentialSampler, since Lightning replaces any other where `overfit_batches` is given: each process would
    then evaluate the same images.
    """

    def __init__(self, num_images: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        """Deals the images out.

        Args:
            num_images: Images of the split, at least one.
            batch_size: Images of a batch.
            rank: Number of this process.
            world_size: Number of processes.
        """
        super().__init__(range(num_images))
        self.num_images = num_images
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Counts the largest share, in every process.

        Lightning skips evaluation where it expects no batch, and the others would wait for it forever.
        """
        return len(self._images(0))

    def __iter__(self) -> Iterator[int]:
        return iter(self._images(self.rank))

    def _images(self, rank: int) -> list[int]:
        return [
            image
            for first in range(rank * self.batch_size, self.num_images, self.world_size * self.batch_size)
            for image in range(first, min(first + self.batch_size, self.num_images))
        ]
