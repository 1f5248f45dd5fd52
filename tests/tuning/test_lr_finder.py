"""The learning-rate search against a quadratic, whose highest stable rate is known; and that it leaves no trace."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finetune.tuning.lr_finder import LRFinding, _middle_of_longest_fall, find_lr, restore_state_after

CURVATURE = 4.0


class Bowl(nn.Module):
    """Loss of curvature 4 in every direction: gradient descent converges at rates below 0.5, and diverges above."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64))

    def forward(self, batch: Any) -> Tensor:
        return CURVATURE * self.place.square().sum() / 2


def search(model: nn.Module | None = None, batches: Any = (0,), **options: Any) -> LRFinding:
    model = model or Bowl()
    return find_lr(model, model, torch.optim.SGD(model.parameters(), lr=0.1), batches, **options)


def test_the_losses_are_those_of_gradient_descent_on_a_quadratic() -> None:
    found = search()
    assert found.rates[:2] == pytest.approx((1e-6, 1e-6 * 1e7 ** (1 / 99)))
    expected = [CURVATURE * 12 / 2]
    for rate in found.rates[:-1]:
        expected.append(expected[-1] * (1 - rate * CURVATURE) ** 2)
    assert found.losses == pytest.approx(expected)


def test_the_loss_rises_exactly_where_the_rate_is_above_two_over_the_curvature() -> None:
    found = search(diverge=1e9)
    rises = [after > before for before, after in itertools.pairwise(found.losses)]
    assert rises == [rate > 2 / CURVATURE for rate in found.rates[:-1]]
    assert any(rises)


@pytest.mark.parametrize("smoothing", [0.0, 0.9, 0.98])
def test_every_suggestion_is_stable_and_not_timid(smoothing: float) -> None:
    suggestions = search(smoothing=smoothing).suggestions
    assert set(suggestions) == {"valley", "steepest", "minimum"}
    for rule, rate in suggestions.items():
        assert 2 / CURVATURE / 1000 < rate < 2 / CURVATURE, rule


def test_a_step_of_accumulated_batches_is_that_of_their_mean() -> None:
    class Off(Bowl):
        """A bowl whose center is where the batch says."""

        def forward(self, batch: float) -> Tensor:
            return CURVATURE * (self.place - batch).square().sum() / 2

    whole, halves = search(Bowl()), search(Off(), batches=(1.0, -1.0), accumulate=2)
    assert halves.rates[:50] == whole.rates[:50]
    assert halves.losses[:50] == pytest.approx([loss + CURVATURE * 3 / 2 for loss in whole.losses[:50]])


def test_the_running_mean_is_corrected_for_its_start() -> None:
    found = search(smoothing=0.8)
    for end in range(1, len(found.losses) + 1):
        weights = np.array([0.8 ** (end - 1 - k) for k in range(end)])
        assert found.smoothed[end - 1] == pytest.approx(np.average(found.losses[:end], weights=weights))


def test_the_search_stops_where_the_loss_diverges() -> None:
    found = search(steps=300, diverge=4.0)
    assert len(found.rates) < 300
    assert found.smoothed[-1] > 4 * min(found.smoothed)
    assert all(value <= 4 * min(found.smoothed[: end + 1]) for end, value in enumerate(found.smoothed[:-1]))


def test_a_loss_below_zero_does_not_count_as_divergence() -> None:
    class Deep(Bowl):
        def forward(self, batch: Any) -> Tensor:
            return super().forward(batch) - 25.0

    assert search(Deep()).suggestion == pytest.approx(search().suggestion, rel=1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_search_stops_before_a_loss_that_is_not_finite(bad: float) -> None:
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = find_lr(model, lambda batch: model(batch) + (bad if batch == 30 else 0.0), optimizer, range(100))
    assert len(found.rates) == len(found.losses) == len(found.smoothed) == 30
    assert all(math.isfinite(loss) for loss in found.losses)
    assert model.place.tolist() == [2.0] * 3


def test_few_batches_are_begun_anew_and_an_iterator_ends_the_search() -> None:
    seen: list[int] = []
    model = Bowl()
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
    scales = [0.1, 1.0, 0.02, 50.0]  # the fastest does not train, so it is not the one that is counted by
    groups = [{"params": part.parameters(), "lr": 3e-3 * scale} for part, scale in zip(model, scales, strict=True)]
    optimizer = torch.optim.AdamW(groups)
    seen: list[list[float]] = []

    def loss_of_batch(batch: Any) -> Tensor:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return sum(part(torch.ones(1, 2)).square().sum() for part in model)

    found = find_lr(model, loss_of_batch, optimizer, [0], steps=20, high=0.1)
    assert found.base == 3e-3
    assert np.array(seen) == pytest.approx(np.outer(found.rates, scales))
    assert [group["lr"] for group in optimizer.param_groups] == [3e-3 * scale for scale in scales]


def test_a_rate_that_is_a_tensor_stays_that_tensor() -> None:
    model = Bowl()
    rate = torch.tensor(0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, foreach=False)
    seen: list[Any] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer.param_groups[0]["lr"]))
    found = find_lr(model, model, optimizer, [0], steps=20)
    assert all(isinstance(value, Tensor) for value in seen)
    assert torch.stack(seen).tolist() == pytest.approx(found.rates)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate == torch.tensor(0.1)
    assert found.base == pytest.approx(0.1)


class Net(nn.Module):
    """All that a search could leave a trace in: norms, dropout, frozen parts, buffers that are replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(4, 2, 1))
        self.scale = nn.Parameter(torch.ones(()))  # no optimizer has it, so nobody clears its gradient
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.frozen.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.scale * self.head(self.norm(self.frozen(image)))


def prepared() -> tuple[Net, torch.optim.Optimizer, Callable[[Tensor], Tensor]]:
    """A model that has trained for some steps, with gradients of an unfinished accumulation."""
    torch.manual_seed(0)
    model = Net()
    groups = [{"params": part.parameters(), "lr": lr} for part, lr in ((model.frozen, 1.0), (model.norm, 1e-3))]
    optimizer = torch.optim.AdamW([*groups, {"params": model.head.parameters()}], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    return model, optimizer, lambda image: model(image + random.random() + np.random.rand()).square().mean()


def traces(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything that must stay, as bytes where it is a number, and by identity where others may hold on to it."""

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


def test_a_search_leaves_no_trace() -> None:
    model, optimizer, loss_of_batch = prepared()
    before = traces(model, optimizer)
    assert sum(len(state) for state in before["state"].values()) == 12
    found = find_lr(model, loss_of_batch, optimizer, images(), steps=30)
    assert len(set(found.losses)) > 10
    assert traces(model, optimizer) == before


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=repr)
def test_an_interrupted_search_leaves_no_trace(error: BaseException) -> None:
    model, optimizer, loss_of_batch = prepared()
    before = traces(model, optimizer)

    def failing(batch: Tensor) -> Tensor:
        if model.calls == 10:
            model.eval().requires_grad_(True)
            raise error
        return loss_of_batch(batch)

    with pytest.raises(type(error)) as raised:
        find_lr(model, failing, optimizer, images())
    assert raised.value is error
    assert traces(model, optimizer) == before


def test_training_goes_on_as_if_there_had_been_no_search() -> None:
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


def test_what_did_train_inside_is_put_back_with_new_optimizer_state_too() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.param_groups[0]["history"] = []
    before = traces(model, optimizer)
    with restore_state_after(model, optimizer):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        optimizer.param_groups[0]["history"].append(1)
        assert len(optimizer.state) == 2
        assert traces(model, optimizer) != before
    assert traces(model, optimizer) == before
    assert len(optimizer.state) == 0
    assert optimizer.param_groups[0]["history"] == []


def finding(smoothed: list[float], noise: float = 0.0) -> LRFinding:
    rng = random.Random(0)
    rates = tuple(10 ** (-6 + 0.05 * k) for k in range(len(smoothed)))
    return LRFinding(rates, tuple(value + rng.gauss(0, noise) for value in smoothed), tuple(smoothed), 1e-3)


def test_the_rules_find_their_places_on_a_curve_made_by_hand() -> None:
    flat, bend, fall, rise = [2.0] * 40, [1.99, 1.96], [1.9 - 0.02 * k for k in range(38)], [1.5, 2.0, 3.0, 5.0]
    found = finding(flat + bend + fall + rise)
    assert found.suggestions["valley"] == found.suggestion == pytest.approx(found.rates[60], rel=0.13)  # one place
    assert found.suggestions["minimum"] == found.rates[79] / 10
    steps = [2.0] * 40 + [1.9] * 20 + [1.0] * 20  # falls far from place 59 to 60
    assert finding(steps).suggestions["steepest"] in (found.rates[59], found.rates[60])


def test_the_valley_is_the_middle_of_a_longest_fall_among_all_subsequences() -> None:
    rng = random.Random(0)
    for _ in range(60):
        curve = [rng.randrange(8) for _ in range(9)]
        falls = [
            places
            for size in range(1, 10)
            for places in itertools.combinations(range(9), size)
            if all(curve[a] > curve[b] for a, b in itertools.pairwise(places))
        ]
        longest = len(falls[-1])
        middles = {places[longest // 2] for places in falls if len(places) == longest}
        assert _middle_of_longest_fall(curve) in middles


def test_too_few_points_suggest_nothing_but_can_be_looked_at() -> None:
    found = search(low=1.0, steps=20)
    assert 1 < len(found.losses) < 10
    with pytest.raises(ValueError, match=r"only \d points before the loss burst .* Begin at a lower rate"):
        _ = found.suggestion


def test_a_loss_that_only_rises_suggests_nothing() -> None:
    with pytest.raises(ValueError, match="does not fall at any learning rate"):
        _ = finding([1.0 + 0.01 * k for k in range(50)]).suggestion


def test_a_loss_that_stays_suggests_nothing() -> None:
    with pytest.raises(ValueError, match="does not fall at any learning rate"):
        _ = finding([1.0] * 50).suggestions


def test_noise_suggests_nothing_and_a_fall_beneath_noise_does() -> None:
    def of(losses: Callable[[int], float], seed: int) -> LRFinding:
        rng = random.Random(seed)
        model = Bowl()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        noisy = lambda batch: 0 * model(batch) + losses(batch) + rng.gauss(0, 0.2)  # noqa: E731
        return find_lr(model, noisy, optimizer, range(100))

    def suggests(found: LRFinding) -> bool:
        try:
            return found.suggestion > 0
        except ValueError:
            return False

    assert sum(suggests(of(lambda batch: 2.0, seed)) for seed in range(20)) == 0
    falling = [of(lambda batch: 2.0 - 1.2 * min(1.0, max(0.0, batch - 40) / 40), seed) for seed in range(20)]
    assert all(suggests(found) for found in falling)
    assert all(found.rates[30] < found.suggestion < found.rates[80] for found in falling)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "expected 0 < low < high"),
        ({"low": 1.0, "high": 0.1}, "from 1.0 to 0.1"),
        ({"high": math.inf}, "from 1e-06 to inf"),
        ({"steps": 9}, "a search of 9 steps says nothing"),
        ({"smoothing": 1.0}, "smoothing is 1.0"),
        ({"diverge": 1.0}, "diverge is 1.0"),
    ],
)
def test_a_range_that_cannot_be_searched_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_a_model_of_which_nothing_trains_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no group .* trains at a rate above 0: 0 of 1"):
        search(Bowl().requires_grad_(False))
    model = Bowl()
    with pytest.raises(ValueError, match=r"above 0: 1 of 1"):
        find_lr(model, model, torch.optim.SGD(model.parameters(), lr=0.0), [0])
