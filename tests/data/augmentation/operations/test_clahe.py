import numpy as np
import pytest
import torch

from finetune.data.augmentation.operations import clahe
from finetune.data.synthetic.drawing import draw


def slow_clahe(band: np.ndarray, limit: float, tiles: int) -> np.ndarray:
    """Return CLAHE pixel by pixel, in float64 and not rounded."""
    height, width = band.shape
    rows, columns = min(tiles, height), min(tiles, width)
    tables = np.zeros((rows, columns, 256))
    for row in range(rows):
        for column in range(columns):
            ys = [y for y in range(height) if y * rows // height == row]
            xs = [x for x in range(width) if x * columns // width == column]
            histogram = np.array([(band[np.ix_(ys, xs)] == value).sum() for value in range(256)], dtype=float)
            ceiling = limit * len(ys) * len(xs) / 256
            excess = np.maximum(histogram - ceiling, 0).sum()
            tables[row, column] = np.cumsum(np.minimum(histogram, ceiling) + excess / 256) / (len(ys) * len(xs)) * 255
    result = np.zeros(band.shape)
    for y in range(height):
        for x in range(width):
            ty = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            tx = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            for row, down in ((int(ty), 1 - ty % 1), (min(int(ty) + 1, rows - 1), ty % 1)):
                for column, across in ((int(tx), 1 - tx % 1), (min(int(tx) + 1, columns - 1), tx % 1)):
                    result[y, x] += down * across * tables[row, column, band[y, x]]
    return result


@pytest.mark.parametrize(("size", "limit", "tiles"), [((96, 128), 2.0, 2), ((96, 192), 4.0, 3), ((64, 128), 3.0, 1)])
def test_it_is_the_definition_pixel_by_pixel(size: tuple[int, int], limit: float, tiles: int) -> None:
    image = draw(size)[0][:2]
    found = clahe(image, limit, tiles)
    assert found.dtype == torch.uint8
    for band, result in zip(image.numpy(), found.numpy(), strict=True):
        # OpenCV rounds the limit down to whole pixels and deals the rest of what is cut to single values
        assert np.abs(result - slow_clahe(band, limit, tiles)).max() <= 8


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (40, 17)])
def test_small_images_have_fewer_parts(size: tuple[int, int]) -> None:
    image = draw((64, 64))[0][:, : size[0], : size[1]]
    assert torch.equal(clahe(image, 2.0, 8), clahe(image, 2.0, max(1, max(size) // 16)))


def test_a_limit_of_one_hardly_changes_anything() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).repeat(256, 1)
    assert (clahe(ramp.expand(3, -1, -1), 1.0, tiles=1).int() - ramp.int()).abs().max() <= 1


def test_contrast_of_a_dark_corner_is_raised() -> None:
    image = draw(64)[0][:1] // 8
    assert clahe(image, 4.0).float().std() > 2 * image.float().std()
