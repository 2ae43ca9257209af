"""The order of training images."""

import itertools

import pytest

from segbench.data.loading.sampling import TrainBatchSampler, batch_indices


def take(sampler, count, start=0):
    """Iterates pass by pass, as a trainer does."""
    done = start
    while done < count:
        sampler.batches_done = lambda done=done: done
        for batch in itertools.islice(sampler, count - done):
            yield batch
            done += 1


@pytest.mark.parametrize(("num_images", "batch_size"), [(11, 2), (12, 4), (100, 7)])
def test_a_pass_shows_no_image_twice(num_images, batch_size):
    sampler = TrainBatchSampler(num_images, batch_size)
    assert len(sampler) == num_images // batch_size
    passes = [
        [draw.image for batch in take(sampler, (e + 1) * len(sampler), e * len(sampler)) for draw in batch]
        for e in range(3)
    ]
    assert all(len(set(images)) == len(sampler) * batch_size for images in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]


def test_all_images_are_shown_in_the_long_run():
    assert {d.image for batch in take(TrainBatchSampler(11, 4), 60) for d in batch} == set(range(11))


def test_draws_have_numbers_of_their_own():
    numbers = [draw.number for batch in take(TrainBatchSampler(11, 3), 20) for draw in batch]
    assert numbers == list(range(60))


def test_few_images_are_repeated_to_fill_a_batch():
    sampler = TrainBatchSampler(3, 8)
    assert len(sampler) == 1
    (batch,) = sampler
    images = [draw.image for draw in batch]
    assert len(images) == 8
    assert {images.count(i) for i in range(3)} == {2, 3}


@pytest.mark.parametrize(("num_images", "batch_size"), [(11, 2), (12, 4), (3, 8), (5, 5)])
def test_visits_count_the_times_an_image_may_have_been_shown(num_images, batch_size):
    sampler = TrainBatchSampler(num_images, batch_size)
    seen = {}
    for batch in take(sampler, 6 * len(sampler)):
        for draw in batch:
            assert draw.visit not in seen.setdefault(draw.image, set())  # never one visit twice
            seen[draw.image].add(draw.visit)
    if batch_size <= num_images:  # a pass is a visit
        assert {visit for visits in seen.values() for visit in visits} == set(range(6))


@pytest.mark.parametrize("world_size", [2, 3, 6])
@pytest.mark.parametrize("num_images", [40, 5])
def test_more_processes_see_what_one_sees(world_size, num_images):
    alone = [sorted(batch) for batch in take(TrainBatchSampler(num_images, 12, seed=1), 9)]
    ranks = [
        take(TrainBatchSampler(num_images, 12 // world_size, 1, rank, world_size), 9)
        for rank in range(world_size)
    ]
    together = [sorted(itertools.chain(*batches)) for batches in zip(*ranks, strict=True)]
    assert together == alone


def test_the_seed_decides():
    assert batch_indices(0, 100, 8, 0) == batch_indices(0, 100, 8, 0) != batch_indices(0, 100, 8, 1)


def test_starts_where_training_stands_at_the_moment_of_asking():
    done = [4]
    sampler = TrainBatchSampler(11, 2, batches_done=lambda: done[0])
    iterator = iter(sampler)
    done[0] = 9
    assert next(iterator) == batch_indices(4, 11, 2, 0)
    assert len(sampler) == 5
