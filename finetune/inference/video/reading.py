"""Read the frames of a video one at a time, upright."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from finetune.data.images.pixels import Pixels, with_channels
from finetune.data.records import DataError
from finetune.inference.pipeline import Image

SLACK = 0.25  # seconds by which a video may end before its declared end, as time stamps are rounded
RATE = 25  # frames per second, if a file does not say it


def import_av(path: Path) -> ModuleType:
    """Return PyAV, or raise DataError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"'{path}' is a video, which needs a package that is not installed: pip install 'finetune-seg[video]'"
        ) from error
    module: ModuleType = av
    return module


class VideoReader:
    """The frames of a video as players show them.

    Attributes:
        count: frames so far.

    Raises:
        DataError: the file cannot be read, or PyAV is not installed.
    """

    def __init__(self, path: Path, channels: int) -> None:
        self._av = import_av(path)
        self.path = path
        self.channels = channels
        try:
            self._container = self._av.open(str(path))
        except self._av.FFmpegError as error:
            raise DataError(f"video '{path}' cannot be read: {error.strerror}.") from error
        self._stream = self._container.streams.best("video")
        if self._stream is None:
            raise DataError(f"video '{path}' has sound only.")
        self.count = self._start = self._time = self._end = 0  # times in the time base of the video
        self._is_damaged = False

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def seconds(self) -> float:
        """Time from the start of the first frame to the end of the last one so far."""
        return float((self._end - self._start) * self._stream.time_base)

    def frames(self) -> Iterator[Image]:
        """Yield the frames in their order, each with its time."""
        for frame in self._decoded():
            turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            pixels = with_channels(Pixels(turned), self.channels, f"video '{self.path}'")
            self._advance(frame)
            yield Image(self.path, torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C")), self._time)

    def problem(self) -> str | None:
        """Return what is wrong with the video, once all frames have been read; None if nothing is."""
        if not self.count:
            return f"video '{self.path}' has no frame that can be decoded."
        missing = _declared_end(self._stream) - float(self._end * self._stream.time_base)
        if missing > SLACK:
            return f"video '{self.path}' is cut off or broken: its last {missing:.1f} s cannot be decoded."
        return f"video '{self.path}' is broken: some of its packets cannot be decoded." if self._is_damaged else None

    def _decoded(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                if (packet := next(packets, None)) is None:
                    return
                yield from packet.decode()
            except self._av.FFmpegError:  # later packets may be intact
                self._is_damaged = True

    def _advance(self, frame: Any) -> None:
        """Move on to the time of a frame, which must be later than that of the one before."""
        time = self._end if frame.pts is None else frame.pts
        self._time = max(time, self._time + 1) if self.count else time
        self._start = self._start if self.count else time
        length = frame.duration or round(1 / ((self._stream.guessed_rate or RATE) * self._stream.time_base))
        self._end = self._time + length
        self.count += 1


def _declared_end(stream: Any) -> float:
    """Return the time at which a file says that its video ends, in seconds; 0 if it does not."""
    if "DURATION" in stream.metadata:  # of Matroska and WebM
        hours, minutes, seconds = map(float, stream.metadata["DURATION"].split(":"))
        return hours * 3600 + minutes * 60 + seconds
    length = max(stream.duration or 0, stream.frames)  # of an AVI that is cut off, only the frames are right
    return float(((stream.start_time or 0) + length) * stream.time_base)
