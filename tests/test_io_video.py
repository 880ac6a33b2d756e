"""Reading and writing videos."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from videos import cut_off, stereo_frames, write_frames

from stereopsis.io import EarlyEndError, VideoReader, VideoWriter, is_video, open_pair

PAIRS = stereo_frames(6)
LEFT = [left for left, _ in PAIRS]
RIGHT = [right for _, right in PAIRS]


def _picture(tensor: torch.Tensor) -> np.ndarray:
    return (tensor * 255).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("a.mp4", "mp4v")])
def test_frames_come_back(tmp_path, name, codec):
    video = VideoReader(write_frames(tmp_path / name, LEFT, codec))
    assert (video.width, video.height, video.fps, video.frames) == (64, 48, 12, 6)
    for _ in range(2):  # from the beginning each time
        frames = list(video)
        assert len(frames) == 6
        for frame, expected in zip(frames, LEFT, strict=True):
            assert frame.shape == (3, 48, 64)
            assert frame.dtype == torch.float32
            assert 0 <= frame.min() <= frame.max() <= 1
            assert np.abs(_picture(frame) - expected).mean() < 12


def test_channels_are_red_green_blue(tmp_path):
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    (frame,) = VideoReader(write_frames(tmp_path / "red.avi", [red]))
    assert frame.mean((1, 2)).mul(255).tolist() == pytest.approx([200, 0, 0], abs=4)


def test_reading_stops_with_the_reader(tmp_path):
    frames = iter(VideoReader(write_frames(tmp_path / "a.avi", LEFT)))
    next(frames)
    frames.close()
    (tmp_path / "a.avi").unlink()


def test_two_videos(tmp_path):
    pair = open_pair(write_frames(tmp_path / "l.avi", LEFT), write_frames(tmp_path / "r.avi", RIGHT))
    assert (pair.width, pair.height, pair.fps, pair.frames) == (64, 48, 12, 6)
    for (left, right), expected in zip(pair, PAIRS, strict=True):
        assert np.abs(_picture(left) - expected[0]).mean() < 12
        assert np.abs(_picture(right) - expected[1]).mean() < 12


def test_side_by_side(tmp_path):
    pair = open_pair(write_frames(tmp_path / "both.avi", [np.hstack(pair) for pair in PAIRS]))
    assert (pair.width, pair.height, pair.frames) == (64, 48, 6)
    for (left, right), expected in zip(pair, PAIRS, strict=True):
        assert left.shape == right.shape == (3, 48, 64)
        assert np.abs(_picture(left) - expected[0]).mean() < 12
        assert np.abs(_picture(right) - expected[1]).mean() < 12


# 0.97: within the last picture, which still seems to be there
@pytest.mark.parametrize("share", [0.75, 0.97])
def test_a_file_that_is_cut_off_gives_whole_frames(tmp_path, share):
    whole = list(VideoReader(write_frames(tmp_path / "whole.avi", LEFT)))
    video = VideoReader(cut_off(write_frames(tmp_path / "cut.avi", LEFT), share))
    found = []
    with pytest.raises(EarlyEndError, match=r"cut.avi ends early, after \d of 6 whole frames; record or copy it again"):
        found.extend(video)
    assert 0 < len(found) < 6
    assert all(frame.equal(expected) for frame, expected in zip(found, whole, strict=False))


def test_an_mp4_that_is_cut_off_is_no_video(tmp_path):
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be read as a video"):
        VideoReader(cut_off(write_frames(tmp_path / "a.mp4", LEFT, "mp4v"), 0.5))


def test_one_video_longer_than_the_other(tmp_path):
    pair = open_pair(write_frames(tmp_path / "l.avi", LEFT), write_frames(tmp_path / "r.avi", RIGHT[:4]))
    assert pair.frames == 4
    found = []
    with pytest.raises(EarlyEndError, match=r"r\.avi ends after 4 frames and .*l\.avi goes on; cut both"):
        found.extend(pair)
    assert len(found) == 4


def test_what_is_no_video(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.avi does not exist"):
        VideoReader(tmp_path / "absent.avi")
    with pytest.raises(ValueError, match="is a folder"):
        VideoReader(tmp_path)
    (tmp_path / "nothing.avi").touch()
    with pytest.raises(ValueError, match=r"nothing\.avi is empty"):
        VideoReader(tmp_path / "nothing.avi")
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.avi cannot be read as a video"):
        VideoReader(tmp_path / "text.avi")
    # headers alone
    (tmp_path / "head.avi").write_bytes(write_frames(tmp_path / "whole.avi", LEFT).read_bytes()[:5700])
    with pytest.raises(ValueError, match=r"head\.avi holds no frame"):
        VideoReader(tmp_path / "head.avi")


def test_the_libraries_write_nothing_on_stderr(tmp_path):
    cut_off(write_frames(tmp_path / "a.avi", LEFT), 0.97)
    cut_off(write_frames(tmp_path / "a.mp4", LEFT, "mp4v"), 0.5)
    code = """
from contextlib import suppress
from stereopsis.io import VideoReader
for name in ("a.avi", "a.mp4"):
    with suppress(ValueError):
        list(VideoReader(name))
"""
    # in a process of its own, because the level is read when the first video is opened
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_views_that_do_not_fit(tmp_path):
    small = write_frames(tmp_path / "small.avi", [frame[:, :-2] for frame in RIGHT])
    with pytest.raises(ValueError, match=r"l\.avi is 64x48 and .*small\.avi is 62x48; the two views"):
        open_pair(write_frames(tmp_path / "l.avi", LEFT), small)
    # neither codec of ours has odd sides, GIF does
    pictures = [Image.fromarray(frame[:, :-1]) for frame in LEFT]
    pictures[0].save(tmp_path / "odd.avi", format="GIF", save_all=True, append_images=pictures[1:])
    with pytest.raises(ValueError, match=r"odd\.avi is 63 px wide; a side-by-side video must have an even width"):
        open_pair(tmp_path / "odd.avi")


def test_which_names_are_videos(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    assert is_video("a.mp4")
    assert is_video(tmp_path / "b.AVI")
    assert not is_video("a.png")
    assert not is_video(tmp_path / "folder.mp4")


@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_writing(tmp_path, name):
    with VideoWriter(tmp_path / name, 20) as writer:
        for frame in LEFT:
            writer.write(frame)
        assert not (tmp_path / name).exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    video = VideoReader(tmp_path / name)
    assert (video.width, video.height, video.fps, video.frames) == (64, 48, 20, 6)
    assert np.abs(_picture(next(iter(video))) - LEFT[0]).mean() < 12


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_what_was_written_before_an_error_is_kept(tmp_path, name, error):
    def two_frames_and_an_error() -> None:
        with VideoWriter(tmp_path / name, 20) as writer:
            writer.write(LEFT[0])
            writer.write(LEFT[1])
            raise error

    with pytest.raises(error):
        two_frames_and_an_error()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(list(VideoReader(tmp_path / name))) == 2


def test_without_a_frame_the_old_video_stays(tmp_path):
    (tmp_path / "a.avi").write_text("old")
    with VideoWriter(tmp_path / "a.avi", 20):
        pass
    assert (tmp_path / "a.avi").read_text() == "old"


def test_an_odd_side_loses_its_last_pixel(tmp_path):
    for name in ("a.avi", "a.mp4"):
        with VideoWriter(tmp_path / name, 20) as writer:
            writer.write(LEFT[0][:-1, :-1])
        video = VideoReader(tmp_path / name)
        assert (video.width, video.height) == (62, 46)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"has the suffix '.mkv'; a video must end in .mp4, .avi"):
        VideoWriter(tmp_path / "a.mkv", 20)
    with pytest.raises(ValueError, match="fps is 0; it must be above 0"):
        VideoWriter(tmp_path / "a.avi", 0)
    (tmp_path / "b.avi").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        VideoWriter(tmp_path / "b.avi", 20)
    with VideoWriter(tmp_path / "absent" / "a.avi", 20) as writer, pytest.raises(FileNotFoundError, match="absent"):
        writer.write(LEFT[0])
    with VideoWriter(tmp_path / "a.avi", 20) as writer:
        with pytest.raises(ValueError, match="must be \\(H, W, 3\\) of uint8"):
            writer.write(LEFT[0] / 255)
        writer.write(LEFT[0])
        with pytest.raises(ValueError, match=r"The frame is 62x48 and .*a\.avi is 64x48; a video has one size"):
            writer.write(LEFT[0][:, :-2])


def test_opencv_is_loaded_when_it_is_needed():
    code = "import sys, stereopsis.io.video; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
