"""Weight averages against loops in float64, and batch-norm statistics against formulas."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from finetune.tuning.weight_averaging import (
    WeightAverage,
    batch_norms,
    check_resumable,
    equal_weight,
    exponential_weight,
    fresh_statistics,
    statistics,
    swap_weights,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))


@torch.no_grad()
def random_step(model: nn.Module) -> dict[str, Tensor]:
    """Change the trainable parameters randomly, as a training step would, and return all weights in float64."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape)
    return weights(model)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().double() for name, parameter in model.named_parameters()}


def average_over(model: nn.Module, steps: int) -> tuple[WeightAverage, list[dict[str, Tensor]]]:
    """Return an exponential average after some steps, and the weights at the start and after each step."""
    average, history = WeightAverage(model), [weights(model)]
    average.track_new_parameters()
    for _ in range(steps):
        history.append(random_step(model))
        average.update(exponential_weight(0.9, average.updates))
    return average, history


def test_an_exponential_average_equals_a_loop_in_float64() -> None:
    average, history = average_over(network(), steps=120)
    expected = history[0]
    for updates, latest in enumerate(history[1:]):
        decay = min(0.9, (1 + updates) / (10 + updates))  # 0.9 from step 80 on
        expected = {name: decay * expected[name] + (1 - decay) * latest[name] for name in expected}
    assert average.updates == 120
    assert average.values.keys() == expected.keys()
    for name, value in average.values.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("updates", "decay"), [(0, 0.1), (8, 0.5), (80, 0.9), (890, 0.99), (10**6, 0.999)])
def test_the_decay_grows_to_the_given_one(updates: int, decay: float) -> None:
    assert 1 - exponential_weight(0.999, updates) == pytest.approx(decay, abs=1e-12)


def test_an_equal_average_is_the_mean_of_all_weights_since_the_start() -> None:
    model = network()
    average, history = WeightAverage(model), []
    average.track_new_parameters()
    for _ in range(50):
        history.append(random_step(model))
        average.update(equal_weight(average.updates))
    for name, value in average.values.items():
        mean = torch.stack([each[name] for each in history]).mean(dim=0)
        torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)


def test_the_average_of_a_model_in_bfloat16_is_kept_in_float32() -> None:
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    average = WeightAverage(model)
    average.track_new_parameters()
    with torch.no_grad():
        model.weight.fill_(2)
    for _ in range(3):
        average.update(0.001)  # in bfloat16 each update would be rounded to nothing
    assert average.values["weight"].dtype == torch.float32
    assert average.values["weight"].item() == pytest.approx(2 - 0.999**3, abs=1e-6)


@pytest.mark.parametrize("average_type", ["exponential", "equal"])
def test_the_average_of_a_parameter_unfrozen_later_is_as_if_it_had_been_averaged_from_the_start(
    average_type: str,
) -> None:
    model = network()
    always, late = WeightAverage(model), WeightAverage(model)
    always.track_new_parameters()
    model[0].requires_grad_(False)
    for step in range(30):
        model[0].requires_grad_(step >= 10)
        late.track_new_parameters()
        assert ("0.weight" in late.values) == (step >= 10)
        random_step(model)
        for average in (always, late):
            average.update(exponential_weight(0.9, step) if average_type == "exponential" else equal_weight(step))
    torch.testing.assert_close(dict(sorted(late.values.items())), dict(sorted(always.values.items())), rtol=0, atol=0)
    assert not torch.equal(late.values["0.weight"], model[0].weight)


def test_a_parameter_that_is_frozen_again_is_still_averaged() -> None:
    model = network()
    average, _ = average_over(model, steps=5)
    model[0].requires_grad_(False)
    distance = (average.values["0.weight"] - model[0].weight).abs().max()
    for _ in range(200):
        average.update(exponential_weight(0.9, average.updates))
    assert (average.values["0.weight"] - model[0].weight).abs().max() < 1e-4 * distance


def test_frozen_parameters_have_no_average() -> None:
    model = network()
    model[0].requires_grad_(False)
    average, _ = average_over(model, steps=2)
    assert {name.split(".")[0] for name in average.values} == {"1", "3", "4"}


def test_restored_averages_continue_bit_for_bit() -> None:
    model = network()
    average, _ = average_over(model, steps=3)
    restored = WeightAverage(model, {name: value.clone() for name, value in average.values.items()}, average.updates)
    random_step(model)
    for each in (average, restored):
        each.track_new_parameters()
        each.update(exponential_weight(0.9, each.updates))
    assert restored.updates == average.updates == 4
    torch.testing.assert_close(restored.values, average.values, rtol=0, atol=0)


def test_a_shared_parameter_is_averaged_under_both_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    average, _ = average_over(model, steps=3)
    trained = swap_weights(model, average.values)
    assert {"0.weight", "1.weight"} <= average.values.keys()
    assert torch.equal(model[0].weight, average.values["1.weight"])
    swap_weights(model, trained)
    assert torch.equal(model[0].weight, trained["0.weight"])


def test_swapping_weights_writes_in_place_and_returns_the_previous_values() -> None:
    model = network().bfloat16().to(memory_format=torch.channels_last)
    storages = [tensor.data_ptr() for tensor in model.state_dict().values()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    values = {"0.weight": torch.full((4, 3, 3, 3), 1 / 3), "1.running_mean": torch.ones(4)}
    previous = swap_weights(model, values)
    assert torch.equal(model[0].weight, torch.full((4, 3, 3, 3), 1 / 3).bfloat16())
    assert torch.equal(model[1].running_mean, torch.ones(4).bfloat16())
    assert torch.equal(model[3].weight, before["3.weight"])
    swap_weights(model, previous)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [tensor.data_ptr() for tensor in model.state_dict().values()] == storages


def batches() -> list[Tensor]:
    return list(torch.randn(5, 4, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 3 + 1)


def recompute_statistics(model: nn.Sequential, *layers: int) -> None:
    with torch.no_grad(), fresh_statistics(model, [model[layer] for layer in layers]):
        for batch in batches():
            model(batch)


def test_fresh_statistics_are_the_means_over_the_batches() -> None:
    model = network()
    means, variances = [], []
    with torch.no_grad():
        for batch in batches():
            features = model[0](batch).double()  # 4 feature maps of 6 x 6 pixels
            mean = features.sum(dim=(0, 2, 3)) / 144
            means.append(mean)
            variances.append(((features - mean.view(1, -1, 1, 1)) ** 2).sum(dim=(0, 2, 3)) / 143)
    recompute_statistics(model, 1, 4)
    torch.testing.assert_close(model[1].running_mean.double(), torch.stack(means).mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model[1].running_var.double(), torch.stack(variances).mean(0), rtol=1e-5, atol=1e-5)
    assert model[1].num_batches_tracked == 5


def test_fresh_statistics_of_all_layers_equal_update_bn_of_torch() -> None:
    model = network()
    expected = copy.deepcopy(model)
    update_bn(batches(), expected)
    recompute_statistics(model, 1, 4)
    torch.testing.assert_close(model.state_dict(), expected.state_dict())


def test_statistics_are_computed_without_dropout_and_modes_and_momenta_are_restored() -> None:
    model = nn.Sequential(nn.Dropout(0.5), *network())
    model[2].momentum = 0.3
    model[5].eval()
    modes = [module.training for module in model.modules()]
    without_dropout = network()
    recompute_statistics(without_dropout, 1, 4)
    recompute_statistics(model, 2, 5)
    torch.testing.assert_close(model[2].running_var, without_dropout[1].running_var)
    assert [module.training for module in model.modules()] == modes
    assert (model[2].momentum, model[5].momentum) == (0.3, 0.1)


def test_batch_norms_that_are_not_named_keep_their_statistics() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in statistics({"4": model[4]}).items()}
    recompute_statistics(model, 1)
    assert set(before) == {"4.running_mean", "4.running_var", "4.num_batches_tracked"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in statistics({"4": model[4]}).items())


def test_a_batch_norm_that_sees_no_batch_keeps_its_statistics() -> None:
    model, unused = network(), nn.BatchNorm2d(4)
    unused.running_mean.fill_(3)
    before = copy.deepcopy(unused.state_dict())
    with torch.no_grad(), fresh_statistics(model, [model[1], unused]):
        for batch in batches():
            model(batch)
    torch.testing.assert_close(unused.state_dict(), before)
    assert model[1].num_batches_tracked == 5


def test_only_batch_norms_with_running_statistics_are_found() -> None:
    model = nn.ModuleDict(
        {"a": nn.BatchNorm2d(2), "b": nn.BatchNorm2d(2, track_running_stats=False), "c": nn.GroupNorm(1, 2)}
    )
    assert list(batch_norms(model)) == ["a"]


def test_a_checkpoint_with_averages_needs_the_callback_that_wrote_it() -> None:
    check_resumable({"averaging": {"callback": "EMA"}}, ["ApplyTuningPlan", "EMA"])
    check_resumable({"state_dict": {}}, ["ApplyTuningPlan"])
    with pytest.raises(ValueError, match=r"only EMA can resume from it\. Set average=ema"):
        check_resumable({"averaging": {"callback": "EMA"}}, ["ApplyTuningPlan", "SWA"])
