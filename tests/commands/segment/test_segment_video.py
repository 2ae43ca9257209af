"""`segbench segment` on videos."""

import csv

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from reference.tiny_tasks import write_checkpoint

import segbench
from segbench.__main__ import main
from segbench.commands.segment import video

FRAMES, RATE = 7, 12.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "linear.ckpt", "linear")


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), RATE, (64, 48))
    for index in range(FRAMES):
        image = np.full((48, 64, 3), (20, 80, 30 * index), np.uint8)
        cv2.circle(image, (8 * index, 24), 10, (250, 250, 250), -1)
        writer.write(image)
    writer.release()
    return path


def run(checkpoint, *args):
    main(["segment", "--checkpoint", str(checkpoint), *map(str, args)])


def frames(path):
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    rate, found = capture.get(cv2.CAP_PROP_FPS), []
    while (read := capture.read())[0]:
        found.append(read[1][..., ::-1])
    return rate, found


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_overlay_areas_and_labels_of_frames(tmp_path, checkpoint, clip, capsys):
    run(checkpoint, clip, "--out", tmp_path / "out", "--frames", "--batch_size", "3")
    assert "1 of 1 files" in capsys.readouterr().out
    task = segbench.load(checkpoint)
    rate, overlays = frames(tmp_path / "out" / "clip_overlay.mp4")
    assert rate == pytest.approx(RATE)
    _, images = frames(clip)
    assert len(overlays) == len(images) == FRAMES
    with (tmp_path / "out" / "clip_areas.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == FRAMES * 3
    for index, (image, overlay) in enumerate(zip(images, overlays, strict=True)):
        expected = task.segment(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])[0].numpy()
        written = read(tmp_path / "out" / "clip_frames" / f"{index:06d}.png")
        assert (written != expected).mean() < 0.001
        wanted = image / 2 + np.array(task.palette)[expected] / 2
        assert np.abs(overlay - wanted).mean() < 12  # the codec loses some
        counted = [int(row["pixels"]) for row in rows if int(row["frame"]) == index]
        assert counted == np.bincount(written.ravel(), minlength=3).tolist()
    assert float(rows[-1]["second"]) == pytest.approx((FRAMES - 1) / RATE, abs=1e-3)
    assert (tmp_path / "out" / "areas.csv").read_text().count("\n") == 1  # photographs alone


def test_a_finished_video_is_skipped_and_a_lost_frame_restarts_it(tmp_path, checkpoint, clip, capsys):
    command = [checkpoint, clip, "--out", tmp_path / "out", "--frames"]
    run(*command)
    before = (tmp_path / "out" / "clip_overlay.mp4").stat().st_mtime_ns
    run(*command)
    assert "1 of them from before" in capsys.readouterr().out
    assert (tmp_path / "out" / "clip_overlay.mp4").stat().st_mtime_ns == before
    (tmp_path / "out" / "clip_frames" / "000003.png").unlink()
    run(*command)
    assert len(list((tmp_path / "out" / "clip_frames").iterdir())) == FRAMES
    assert (tmp_path / "out" / "clip_overlay.mp4").stat().st_mtime_ns != before


def test_files_that_are_not_videos_are_named_and_the_rest_is_labelled(tmp_path, checkpoint, clip, capsys):
    data = clip.read_bytes()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mov").write_bytes(b"")
    (tmp_path / "head.avi").write_bytes(data[:5700])  # up to the first frame
    (tmp_path / "half.avi").write_bytes(data[:7500])  # three frames
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((48, 64, 3), np.uint8))
    given = sorted(tmp_path.glob("*.*"))
    with pytest.raises(SystemExit) as stop:
        run(checkpoint, *given, "--out", tmp_path / "out")
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert "3 of 6 files" in out
    for name in ("text.mp4", "empty.mov", "head.avi"):
        assert sum(name in line for line in err.splitlines() if "skipped" in line) == 1
    assert "half.avi ended after" in err
    assert {path.name for path in (tmp_path / "out").glob("*.mp4")} == {"clip_overlay.mp4", "half_overlay.mp4"}
    assert not list((tmp_path / "out").glob(".*"))


def test_a_codec_that_is_not_there_is_one_line(tmp_path, checkpoint, clip, monkeypatch, capsys):
    monkeypatch.setattr(video, "CODEC", "none")
    with pytest.raises(SystemExit) as stop:
        run(checkpoint, clip, "--out", tmp_path / "out")
    assert stop.value.code == 1
    assert "cannot write an overlay video of 64 × 48 pixels here" in capsys.readouterr().err
