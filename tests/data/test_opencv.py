import numpy as np
import pytest
import torch

from finetune.data.opencv import apply, channel_means, contiguous, interleaved, write_channels


def image(channels: int) -> torch.Tensor:
    return torch.randint(256, (channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def memories(planes: torch.Tensor) -> list[torch.Tensor]:
    """Return the same image in rows of channels, in rows of pixels, and as a part of a larger one."""
    large = torch.zeros(len(planes), 9, 9, dtype=torch.uint8)
    large[:, 2:7, 1:8] = planes
    return [planes, planes.permute(1, 2, 0).contiguous().permute(2, 0, 1), large[:, 2:7, 1:8]]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_are_the_same_from_any_memory(channels):
    planes = image(channels)
    for given in memories(planes):
        assert np.array_equal(interleaved(given), planes.permute(1, 2, 0).numpy())
        assert torch.equal(contiguous(given), planes)
        assert contiguous(given).is_contiguous()


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 9])
def test_a_function_sees_every_channel_and_no_more_at_once_than_it_takes(channels):
    seen = []

    def inverted(pixels):
        seen.append(pixels.shape[2])
        return 255 - pixels

    for given in memories(image(channels)):
        assert torch.equal(apply(inverted, given), 255 - image(channels))
        assert torch.equal(apply(lambda pixels: pixels[..., 0], given, channels=1), image(channels))
        assert channel_means(given) == pytest.approx(image(channels).double().mean((1, 2)).tolist())
    assert max(seen) <= 4
    assert sum(seen) == 3 * channels


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_pixels_are_written_into_a_part_of_an_image(channels):
    large, planes = torch.zeros(channels, 12, 7, dtype=torch.uint8), image(channels)
    write_channels(np.ascontiguousarray(planes.permute(1, 2, 0).numpy()), large[:, 3:8])
    assert torch.equal(large[:, 3:8], planes)
    assert not large[:, :3].any()
    assert not large[:, 8:].any()
