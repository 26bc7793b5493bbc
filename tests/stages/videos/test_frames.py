"""Evenly spaced frames of videos, against videos whose frames and times are known; damage, limits and
rotation."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from capfilt.stages.status import STATUSES, Failure
from capfilt.stages.videos import frames as module
from capfilt.stages.videos.frames import FrameTimes, choose_frames, read_frames
from capfilt.stages.videos.read import read_videos

SIDE = 64
FORMATS = [
    ("mp4", "libx264"),
    ("matroska", "libx264"),
    ("webm", "libvpx-vp9"),
    ("avi", "mpeg4"),
    ("mpegts", "libx264"),
]


def shade(number):
    """The gray of frame `number`; frames differ by more than any loss of the codecs."""
    return 10 + 11 * number % 230


def make_video(
    starts, container="mp4", codec="libx264", size=(SIDE, SIDE), options=None, side="gray", path=None
):
    """A video with a frame at each of the times, in 1/100 s; the gray of a frame tells its number."""
    data = io.BytesIO() if path is None else str(path)
    with av.open(data, "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=25, options={"g": "7", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 4_000_000
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        for number, start in enumerate(starts):
            pixels = np.full((size[1], size[0], 3), shade(number), np.uint8)
            if side == "left":
                pixels[:, size[0] // 2 :] = 0
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = start, Fraction(1, 100)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return data.getvalue() if path is None else path.read_bytes()


def numbers_of(encoded):
    """The numbers of frames, by their gray."""
    grays = [np.asarray(Image.open(io.BytesIO(frame)).convert("L"), float).mean() for frame in encoded]
    return [min(range(20), key=lambda n: abs(shade(n) - gray)) for gray in grays]


@pytest.mark.parametrize(("container", "codec"), FORMATS)
def test_frames_of_a_constant_rate_are_those_of_the_reference(container, codec):
    """Frame floor(i N / n), in every container and with frames that are stored out of order."""
    video = make_video(range(0, 80, 4), container, codec)
    for count in (1, 3, 8, 16, 20):
        assert numbers_of(read_frames(video, count)) == [i * 20 // count for i in range(count)]


def test_frames_of_a_variable_rate_are_those_shown_at_even_times():
    starts = [0, 4, 8, 100, 104, 300, 304, 308, 312, 396]
    shown = {t: max(n for n, start in enumerate(starts) if start <= t) for t in range(0, 400, 50)}
    for container in ("mp4", "matroska"):
        assert numbers_of(read_frames(make_video(starts, container), 8)) == list(shown.values())


def test_a_video_with_fewer_frames_repeats_them_and_one_that_starts_late_is_complete():
    assert numbers_of(read_frames(make_video([0, 4, 8]), 6)) == [0, 0, 1, 1, 2, 2]
    assert numbers_of(read_frames(make_video(range(500, 540, 4), "matroska"), 5)) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("seed", range(5))
def test_chosen_frames_are_those_of_a_computation_with_fractions(seed):
    random = np.random.default_rng(seed)
    starts = np.cumsum(random.integers(1, 1000, 30)).tolist()
    end = starts[-1] + int(random.integers(1, 1000))
    for count in (1, 7, 16, 64):
        times = [starts[0] + Fraction(i * (end - starts[0]), count) for i in range(count)]
        expected = [max(n for n, start in enumerate(starts) if start <= t) for t in times]
        assert choose_frames(FrameTimes(starts, end), count) == expected


def without_counts(video):
    """An AVI whose headers tell another number of frames."""
    data = bytearray(video)
    main, stream = data.index(b"avih"), data.index(b"strh")
    data[main + 24 : main + 28] = (3).to_bytes(4, "little")
    data[stream + 40 : stream + 44] = (3).to_bytes(4, "little")
    return bytes(data)


def test_wrong_counts_of_a_container_change_nothing():
    video = without_counts(make_video(range(0, 80, 4), "avi", "mpeg4"))
    assert numbers_of(read_frames(video, 5)) == [0, 4, 8, 12, 16]


def reason(video):
    with pytest.raises(Failure) as failure:
        read_frames(video, 4)
    assert failure.value.status in STATUSES
    return failure.value.status, failure.value.message


@pytest.mark.parametrize("container", ["mp4", "faststart", "matroska", "avi"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.8])
def test_truncated_videos_are_no_videos(container, share, tmp_path):
    options = {"movflags": "faststart"} if container == "faststart" else None
    codec = "mpeg4" if container == "avi" else "libx264"
    kind = "mp4" if container == "faststart" else container
    path = tmp_path / "v.mp4" if options else None  # the index is moved to the front of a file
    video = make_video(range(0, 80, 4), kind, codec, options=options, path=path)
    status, message = reason(video[: int(share * len(video))])
    assert status == "decode" and "video" in message


@pytest.mark.parametrize(
    "data", [b"GIF89a", b"\0" * 1000, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"<html>"]
)
def test_other_files_are_no_videos_and_open_nothing(data):
    status, message = reason(data)
    assert status == "decode" and message.startswith("cannot decode the video (") and "passwd" not in message
    assert reason(b"") == ("empty_body", "the file is empty")


def test_a_file_of_sound_has_no_video():
    data = io.BytesIO()
    with av.open(data, "w", format="matroska") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    assert reason(data.getvalue()) == ("decode", "the file has no video")


def test_limits_of_size_duration_and_time(monkeypatch):
    video = make_video(range(0, 80, 4))
    monkeypatch.setattr(module, "MAX_SECONDS", 0.5)
    assert reason(video) == ("too_big", "the video lasts longer than 0.5 s")
    monkeypatch.setattr(module, "MAX_DECODE_SECONDS", 0.0)
    assert reason(video) == ("decode", "decoding takes more than 0 s of processor time")
    monkeypatch.setattr(module, "MAX_PIXELS", SIDE * SIDE - 1)
    assert reason(video) == ("too_many_pixels", "frames of 4,096 pixels, the limit is 4,095")


def test_large_frames_are_stored_smaller(monkeypatch):
    monkeypatch.setattr(module, "MAX_FRAME_SIDE", 48)
    (frame,) = read_frames(make_video([0], size=(96, 64)), 1)
    assert Image.open(io.BytesIO(frame)).size == (48, 32)


@pytest.mark.parametrize(
    ("matrix", "bright"),
    [((0, 1, -1, 0), "top"), ((0, -1, 1, 0), "bottom"), ((-1, 0, 0, -1), "right")],
)
def test_frames_are_upright(matrix, bright):
    """The left half is bright. The matrix of the track turns it: ISO 14496-12, 8.3.2."""
    video = make_video([0, 4], size=(64, 32), side="left")
    fixed = [int.to_bytes(value * 65536, 4, "big", signed=True) for value in matrix]
    unity = bytes(4)
    identity = b"".join([(65536).to_bytes(4, "big"), unity, unity, unity, (65536).to_bytes(4, "big")])
    track = video.index(identity, video.index(b"tkhd"))
    turned = b"".join([fixed[0], fixed[1], unity, fixed[2], fixed[3]])
    (frame, _) = read_frames(video[:track] + turned + video[track + len(turned) :], 2)
    pixels = np.asarray(Image.open(io.BytesIO(frame)).convert("L"), float)
    halves = {
        "top": pixels[: len(pixels) // 2], "bottom": pixels[len(pixels) // 2 :],
        "right": pixels[:, pixels.shape[1] // 2 :],
    }  # fmt: skip
    others = {"top": "bottom", "bottom": "top"}
    assert halves[bright].mean() > 5
    if bright in others:
        assert pixels.shape == (64, 32) and halves[others[bright]].mean() < 5


def test_videos_of_a_folder(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(make_video(range(0, 80, 4)))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    names = ["a.mp4", "b.mp4", "c.mp4", "../a.mp4", "https://example.com/a.mp4"]
    found = read_videos(names, str(tmp_path), 2)
    assert [each.status for each in found] == ["success", "decode", "missing_file", "bad_url", "bad_url"]
    assert numbers_of(found[0].frames) == [0, 10] and found[4].message.endswith("download them first")
    monkeypatch.setattr("capfilt.stages.videos.read.MAX_VIDEO_BYTES", 100)
    assert read_videos(["a.mp4"], str(tmp_path), 2)[0].status == "too_big"
