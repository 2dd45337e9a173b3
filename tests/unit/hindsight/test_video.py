"""Videos: which frames, when, how they stand, and what is left of a broken one. The videos are made here."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from hindsight.decode import ImageLimits
from hindsight.errors import OptionError
from hindsight.video import (
    Frame,
    IncompleteVideo,
    Sampling,
    VideoError,
    expected_frames,
    parse_time,
    read_ahead,
    read_frames,
)
from hindsight.video_writer import VideoWriter
from tests.factories import tiles_image


def make_video(
    path: Path,
    times: Sequence[float],
    *,
    codec: str = "mpeg4",
    hw: tuple[int, int] = (96, 160),
    faststart: bool = False,
    ticks: int = 1000,
) -> Path:
    """A frame for each time, in seconds; frame n is grey, of brightness 10 + 4 n, with a white top-left
    corner.
    """
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = hw[1], hw[0], "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.time_base = Fraction(1, 25 if codec == "mpeg2video" else ticks)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, hw), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def picture(number: int, hw: tuple[int, int] = (96, 160)) -> NDArray[np.uint8]:
    image = np.full((*hw, 3), min(250, 10 + 4 * number), np.uint8)
    image[: hw[0] // 4, : hw[1] // 4] = 255
    return image


def numbers(path: Path, sampling: Sampling | None = None) -> list[int]:
    return [frame.number for frame in read_frames(path, sampling)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 seconds, 25 frames a second."""
    return make_video(tmp_path_factory.mktemp("clips") / "clip.mp4", [number / 25 for number in range(50)])


def test_frames_come_in_order_with_numbers_times_and_their_pixels(clip: Path) -> None:
    frames = list(read_frames(clip))
    assert [frame.number for frame in frames] == list(range(50))
    assert [frame.timestamp for frame in frames] == pytest.approx([number / 25 for number in range(50)])
    for frame in frames:
        assert frame.image.shape == (96, 160, 3) and frame.image.dtype == np.uint8
        assert abs(float(frame.image[60:, 60:].mean()) - (10 + 4 * frame.number)) < 3
        assert frame.image[:20, :36].mean() > 240


@pytest.mark.parametrize("name", ["clip.mkv", "clip.avi", "clip.mov", "clip.ts", "clip.mpg"])
def test_every_container_tells_the_same(tmp_path: Path, name: str) -> None:
    codec = "mpeg2video" if name.endswith(("ts", "mpg")) else "mpeg4"
    frames = list(
        read_frames(make_video(tmp_path / name, [number / 25 for number in range(20)], codec=codec))
    )
    assert [frame.number for frame in frames] == list(range(20))
    assert [frame.timestamp for frame in frames] == pytest.approx(
        [number / 25 for number in range(20)], abs=0.002
    )
    assert abs(float(frames[12].image[60:, 60:].mean()) - 58) < 4


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(stride=10), [0, 10, 20, 30, 40]),
        (Sampling(fps=2), [0, 13, 25, 38]),
        (Sampling(fps=5), [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]),
        (Sampling(fps=1000), list(range(50))),
        (Sampling(start=1.0), list(range(25, 50))),
        (Sampling(end=0.2), [0, 1, 2, 3, 4]),
        (Sampling(start=0.5, end=1.0, stride=4), [13, 17, 21]),
        (Sampling(start=0.5, end=1.5, fps=4), [13, 19, 25, 32]),
        (Sampling(start=5), []),
    ],
)
def test_which_frames_are_taken(clip: Path, sampling: Sampling, expected: list[int]) -> None:
    assert numbers(clip, sampling) == expected
    guess = expected_frames(clip, sampling)
    assert guess is not None and abs(guess - len(expected)) <= 1


def test_a_variable_rate_keeps_each_frames_own_time(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.08, 1.0, 1.5, 1.52, 3.0]
    path = make_video(tmp_path / "clip.mkv", times)
    assert [frame.timestamp for frame in read_frames(path)] == pytest.approx(times, abs=0.001)
    assert numbers(path, Sampling(fps=1)) == [0, 3, 6], "by time, not by count"
    assert numbers(path, Sampling(start=1.0, end=1.52)) == [3, 4]


@pytest.mark.parametrize(
    ("degrees", "corner"), [(0, "top left"), (90, "top right"), (180, "bottom right"), (270, "bottom left")]
)
def test_a_turned_phone_video_stands_upright(tmp_path: Path, degrees: int, corner: str) -> None:
    path = make_video(tmp_path / "clip.mp4", [0.0, 0.04, 0.08])
    turn_clockwise(path, degrees)
    frame = next(read_frames(path))
    assert frame.image.shape == ((160, 96, 3) if degrees in (90, 270) else (96, 160, 3))
    height, width = frame.image.shape[:2]
    rows = slice(0, height // 5) if "top" in corner else slice(-height // 5, None)
    columns = slice(0, width // 5) if "left" in corner else slice(-width // 5, None)
    assert frame.image[rows, columns].mean() > 240, corner


def turn_clockwise(path: Path, degrees: int) -> None:
    """Write how the picture is to be turned for display into an MP4's track header, as phones do."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd")
    matrix = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    at = header + 4 + 4 + 20 + 8 + 8  # type, version and flags, times and ids, reserved, layer to volume
    assert content[at : at + 4] == struct.pack(">i", 1 << 16), "the matrix of a picture that stands upright"
    content[at : at + 36] = matrix
    path.write_bytes(content)


def test_a_file_cut_short_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mkv", [number / 25 for number in range(100)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    frames: list[Frame] = []
    with pytest.raises(
        IncompleteVideo, match=r"clip\.mkv: it ends at \d\.\d s of 4\.0 s: the file is cut short"
    ):
        frames += read_into(frames, path)
    assert 20 <= len(frames) <= 80 and [frame.number for frame in frames] == list(range(len(frames)))
    assert numbers(path, Sampling(end=0.4)) == list(range(10)), "the part asked for is whole"


def read_into(frames: list[Frame], path: Path) -> list[Frame]:
    for frame in read_frames(path):
        frames.append(frame)
    return []


def test_an_mp4_cut_short_behind_its_index_gives_what_is_there(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", [number / 25 for number in range(100)], faststart=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    frames: list[Frame] = []
    with pytest.raises(IncompleteVideo, match=r"it ends at \d\.\d s of 4\.0 s"):
        read_into(frames, path)
    assert 20 <= len(frames) <= 80


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4", "clip.mov"])
def test_frames_that_the_file_counts_and_has_not_are_missed(tmp_path: Path, name: str, share: float) -> None:
    """Even a few: 100 frames are 4 s, and the last 10 % of the file less than one."""
    times = [number / 25 for number in range(100)]
    path = make_video(tmp_path / name, times, faststart=name != "clip.avi", ticks=25)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    frames: list[Frame] = []
    counted = "" if name == "clip.avi" else r" \(\d+ of 100 frames\)"
    with pytest.raises(IncompleteVideo, match=rf"it ends at \d\.\d s of 4\.0 s{counted}: the file is cut"):
        read_into(frames, path)
    assert 100 * share - 30 <= len(frames) < 100


def test_a_video_with_sound_that_is_cut_short_is_told(tmp_path: Path) -> None:
    """Matroska counts no frames, and its own duration may be that of the sound."""
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=8000)
        video.width, video.height, video.pix_fmt, video.bit_rate = 160, 96, "yuv420p", 4_000_000
        sound.layout = "mono"
        for number in range(100):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), format="s16", layout="mono")
            heard.sample_rate, heard.pts = 8000, 320 * number
            container.mux(sound.encode(heard))
        container.mux(video.encode())
        container.mux(sound.encode())
    assert numbers(path) == list(range(100))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(IncompleteVideo, match=r"it ends at \d\.\d s of 4\.0 s: the file is cut short"):
        list(read_frames(path))


def test_a_video_whose_beginning_was_edited_away_is_whole(tmp_path: Path, clip: Path) -> None:
    """Phones trim like this: the frames before are in the file, counted, and not shown."""
    path = tmp_path / "trimmed.mp4"
    with av.open(str(clip)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - 10 * packet.duration, packet.dts - 10 * packet.duration
                packet.stream = stream
                container.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 50
    frames = list(read_frames(path))
    assert len(frames) == 40 and abs(float(frames[0].image[60:, 60:].mean()) - 50) < 4


def test_damage_in_the_middle_costs_only_some_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.avi", [number / 25 for number in range(60)])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(content)
    frames: list[Frame] = []
    with contextlib.suppress(IncompleteVideo):  # as the decoder finds it: it may conceal the damage
        read_into(frames, path)
    assert len(frames) >= 50
    assert abs(float(frames[-1].image[60:, 60:].mean()) - 246) < 6, "behind the damage all is well"


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\0\0\0\x20ftypisom" + b"\0" * 200, b"#EXTM3U\n/etc/hostname\n"]
)
def test_what_is_no_video_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError) as told:
        list(read_frames(path))
    assert str(told.value).startswith(f"{path}: ") and "\n" not in str(told.value)


def test_a_missing_file_sound_alone_and_frames_too_large_are_told(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(VideoError, match=r"nowhere\.mp4: .*No such file"):
        list(read_frames(tmp_path / "nowhere.mp4"))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        stream.layout = "mono"
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="there is no video in this file"):
        list(read_frames(tmp_path / "sound.mp4"))
    with pytest.raises(VideoError, match="160 x 96 pixels; at most 100 in all"):
        list(read_frames(clip, limits=ImageLimits(max_pixels=100)))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("12.5", 12.5),
        (".5", 0.5),
        ("90", 90),
        ("1:02.5", 62.5),
        ("1:5", 65),
        ("01:00:02", 3602),
        ("90:00", 5400),
        ("0:59:59.9", 3599.9),
    ],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-1", "1:2:3:4", "nan", "inf", "1::2", "1:99", "1:60", "1:60:00", "0:99:00", "1.5:30", "1e2",
     "1_0", " 1", "1:-2", "+1", ":30", "30:", "\u0663"],
)  # fmt: skip
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(OptionError, match="a time is written as seconds or as") as told:
        parse_time(text)
    assert repr(text) in str(told.value) and "\n" not in str(told.value)


def test_reading_ahead_gives_the_same_frames_and_no_more_than_asked(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counted(path: Path, sampling: Sampling | None) -> object:
        for frame in read_frames(path, sampling):
            decoded.append(frame.number)
            yield frame

    monkeypatch.setattr("hindsight.video.read_frames", counted)
    with read_ahead(clip, Sampling(), ahead=3) as frames:
        for frame in frames:
            assert len(decoded) <= frame.number + 1 + 3 + 1  # taken, waiting, in the decoder's hand
            if frame.number == 20:
                break
    assert len(decoded) < 30
    assert not any(thread.name.startswith("decode ") for thread in threading.enumerate())
    with read_ahead(clip, Sampling()) as frames:
        assert [frame.number for frame in frames] == list(range(50))


def test_an_error_while_reading_ahead_is_raised_where_the_frames_are_taken(tmp_path: Path) -> None:
    with read_ahead(tmp_path / "nowhere.mp4") as frames, pytest.raises(VideoError):
        next(frames)


@pytest.mark.parametrize("name", ["drawn.mp4", "drawn.mov", "drawn.mkv"])
def test_a_written_video_has_the_frames_and_their_times(tmp_path: Path, name: str) -> None:
    times = [1.0, 1.04, 1.08, 2.0, 2.5]
    with VideoWriter(tmp_path / name) as writer:
        assert writer.codec in ("libx264", "libopenh264", "mpeg4")
        for number, time in enumerate(times):
            writer.write(picture(10 * number), time)
    frames = list(read_frames(tmp_path / name))
    assert [frame.timestamp for frame in frames] == pytest.approx([time - 1 for time in times], abs=0.002)
    assert abs(float(frames[3].image[60:, 60:].mean()) - 130) < 4
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_odd_sides_and_frames_of_another_size_are_written(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "drawn.mp4") as writer:
        for time, hw in ((0.0, (95, 161)), (0.5, (96, 160)), (0.5, (40, 60))):
            writer.write(tiles_image(*hw), time)
    frames = list(read_frames(tmp_path / "drawn.mp4"))
    assert [frame.image.shape for frame in frames] == [(94, 160, 3)] * 3


def test_a_video_that_is_given_up_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "drawn.mp4") as writer:
        writer.write(tiles_image(), 0.0)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with VideoWriter(tmp_path / "none.mp4"):
        pass
    assert list(tmp_path.iterdir()) == [], "no frames, no file"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writer = VideoWriter(tmp_path / "file" / "drawn.mp4")
    with pytest.raises(VideoError, match=r"cannot write the video .*drawn\.mp4 \("):
        writer.write(tiles_image(), 0.0)
