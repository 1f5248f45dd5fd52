"""Clips of two scenes, drawn with PyAV."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

Draw = Callable[..., Path]
RATE = Fraction(30_000, 1001)


def draw_frame(index: int, size: tuple[int, int], cut: int) -> np.ndarray:
    """Return a frame (H, W, 3) with a red top, a green bottom left and a white bar; darker from a scene cut on."""
    height, width = size
    frame = np.full((height, width, 3), 40, dtype=np.uint8)
    frame[: height // 2], frame[height // 2 :, : width // 2] = (220, 40, 40), (40, 200, 40)
    frame[:, index % width : index % width + 4] = 255
    return frame if index < cut else frame // 4


@pytest.fixture
def draw_clip(tmp_path: Path) -> Draw:
    """Write a clip below tmp_path."""
    av = pytest.importorskip("av", reason="needs the extra video")

    def draw(
        name: str,
        codec: str = "h264",
        sound: str | None = None,
        count: int = 6,
        size: tuple[int, int] = (48, 64),
        cut: int = 1000,
        matrix: list[int] | None = None,
        pixel_format: str = "yuv420p",
        pixel_shape: Fraction | None = None,
        ticks: list[int] | None = None,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"movflags": "faststart", "video_track_timescale": "90000"} if path.suffix == ".mp4" else {}
        with av.open(str(path), "w", format="mp4" if path.suffix == ".m4v" else None, options=options) as file:
            video = file.add_stream(codec, rate=RATE)
            video.height, video.width, video.pix_fmt = *size, pixel_format
            if pixel_shape:
                video.codec_context.sample_aspect_ratio = pixel_shape
            if ticks:
                video.codec_context.time_base = Fraction(1, 30_000)
            if matrix:
                video.set_display_matrix(matrix)
            audio = file.add_stream(sound, rate=48_000) if sound else None
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(draw_frame(index, size, cut), format="rgb24")
                if ticks:
                    frame.pts, frame.time_base = ticks[index], Fraction(1, 30_000)
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
            if audio:
                wave = np.sin(np.arange(int(48_000 * count / RATE)) / 20).astype(np.float32)
                samples = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
                samples.sample_rate = 48_000
                file.mux(audio.encode(samples))
                file.mux(audio.encode(None))
        return path

    return draw
