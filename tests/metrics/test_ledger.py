import numpy as np
import pytest
import torch
from reference import slow_scores
from torch import distributed, multiprocessing

from segbench.metrics.ledger import ConfusionLedger, Ledger, load_ledger, save_ledger
from segbench.metrics.segmentation import SegmentationScores

K = 6
CLASSES = ["sky", "tree", "road", "車", "wall", "bed"]
SIZES = [(9, 14), (20, 11), (16, 16), (7, 30), (13, 13)]


def maps(image):
    generator = torch.Generator().manual_seed(image)
    label = torch.randint(K, SIZES[image], generator=generator, dtype=torch.uint8)
    target = torch.randint(K, SIZES[image], generator=generator, dtype=torch.uint8)
    target[:3] = 255
    return label[None], target[None]


def name(image):
    return f"Zürich/{9 - image:03d} ä.png"


def count(images):
    """Returns both metrics after the given images."""
    scores, ledger = SegmentationScores(K), ConfusionLedger(K)
    for image in images:
        scores.update(*maps(image))
        ledger.update(*maps(image), [name(image)])
    return scores, ledger


def assert_same(found, expected):
    assert found.names == expected.names
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_array_equal(found.rows, expected.rows)


def test_every_image_keeps_its_own_counts():
    ledger = count(range(5))[1].compute()
    assert ledger.names == tuple(sorted(name(image) for image in range(5)))
    for position, image in enumerate(reversed(range(5))):  # their names run backwards
        label, target = maps(image)
        assert ledger.names[position] == name(image)
        np.testing.assert_array_equal(ledger.matrix(position, K), slow_scores.confusion(label, target, K, 255))
    assert (ledger.rows[:, 2] > 0).all()


def test_all_images_together_are_the_scores_of_the_split():
    scores, ledger = count(range(5))
    total = ledger.compute().total(K)
    np.testing.assert_array_equal(total, scores.confusion)
    np.testing.assert_array_equal(total, sum(ledger.compute().matrix(i, K) for i in range(5)))


def test_a_batch_counts_as_its_images_one_by_one():
    pairs = [(label.repeat(2, 1, 1), target.repeat(2, 1, 1)) for label, target in [maps(2)]]
    batch, single = ConfusionLedger(K), ConfusionLedger(K)
    for labels, targets in pairs:
        targets[1, 5:] = 255
        batch.update(labels, targets, ("a", "b"))
        single.update(labels[:1], targets[:1], ["a"])
        single.update(labels[1:], targets[1:], ["b"])
    assert_same(batch.compute(), single.compute())


def test_an_image_without_a_labelled_pixel_is_kept():
    ledger = ConfusionLedger(K)
    ledger.update(torch.zeros(1, 4, 4).byte(), torch.full((1, 4, 4), 255), ["void"])
    found = ledger.compute()
    assert found.names == ("void",)
    assert found.matrix(0, K).sum() == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric ConfusionLedger was called before")
def test_reset_forgets_everything():
    ledger = count(range(3))[1]
    ledger.reset()
    found = ledger.compute()
    assert found.names == ()
    assert found.offsets.tolist() == [0]
    assert found.total(K).sum() == 0
    ledger.update(*maps(1), [name(1)])
    assert_same(ledger.compute(), count([1])[1].compute())


def test_leaves_no_trace_in_checkpoints():
    assert not count([0])[1].state_dict()


def test_refuses_names_that_do_not_fit():
    label, target = maps(0)
    with pytest.raises(ValueError, match="2 names for 1 label maps"):
        ConfusionLedger(K).update(label, target, ["a", "b"])
    with pytest.raises(ValueError, match="line break"):
        ConfusionLedger(K).update(label, target, ["a\nb"])


def test_file_gives_back_what_was_written(tmp_path):
    ledger, path = count(range(5))[1].compute(), tmp_path / "ledger.npz"
    path.write_bytes(b"an older file")
    save_ledger(path, ledger, "val", CLASSES)
    found = load_ledger(path)
    assert_same(found.ledger, ledger)
    assert found.split == "val"
    assert found.class_names == tuple(CLASSES)
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.npz"]


def test_an_empty_ledger_can_be_written(tmp_path):
    empty = Ledger((), np.zeros(1, np.int64), np.zeros((0, 3), np.int64))
    save_ledger(tmp_path / "ledger.npz", empty, "test", CLASSES)
    assert_same(load_ledger(tmp_path / "ledger.npz").ledger, empty)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    ledger, path = count(range(2))[1].compute(), tmp_path / "ledger.npz"
    save_ledger(path, ledger, "val", CLASSES)

    def disk_full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", disk_full)
    with pytest.raises(OSError, match="no space left"):
        save_ledger(path, ledger, "test", CLASSES)
    assert load_ledger(path).split == "val"
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.npz"]


def test_a_file_that_is_no_ledger_is_refused_in_one_line(tmp_path):
    path = tmp_path / "ledger.npz"
    with pytest.raises(FileNotFoundError, match=r"no ledger at .*ledger\.npz"):
        load_ledger(path)

    ledger = count(range(2))[1].compute()
    save_ledger(path, ledger, "val", CLASSES)
    arrays = dict(np.load(path))
    whole = path.read_bytes()

    def refuse(message):
        with pytest.raises(ValueError, match=message) as caught:
            load_ledger(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    noise = whole[:200] + bytes(50) + whole[250:]
    for damaged in (b"", b"text", whole[: len(whole) // 2], noise, b"\x80\x04N."):  # the last is a pickle
        path.write_bytes(damaged)
        refuse("damaged")
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    refuse("damaged")
    np.savez(path, **{**arrays, "names": np.array(list(ledger.names), object)})  # would need pickle
    refuse("damaged")
    np.savez(path, names=arrays["names"], rows=arrays["rows"])
    refuse("lacks class_names, offsets, split")
    np.savez(path, **{**arrays, "names": arrays["names"][:1]})
    refuse("do not fit together")
    np.savez(path, **{**arrays, "class_names": arrays["class_names"][:2]})
    refuse("only 2 classes have names")


def test_counts_of_nameless_classes_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="only 2 classes have names"):
        save_ledger(tmp_path / "ledger.npz", count([0])[1].compute(), "val", CLASSES[:2])
    assert not list(tmp_path.iterdir())


SPLITS = [([3, 0], [1, 4, 2]), ([0, 1, 2, 3, 4], []), ([], [4, 3, 2, 1, 0])]  # images of either process


def share(rank, folder):
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    found = []
    for split in SPLITS:
        scores, ledger = count(split[rank])
        counted, everything = scores.compute(), ledger.compute()
        arrays = torch.from_numpy(everything.offsets), torch.from_numpy(everything.rows)
        own = int(scores.confusion.sum())  # back to this process's share after compute
        found.append((counted, (everything.names, *arrays), own))
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_count_as_one(tmp_path):
    multiprocessing.spawn(share, (str(tmp_path),), nprocs=2)  # once for all splits: it is the imports that last
    scores, ledger = count(range(5))
    expected = scores.compute()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for split, (counted, (names, offsets, rows), own) in zip(SPLITS, found, strict=True):
            for key, value in expected.items():
                assert torch.equal(counted[key], value)
            assert_same(Ledger(names, offsets.numpy(), rows.numpy()), ledger.compute())
            assert own == count(split[rank])[0].confusion.sum()
