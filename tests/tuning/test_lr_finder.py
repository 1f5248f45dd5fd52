"""The learning-rate search on a quadratic with a known highest stable rate; it must not change any state."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finetune.tuning.lr_finder import LRFinding, _middle_of_longest_descent, find_lr, restore_state_after

CURVATURE = 4.0


class Quadratic(nn.Module):
    """Loss of curvature 4 in every direction: gradient descent converges at rates below 0.5 and diverges above."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64))

    def forward(self, batch: Any) -> Tensor:
        return CURVATURE * self.weight.square().sum() / 2


def search(model: nn.Module | None = None, batches: Any = (0,), **options: Any) -> LRFinding:
    model = model or Quadratic()
    return find_lr(model, model, torch.optim.SGD(model.parameters(), lr=0.1), batches, **options)


def test_the_losses_are_those_of_gradient_descent_on_a_quadratic() -> None:
    result = search()
    assert result.rates[:2] == pytest.approx((1e-6, 1e-6 * 1e7 ** (1 / 99)))
    expected = [CURVATURE * 12 / 2]
    for rate in result.rates[:-1]:
        expected.append(expected[-1] * (1 - rate * CURVATURE) ** 2)
    assert result.losses == pytest.approx(expected)


def test_the_loss_rises_exactly_where_the_rate_is_above_two_over_the_curvature() -> None:
    result = search(diverge=1e9)
    rises = [after > before for before, after in itertools.pairwise(result.losses)]
    assert rises == [rate > 2 / CURVATURE for rate in result.rates[:-1]]
    assert any(rises)


@pytest.mark.parametrize("smoothing", [0.0, 0.9, 0.98])
def test_every_suggestion_is_stable_and_not_far_too_low(smoothing: float) -> None:
    suggestions = search(smoothing=smoothing).suggestions
    assert set(suggestions) == {"valley", "steepest", "minimum"}
    for rule, rate in suggestions.items():
        assert 2 / CURVATURE / 1000 < rate < 2 / CURVATURE, rule


def test_accumulated_batches_make_a_step_with_their_mean_loss() -> None:
    class Shifted(Quadratic):
        """A quadratic whose minimum is at the value of the batch."""

        def forward(self, batch: float) -> Tensor:
            return CURVATURE * (self.weight - batch).square().sum() / 2

    full, halves = search(Quadratic()), search(Shifted(), batches=(1.0, -1.0), accumulate=2)
    assert halves.rates[:50] == full.rates[:50]
    assert halves.losses[:50] == pytest.approx([loss + CURVATURE * 3 / 2 for loss in full.losses[:50]])


def test_the_running_mean_is_corrected_for_bias() -> None:
    result = search(smoothing=0.8)
    for end in range(1, len(result.losses) + 1):
        weights = np.array([0.8 ** (end - 1 - k) for k in range(end)])
        assert result.smoothed[end - 1] == pytest.approx(np.average(result.losses[:end], weights=weights))


def test_the_search_stops_when_the_loss_diverges() -> None:
    result = search(steps=300, diverge=4.0)
    assert len(result.rates) < 300
    assert result.smoothed[-1] > 4 * min(result.smoothed)
    assert all(value <= 4 * min(result.smoothed[: end + 1]) for end, value in enumerate(result.smoothed[:-1]))


def test_a_negative_loss_does_not_count_as_divergence() -> None:
    class Negative(Quadratic):
        def forward(self, batch: Any) -> Tensor:
            return super().forward(batch) - 25.0

    assert search(Negative()).suggestion == pytest.approx(search().suggestion, rel=1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_search_stops_before_a_loss_that_is_not_finite(bad: float) -> None:
    model = Quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = find_lr(model, lambda batch: model(batch) + (bad if batch == 30 else 0.0), optimizer, range(100))
    assert len(result.rates) == len(result.losses) == len(result.smoothed) == 30
    assert all(math.isfinite(loss) for loss in result.losses)
    assert model.weight.tolist() == [2.0] * 3


def test_few_batches_are_repeated_and_an_iterator_ends_the_search() -> None:
    seen: list[int] = []
    model = Quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_of_batch(batch: int) -> Tensor:
        seen.append(batch)
        return model(batch)

    find_lr(model, loss_of_batch, optimizer, [0, 1, 2], steps=10, high=0.1)
    assert seen == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert len(find_lr(model, loss_of_batch, optimizer, iter(range(7))).rates) == 7


def test_the_ratios_between_groups_are_kept() -> None:
    model = nn.ModuleList([nn.Linear(2, 2) for _ in range(4)])
    model[3].requires_grad_(False)
    scales = [0.1, 1.0, 0.02, 50.0]  # the fastest group does not train, so it does not set the base
    groups = [{"params": part.parameters(), "lr": 3e-3 * scale} for part, scale in zip(model, scales, strict=True)]
    optimizer = torch.optim.AdamW(groups)
    seen: list[list[float]] = []

    def loss_of_batch(batch: Any) -> Tensor:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return sum(part(torch.ones(1, 2)).square().sum() for part in model)

    result = find_lr(model, loss_of_batch, optimizer, [0], steps=20, high=0.1)
    assert result.base == 3e-3
    assert np.array(seen) == pytest.approx(np.outer(result.rates, scales))
    assert [group["lr"] for group in optimizer.param_groups] == [3e-3 * scale for scale in scales]


def test_a_learning_rate_that_is_a_tensor_stays_the_same_tensor() -> None:
    model = Quadratic()
    rate = torch.tensor(0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, foreach=False)
    seen: list[Any] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer.param_groups[0]["lr"]))
    result = find_lr(model, model, optimizer, [0], steps=20)
    assert all(isinstance(value, Tensor) for value in seen)
    assert torch.stack(seen).tolist() == pytest.approx(result.rates)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate == torch.tensor(0.1)
    assert result.base == pytest.approx(0.1)


class Net(nn.Module):
    """A model with all state that a search could change: norms, dropout, frozen parts, replaced buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(4, 2, 1))
        self.scale = nn.Parameter(torch.ones(()))  # in no optimizer, so its gradient is never cleared
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.frozen.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.scale * self.head(self.norm(self.frozen(image)))


def prepared() -> tuple[Net, torch.optim.Optimizer, Callable[[Tensor], Tensor]]:
    """Return a model that has trained for some steps, with gradients of an unfinished accumulation."""
    torch.manual_seed(0)
    model = Net()
    groups = [{"params": part.parameters(), "lr": lr} for part, lr in ((model.frozen, 1.0), (model.norm, 1e-3))]
    optimizer = torch.optim.AdamW([*groups, {"params": model.head.parameters()}], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    return model, optimizer, lambda image: model(image + random.random() + np.random.rand()).square().mean()


def full_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return everything that must not change: numbers as bytes, objects that others may hold by identity."""

    def raw(tensor: Tensor) -> bytes:
        return tensor.detach().numpy().tobytes()

    return {
        "weights": {name: (id(p), raw(p), p.requires_grad) for name, p in model.named_parameters()},
        "gradients": {
            name: p.grad if p.grad is None else (id(p.grad), raw(p.grad)) for name, p in model.named_parameters()
        },
        "buffers": {name: (id(buffer), raw(buffer)) for name, buffer in model.named_buffers()},
        "modes": [module.training for module in model.modules()],
        "state": {
            id(parameter): {key: (id(value), raw(value)) for key, value in state.items()}
            for parameter, state in optimizer.state.items()
        },
        "groups": [{**group, "params": [id(p) for p in group["params"]]} for group in optimizer.param_groups],
        "random": (random.getstate(), torch.get_rng_state().tolist()),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
    }


def images() -> Iterator[Tensor]:
    while True:
        yield torch.randn(2, 3, 8, 8)


def test_a_search_restores_all_state() -> None:
    model, optimizer, loss_of_batch = prepared()
    before = full_state(model, optimizer)
    assert sum(len(state) for state in before["state"].values()) == 12
    result = find_lr(model, loss_of_batch, optimizer, images(), steps=30)
    assert len(set(result.losses)) > 10
    assert full_state(model, optimizer) == before


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=repr)
def test_an_interrupted_search_restores_all_state(error: BaseException) -> None:
    model, optimizer, loss_of_batch = prepared()
    before = full_state(model, optimizer)

    def failing(batch: Tensor) -> Tensor:
        if model.calls == 10:
            model.eval().requires_grad_(True)
            raise error
        return loss_of_batch(batch)

    with pytest.raises(type(error)) as raised:
        find_lr(model, failing, optimizer, images())
    assert raised.value is error
    assert full_state(model, optimizer) == before


def test_training_continues_as_if_there_had_been_no_search() -> None:
    ends = []
    for searched in (False, True):
        model, optimizer, loss_of_batch = prepared()
        random.seed(1)
        np.random.seed(1)
        if searched:
            find_lr(model, loss_of_batch, optimizer, images(), steps=30)
        for _ in range(4):
            loss_of_batch(torch.randn(2, 3, 8, 8)).backward()
            optimizer.step()
        ends.append({name: value.clone() for name, value in model.state_dict().items()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_steps_inside_the_context_are_undone_including_new_optimizer_state() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.param_groups[0]["history"] = []
    before = full_state(model, optimizer)
    with restore_state_after(model, optimizer):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        optimizer.param_groups[0]["history"].append(1)
        assert len(optimizer.state) == 2
        assert full_state(model, optimizer) != before
    assert full_state(model, optimizer) == before
    assert len(optimizer.state) == 0
    assert optimizer.param_groups[0]["history"] == []


def curve_of(smoothed: list[float], noise: float = 0.0) -> LRFinding:
    rng = random.Random(0)
    rates = tuple(10 ** (-6 + 0.05 * k) for k in range(len(smoothed)))
    return LRFinding(rates, tuple(value + rng.gauss(0, noise) for value in smoothed), tuple(smoothed), 1e-3)


def test_the_three_rules_find_their_points_on_a_curve_made_by_hand() -> None:
    flat, bend, fall, rise = [2.0] * 40, [1.99, 1.96], [1.9 - 0.02 * k for k in range(38)], [1.5, 2.0, 3.0, 5.0]
    result = curve_of(flat + bend + fall + rise)
    assert (
        result.suggestions["valley"] == result.suggestion == pytest.approx(result.rates[60], rel=0.13)
    )  # one point of the curve
    assert result.suggestions["minimum"] == result.rates[79] / 10
    steps = [2.0] * 40 + [1.9] * 20 + [1.0] * 20  # falls far from point 59 to 60
    assert curve_of(steps).suggestions["steepest"] in (result.rates[59], result.rates[60])


def test_the_valley_is_the_middle_of_a_longest_descent_among_all_subsequences() -> None:
    rng = random.Random(0)
    for _ in range(60):
        curve = [rng.randrange(8) for _ in range(9)]
        descents = [
            indices
            for size in range(1, 10)
            for indices in itertools.combinations(range(9), size)
            if all(curve[a] > curve[b] for a, b in itertools.pairwise(indices))
        ]
        longest = len(descents[-1])
        middles = {indices[longest // 2] for indices in descents if len(indices) == longest}
        assert _middle_of_longest_descent(curve) in middles


def test_too_few_points_give_no_suggestion_but_can_be_inspected() -> None:
    result = search(low=1.0, steps=20)
    assert 1 < len(result.losses) < 10
    with pytest.raises(ValueError, match=r"only \d points before the loss diverged .* Set optimizer"):
        _ = result.suggestion


def test_a_loss_that_only_rises_gives_no_suggestion() -> None:
    with pytest.raises(ValueError, match="does not fall at any learning rate"):
        _ = curve_of([1.0 + 0.01 * k for k in range(50)]).suggestion


def test_a_constant_loss_gives_no_suggestion() -> None:
    with pytest.raises(ValueError, match="does not fall at any learning rate"):
        _ = curve_of([1.0] * 50).suggestions


def test_noise_gives_no_suggestion_and_a_noisy_descent_does() -> None:
    def of(losses: Callable[[int], float], seed: int) -> LRFinding:
        rng = random.Random(seed)
        model = Quadratic()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        noisy = lambda batch: 0 * model(batch) + losses(batch) + rng.gauss(0, 0.2)  # noqa: E731
        return find_lr(model, noisy, optimizer, range(100))

    def suggests(result: LRFinding) -> bool:
        try:
            return result.suggestion > 0
        except ValueError:
            return False

    assert sum(suggests(of(lambda batch: 2.0, seed)) for seed in range(8)) == 0
    falling = [of(lambda batch: 2.0 - 1.2 * min(1.0, max(0.0, batch - 40) / 40), seed) for seed in range(8)]
    assert all(suggests(result) for result in falling)
    assert all(result.rates[30] < result.suggestion < result.rates[80] for result in falling)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "expected 0 < low < high"),
        ({"low": 1.0, "high": 0.1}, "from 1.0 to 0.1"),
        ({"high": math.inf}, "from 1e-06 to inf"),
        ({"steps": 9}, "a search of 9 steps is too short"),
        ({"smoothing": 1.0}, "smoothing is 1.0"),
        ({"diverge": 1.0}, "diverge is 1.0"),
    ],
)
def test_invalid_search_arguments_are_rejected(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_a_model_without_trainable_parameters_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"no group .* trains with a learning rate above 0: 0 of 1"):
        search(Quadratic().requires_grad_(False))
    model = Quadratic()
    with pytest.raises(ValueError, match=r"above 0: 1 of 1"):
        find_lr(model, model, torch.optim.SGD(model.parameters(), lr=0.0), [0])
