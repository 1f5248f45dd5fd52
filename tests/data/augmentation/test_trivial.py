from collections.abc import Callable

import pytest
import torch

from finetune.data.augmentation.change import SampleChange
from finetune.data.augmentation.transforms import Augment
from finetune.data.augmentation.trivial import OPERATIONS, TrivialAugment
from finetune.data.synthetic.drawing import draw

IMAGE, MASK = draw((70, 90))
GEOMETRIC = {"rotation", "perspective", "elastic", "grid_distortion"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_each_operation_changes_its_own_part_of_the_usual_crop(name: str, channels: int) -> None:
    image = torch.cat([IMAGE, IMAGE.flip(0)])[:channels]
    usual, trivial = Augment(48), TrivialAugment(48, operations=[name])
    changed, moved = 0, 0
    for seed in range(6):
        (plain, labels), (other, target) = (t(image, MASK, generator(seed)) for t in (usual, trivial))
        changed += not torch.equal(plain, other)
        moved += not torch.equal(labels, target)
        assert (other.shape, other.dtype) == ((channels, 48, 48), torch.uint8)
        assert set(target.unique().tolist()) <= {0, 1, 2, 3, 4, 255}
    alone = {"identity"} | ({"saturation", "hue"} if channels != 3 else set()) | ({"jpeg"} if channels == 6 else set())
    assert (changed > 3) == (name not in alone)
    assert (moved > 3) == (name in GEOMETRIC)


def test_operations_come_equally_often_with_all_strengths_and_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, list[tuple[float, int]]] = {name: [] for name in OPERATIONS}

    def note(name: str) -> Callable[[SampleChange, float, int], SampleChange]:
        return lambda change, strength, seed: calls[name].append((strength, seed & 1)) or change

    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, note(name))
    trivial, draws = TrivialAugment(4, strength=0.8), generator()
    for _ in range(1600):
        trivial(IMAGE, MASK, draws)
    assert all(60 < len(noted) < 140 for noted in calls.values())
    strengths, directions = torch.tensor([call for noted in calls.values() for call in noted], dtype=torch.float64).T
    assert strengths.mean().item() == pytest.approx(0.4, abs=0.02)
    assert 0.79 < strengths.max() <= 0.8
    assert 0.45 < directions.mean() < 0.55


def test_strength_bounds_every_operation() -> None:
    weak, full = (TrivialAugment(48, operations=["brightness"], strength=strength) for strength in (0.01, 1.0))
    differences = []
    for trivial in (weak, full):
        pairs = [(Augment(48)(IMAGE, MASK, generator(s))[0], trivial(IMAGE, MASK, generator(s))[0]) for s in range(8)]
        differences.append(max((one.float() - other.float()).abs().mean().item() for one, other in pairs))
    assert differences[0] < 2 < 20 < differences[1]


def test_a_sample_is_a_function_of_its_generator() -> None:
    trivial, state = TrivialAugment(48), torch.get_rng_state()
    results = [trivial(IMAGE, MASK, generator(seed)) for seed in (3, 3, 4)]
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][0], results[2][0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operations": ["rotate"]}, "operations has 'rotate', which is none. Did you mean rotation?"),
        ({"operations": []}, "operations is empty"),
        ({"strength": 0}, "strength=0"),
        ({"scale": (2, 1)}, "scale="),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrivialAugment(**arguments)
