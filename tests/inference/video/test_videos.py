"""Videos of predictions against single frames, and against the video they were made of."""

import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.records import DataError
from finetune.inference import ClassMasks, Predictor
from finetune.inference.pipeline import AHEAD, ahead
from finetune.inference.saving import find_names, save_predictions
from finetune.inference.video import VideoOptions, prediction
from finetune.inference.video.reading import VideoReader
from finetune.inference.video.writing import find_encoder, pixel_format
from finetune.models import Segmenter
from tests.samples import save

av = pytest.importorskip("av", reason="needs the extra video")

Draw = Callable[..., Path]
SMALL = {"pyramid_channels": 32, "segmentation_channels": 64}
PHONE = [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]  # display matrix: to be turned by 90 degrees clockwise


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(1)
    model = Segmenter("test_resnet.r160_in1k", "fpn", ["sky", "sea", "land"], weights="none", head_options=SMALL)
    return Predictor(model, device="cpu", batch_size=4)


def write(
    predictor: Predictor, source: Path, output: Path, *formats: str, video: VideoOptions | None = None
) -> list[Path]:
    """Do what the command does."""
    return save_predictions(predictor, find_names(predictor, source, formats), output, formats, video=video)


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def decode(path: Path, form: str = "rgb24") -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format=form) for frame in file.decode(video=0)]


def times(path: Path) -> list[float]:
    with av.open(str(path)) as file:
        return [frame.time for frame in file.decode(video=0)]


def properties(path: Path) -> tuple[Any, ...]:
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        return video.codec_context.codec.canonical_name, video.pix_fmt, video.average_rate, video.time_base


def sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        streams = file.streams.audio
        return [bytes(packet) for packet in (file.demux(*streams) if streams else ()) if packet.dts is not None]


@pytest.mark.parametrize(
    ("name", "codec", "audio"),
    [
        ("clip.mp4", "h264", "aac"),
        ("clip.MOV", "mpeg4", None),
        ("clip.m4v", "hevc", None),
        ("clip.mkv", "h264", "ac3"),
        ("clip.avi", "mpeg4", "mp2"),
        ("clip.webm", "vp9", "libopus"),
    ],
)
def test_videos_keep_codec_rate_times_and_sound_and_masks_are_those_of_the_frames(
    predictor: Predictor, draw_clip: Draw, tmp_path: Path, name: str, codec: str, audio: str | None
) -> None:
    clip = draw_clip(name, codec, audio)
    written = write(predictor, clip, tmp_path / "out", "overlays")
    assert below(tmp_path / "out") == ["masks/clip.mkv", f"overlays/{name}"]
    frames = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) for frame in decode(clip)])
    expected = predictor.predict_images(frames).numpy()
    assert len(np.unique(expected)) > 1
    assert np.array_equal(np.stack(decode(written[0], "gray")), expected)
    assert properties(written[0])[:2] == ("ffv1", "gray")
    overlay = tmp_path / "out" / "overlays" / name
    assert properties(overlay) == properties(clip)
    assert times(overlay) == times(clip)
    assert times(written[0]) == pytest.approx(times(clip), abs=0.001)  # Matroska counts milliseconds
    assert sound(overlay) == (sound(clip) if audio else [])
    assert bool(sound(overlay)) == bool(audio)
    drawn = [predictor.output.overlay(*pair) for pair in zip(decode(clip), expected, strict=True)]
    assert np.abs(np.stack(decode(overlay)).astype(int) - np.stack(drawn)).mean() < 8


def test_colors_of_a_tagged_video_stay(predictor: Predictor, draw_clip: Draw, tmp_path: Path) -> None:
    clip = draw_clip("clip.mkv", "ffv1", pixel_format="yuv444p")
    with av.open(str(clip)) as plain, av.open(str(tmp_path / "tagged.mkv"), "w") as tagged:
        video = tagged.add_stream("ffv1", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv444p"
        video.codec_context.colorspace, video.codec_context.color_range = 1, 2  # BT.709, full
        for frame in plain.decode(video=0):
            tagged.mux(video.encode(frame))
        tagged.mux(video.encode(None))
    write(predictor, tmp_path / "tagged.mkv", tmp_path / "out", "overlays", "contours")
    frames, shown = decode(tmp_path / "tagged.mkv"), decode(tmp_path / "out" / "contours" / "tagged.mkv")
    masks = decode(tmp_path / "out" / "masks" / "tagged.mkv", "gray")
    drawn = predictor.output.overlay(frames[0], masks[0])
    overlay = decode(tmp_path / "out" / "overlays" / "tagged.mkv")[0]
    assert np.abs(overlay.astype(int) - drawn).max() <= 3
    with av.open(str(tmp_path / "out" / "overlays" / "tagged.mkv")) as file:
        assert (file.streams.video[0].colorspace, file.streams.video[0].color_range) == (1, 2)
    assert len(shown) == len(frames)


def test_a_video_of_a_turned_phone_is_predicted_upright(predictor: Predictor, draw_clip: Draw, tmp_path: Path) -> None:
    clip = draw_clip("clip.mp4", matrix=PHONE, count=2, pixel_shape=Fraction(4, 3))
    with VideoReader(clip, 3) as reader:
        first = next(reader.frames()).pixels
    assert first.shape == (3, 64, 48)
    red, green, _ = first.int()
    assert red[:, 40].float().mean() > 180  # what was the top is on the right
    assert (green[5:28, 10] > 150).all()  # what was the bottom left is the top left
    (mask,) = write(predictor, clip, tmp_path / "out", "overlays")
    assert np.array_equal(decode(mask, "gray")[0], predictor.predict_image(first).numpy())
    overlay = tmp_path / "out" / "overlays" / "clip.mp4"
    assert decode(overlay)[0].shape == (64, 48, 3)
    with av.open(str(overlay)) as file:
        assert next(file.decode(video=0)).rotation == 0
        assert file.streams.video[0].sample_aspect_ratio == Fraction(3, 4)


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_frames_that_come_at_uneven_times_keep_them(
    predictor: Predictor, draw_clip: Draw, tmp_path: Path, codec: str
) -> None:
    clip = draw_clip("clip.mp4", codec, count=5, ticks=[0, 1001, 1500, 7000, 7003])
    write(predictor, clip, tmp_path / "out", "overlays")
    assert times(clip) == pytest.approx([0, 1001 / 30_000, 0.05, 7 / 30, 7003 / 30_000])
    assert times(tmp_path / "out" / "overlays" / "clip.mp4") == pytest.approx(times(clip), abs=1 / 60_000)


def test_odd_sizes_stay_where_the_codec_halves_colors(predictor: Predictor, draw_clip: Draw, tmp_path: Path) -> None:
    clip = draw_clip("clip.mp4", "vp9", size=(47, 65))
    write(predictor, clip, tmp_path / "a", "overlays")
    clip = draw_clip("odd.avi", "mpeg4", size=(47, 65))
    write(predictor, clip, tmp_path / "b", "overlays")
    assert pixel_format(av.Codec("h264", "w"), "yuv420p", (47, 64)) == "yuv444p"
    assert pixel_format(av.Codec("h264", "w"), "yuv420p", (48, 64)) == "yuv420p"
    for path in (tmp_path / "a/overlays/clip.mp4", tmp_path / "b/overlays/odd.avi"):
        assert {frame.shape for frame in decode(path)} == {(47, 65, 3)}


def test_the_next_best_codec_takes_the_place_of_one_without_encoder(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        assert find_encoder(av, file, "theora").canonical_name == "h264"
        assert find_encoder(av, file, "vp9").canonical_name == "vp9"
    with av.open(str(tmp_path / "a.webm"), "w") as file:
        assert find_encoder(av, file, "h264").canonical_name == "vp9"


def test_several_labels_have_a_mask_video_each(predictor: Predictor, draw_clip: Draw, tmp_path: Path) -> None:
    several = Predictor(predictor.model, "cpu", ClassMasks(["sky", "sea", "land"], 0.5))
    clip = draw_clip("day/clip.mp4", count=3)
    paths = write(several, clip.parent.parent, tmp_path / "out")
    assert below(tmp_path / "out") == [f"masks/day/clip_{name}.mkv" for name in ("land", "sea", "sky")]
    frames = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) for frame in decode(clip)])
    found = np.stack([decode(path, "gray") for path in paths], axis=1)
    assert np.array_equal(found, several.predict_images(frames).numpy() * 255)
    assert set(np.unique(found)) == {0, 255}


def test_a_smoothed_video_is_its_smoothed_sequence_of_images_and_a_cut_ends_the_smoothing(
    predictor: Predictor, draw_clip: Draw, tmp_path: Path
) -> None:
    clip = draw_clip("clip.mkv", "ffv1", count=11, cut=9)
    for index, frame in enumerate(decode(clip)):
        save(tmp_path / "frames" / f"{index}.png", frame)
    video = VideoOptions(0.8, 10.0, sequence=True)
    (smoothed,) = write(predictor, clip, tmp_path / "a", video=video)
    sequence = write(predictor, tmp_path / "frames", tmp_path / "b", video=video)
    (alone,) = write(predictor, clip, tmp_path / "c")
    of_images = {int(path.stem): np.asarray(Image.open(path)) for path in sequence}
    frames = decode(smoothed, "gray")
    assert all(np.array_equal(frames[index], of_images[index]) for index in range(11))
    equal = [np.array_equal(*pair) for pair in zip(frames, decode(alone, "gray"), strict=True)]
    assert (equal[0], equal[9]) == (True, True)
    assert not all(equal)


def test_a_sequence_that_is_half_done_is_predicted_again_from_its_first_frame(
    predictor: Predictor, draw_clip: Draw, tmp_path: Path
) -> None:
    for index, frame in enumerate(decode(draw_clip("clip.mkv", count=4))):
        save(tmp_path / "in" / "a" / f"{index}.png", frame)
        save(tmp_path / "in" / "b" / f"{index}.png", frame)
    video = VideoOptions(0.8, sequence=True)
    written = write(predictor, tmp_path / "in", tmp_path / "out", video=video)
    before, times_before = [path.read_bytes() for path in written], [path.stat().st_mtime_ns for path in written]
    written[2].unlink()
    write(predictor, tmp_path / "in", tmp_path / "out", video=video)
    assert [path.read_bytes() for path in written] == before
    kept = [path.stat().st_mtime_ns == time for path, time in zip(written, times_before, strict=True)]
    assert kept == [False] * 4 + [True] * 4


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi"])
def test_of_a_video_that_is_cut_off_the_frames_are_written_under_another_name_and_it_is_named(
    predictor: Predictor, draw_clip: Draw, tmp_path: Path, name: str
) -> None:
    clip = draw_clip(name, "mpeg4", "mp2", count=60)
    intact = clip.read_bytes()
    clip.write_bytes(intact[: len(intact) * 6 // 10])
    left = decode(clip)
    assert 10 < len(left) < 50
    for _ in range(2):  # the same command tries again, and says it again
        with pytest.raises(DataError, match=r"1 of 1 files cannot be read:\nvideo '.*' is cut off or broken: its last"):
            write(predictor, clip, tmp_path / "out", "overlays")
        assert below(tmp_path / "out") == ["masks/clip.incomplete.mkv", f"overlays/clip.incomplete{clip.suffix}"]
    assert len(decode(tmp_path / "out/masks/clip.incomplete.mkv")) == len(left)


def test_packets_that_cannot_be_decoded_are_left_out_and_the_video_is_named(
    predictor: Predictor, draw_clip: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = draw_clip("clip.mkv", "mjpeg", count=5, pixel_format="yuvj420p")
    content = bytearray(clip.read_bytes())
    with av.open(str(clip)) as file:
        packets = [bytes(packet) for packet in file.demux(video=0)]
    start = content.index(packets[2])
    content[start : start + len(packets[2])] = bytes(255 - value for value in packets[2])
    clip.write_bytes(content)
    with pytest.raises(DataError, match="is broken: some of its packets cannot be decoded"):
        write(predictor, clip, tmp_path / "out")
    assert len(decode(tmp_path / "out/masks/clip.incomplete.mkv")) == 4


def test_files_that_are_no_videos_are_named_after_all_others_have_been_predicted(
    predictor: Predictor, draw_clip: Draw, tmp_path: Path
) -> None:
    draw_clip("in/good.mp4", count=2)
    save(tmp_path / "in" / "photo.png", np.zeros((32, 32, 3), dtype=np.uint8))
    (tmp_path / "in" / "bad.mp4").write_text("no video")
    with av.open(str(tmp_path / "in" / "sound.mov"), "w") as file:
        audio = file.add_stream("aac", rate=48_000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 48_000
        file.mux(audio.encode(samples))
        file.mux(audio.encode(None))
    with pytest.raises(DataError) as error:
        write(predictor, tmp_path / "in", tmp_path / "out")
    assert "2 of 4 files cannot be read" in str(error.value)
    assert "bad.mp4' cannot be read: Invalid data found when processing input." in str(error.value)
    assert "sound.mov' has sound only" in str(error.value)
    assert below(tmp_path / "out") == ["masks/good.mkv", "masks/photo.png"]


def test_a_finished_video_is_not_repeated_and_one_without_all_its_files_is(
    predictor: Predictor, draw_clip: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_clip("in/a.mp4", count=2)
    draw_clip("in/b.mp4", count=2)
    write(predictor, tmp_path / "in", tmp_path / "out", "overlays")
    (tmp_path / "out" / "overlays" / "b.mp4").unlink()
    read = list[str]()

    class Noted(VideoReader):
        def __init__(self, path: Path, channels: int) -> None:
            read.append(path.name)
            super().__init__(path, channels)

    monkeypatch.setattr(prediction, "VideoReader", Noted)
    write(predictor, tmp_path / "in", tmp_path / "out", "overlays")
    assert read == ["b.mp4"]
    assert (tmp_path / "out" / "overlays" / "b.mp4").exists()


def test_a_failure_of_the_model_leaves_no_video_and_no_thread_behind(
    predictor: Predictor, draw_clip: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = draw_clip("clip.mp4", count=40)

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Predictor, "predict_with_probabilities", fail)
    with pytest.raises(
        RuntimeError, match=r"clip.mp4' of 64 x 48 pixels cannot be predicted with 3 more at a time: no memory"
    ):
        write(predictor, clip, tmp_path / "out")
    assert below(tmp_path / "out") == []


def test_formats_of_images_and_files_of_one_name_are_refused(
    predictor: Predictor, draw_clip: Draw, tmp_path: Path
) -> None:
    draw_clip("in/a.mp4", count=1)
    with pytest.raises(ValueError, match="write=coco is for images, but there are videos in the input"):
        find_names(predictor, tmp_path / "in", ["overlays", "coco"])
    draw_clip("in/a.mkv", count=1)
    with pytest.raises(DataError, match=r"would both be written as 'masks/a.mkv'"):
        find_names(predictor, tmp_path / "in")


def test_without_the_package_a_video_is_named_with_what_to_install(
    predictor: Predictor, draw_clip: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_clip("in/a.mp4", count=1)
    save(tmp_path / "in" / "photo.png", np.zeros((32, 32, 3), dtype=np.uint8))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"a.mp4' is a video, which needs .* pip install 'finetune-seg\[video\]'"):
        write(predictor, tmp_path / "in", tmp_path / "out")
    assert below(tmp_path / "out") == ["masks/photo.png"]


def test_a_reader_never_runs_further_ahead_than_a_few_frames() -> None:
    made = list[int]()

    def numbers() -> Iterator[int]:
        for number in count(1):
            made.append(number)
            yield number

    taken = ahead(numbers())
    assert list(islice(taken, 5)) == [1, 2, 3, 4, 5]
    taken.close()
    assert len(made) <= 5 + AHEAD
