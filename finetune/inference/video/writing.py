"""Write a video frame by frame, with the times and the sound of another."""

import logging
from collections.abc import Iterator
from fractions import Fraction
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from finetune.inference.output import Pixels
from finetune.inference.video.reading import RATE, import_av

logger = logging.getLogger(__name__)

LOSSLESS = "ffv1"  # of masks: an open standard (RFC 9043) that keeps gray levels, here class indices, bit for bit
BITS_PER_PIXEL = 0.1  # at least: the edges of an overlay are sharper than those of its video
EVEN = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p")  # of H.264 and H.265: their colors have half of the size
MUXERS = {".m4v": "mp4"}  # FFmpeg's own one for this suffix takes few codecs
COLORS = ("colorspace", "color_range", "color_primaries", "color_trc")


class VideoWriter:
    """A video whose frames have the times of another one's: gray without loss, or in color with the sound of the other.

    Args:
        path: to write; nothing is there before the first frame.
        source: the other video. Its codec is used for colors if the file may have it and PyAV has an encoder.
    """

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self.source = source
        self._av = import_av(source)
        self._output: Any = None

    def write(self, pixels: Pixels, time: int) -> None:
        """Append a frame.

        Args:
            pixels: gray (H, W) or color (H, W, 3), the same for all frames.
            time: in the time base of the other video.
        """
        if self._output is None:
            self._open((pixels.shape[0], pixels.shape[1]), is_gray=pixels.ndim == 2)
        form, context = "gray" if pixels.ndim == 2 else "rgb24", self._stream.codec_context
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=form)
        if form == "rgb24":
            frame = frame.reformat(
                format=context.pix_fmt, dst_colorspace=context.colorspace, dst_color_range=context.color_range
            )
        frame.pts, frame.time_base = time, self._video.time_base
        self._output.mux(self._stream.encode(frame))
        self._copy_sound(until=float(time * self._video.time_base))

    def close(self) -> None:
        """Write what is left, and close the files."""
        self._output.mux(self._stream.encode(None))
        self._copy_sound(until=inf)
        self._output.close()
        self._input.close()

    def _open(self, size: tuple[int, int], is_gray: bool) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._input = self._av.open(str(self.source))
        self._video = self._input.streams.best("video")
        self._output = self._av.open(str(self.path), "w", format=MUXERS.get(self.path.suffix.lower()))
        self._stream = self._add_stream(size, is_gray)
        sound = () if is_gray else self._input.streams.audio
        self._copies = {each.index: self._output.add_stream_from_template(each) for each in sound}
        self._packets = self._sound()
        self._packet = next(self._packets, None)

    def _add_stream(self, size: tuple[int, int], is_gray: bool) -> Any:
        source, rate = self._video.codec_context, self._video.guessed_rate or Fraction(RATE)
        wanted = LOSSLESS if is_gray else source.codec.canonical_name
        encoder = find_encoder(self._av, self._output, wanted)
        if encoder.canonical_name != wanted:
            logger.info(f"{self.path.name} is written as {encoder.canonical_name}: it cannot be written as {wanted}")
        stream = self._output.add_stream(encoder.name, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "gray" if is_gray else pixel_format(encoder, source.pix_fmt, size)
        stream.codec_context.time_base = self._video.time_base
        if encoder.name == "mpeg4":  # whose time base has 16 bit
            stream.codec_context.time_base = max(self._video.time_base, Fraction(1, 60_000))
        if shape := self._video.sample_aspect_ratio:
            stream.codec_context.sample_aspect_ratio = shape if size[1] == self._video.width else 1 / shape
        if not is_gray:
            known = self._video.bit_rate or self._input.bit_rate or 0
            stream.bit_rate = max(known, round(BITS_PER_PIXEL * size[0] * size[1] * rate))
        for name in COLORS if stream.pix_fmt == source.pix_fmt else ():
            setattr(stream.codec_context, name, getattr(source, name))
        return stream

    def _sound(self) -> Iterator[Any]:
        try:
            for packet in self._input.demux(*self._input.streams.audio) if self._copies else ():
                if packet.dts is not None:  # the last one is empty
                    yield packet
        except self._av.FFmpegError:  # cut off, which the reader of the frames says
            return

    def _copy_sound(self, until: float) -> None:
        """Copy the packets of sound up to a time, in seconds."""
        while self._packet is not None and float(self._packet.dts * self._packet.time_base) <= until:
            self._packet.stream = self._copies[self._packet.stream.index]
            self._output.mux(self._packet)
            self._packet = next(self._packets, None)


def find_encoder(av: ModuleType, output: Any, codec: str) -> Any:
    """Return the encoder of PyAV for a codec, or for the next best that a file may have."""
    for name in (codec, "h264", "mpeg4", output.default_video_codec):
        try:
            if name in output.supported_codecs:
                return av.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            continue
    raise ValueError(f"PyAV has no encoder for '{output.name}'; expected {codec}, h264 or mpeg4.")


def pixel_format(encoder: Any, wanted: str, size: tuple[int, int]) -> str:
    """Return the pixel format that is wanted, or the next best one that an encoder has for a size."""
    names = [each.name for each in encoder.video_formats or ()]
    whole = ("yuv444p",) if wanted in EVEN and (size[0] % 2 or size[1] % 2) else ()
    chosen: str = next(name for name in (*whole, wanted, "yuv420p", *names) if name in names)
    return chosen
