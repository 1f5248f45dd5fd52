"""Every tuning preset on many backbone families: parameters that train in each phase, counted independently."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch

from finetune.builders.task import assemble_task
from finetune.config.compose import compose, to_plain_dict
from finetune.losses import CEDice
from finetune.models import Segmenter
from finetune.models.lora import ADAPTER
from finetune.tasks import SemanticTask
from finetune.tuning.plan_feasibility import check_timing
from finetune.tuning.timing import Timeline, phase_starts, trainable

MORE_FAMILIES = (
    *("densenet121", "vgg11_bn", "regnetx_002", "mobilenetv2_050", "mobilenetv3_small_050", "hrnet_w18_small"),
    *("rexnet_100", "ghostnet_050", "cspresnet50", "repvgg_a0", "nf_resnet26"),
)
FAMILIES = [
    *("resnet18", "convnext_atto", "tf_efficientnet_lite0"),
    *(pytest.param(family, marks=pytest.mark.slow) for family in MORE_FAMILIES),
]
EPOCHS = 20


@cache
def network(family: str, adapted: bool = False) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(family, "fpn", 3, weights="none", lora={"rank": 4} if adapted else None)


@pytest.fixture(scope="module", autouse=True)
def _free_memory() -> Iterator[None]:
    """Free gigabytes after the last test."""
    yield
    network.cache_clear()


@cache
def sizes(family: str) -> list[int]:
    """Return the number of parameters of each stage of the backbone."""
    model = network(family)
    parameters = dict(model.named_parameters())
    return [sum(parameters[name].numel() for name in group) for group in model.layer_groups()]


@cache
def decoder_and_head(family: str) -> int:
    """Return the number of parameters of decoder and head."""
    model = network(family)
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith(("decoder.", "head.")))


def build_task(family: str, *overrides: str) -> SemanticTask:
    config = to_plain_dict(compose(*overrides))
    task = assemble_task(config, network(family, bool(config["tuning"]["lora"])), CEDice(), 255)
    check_timing(task.assigned, Timeline(EPOCHS))
    return task


def counts(task: SemanticTask) -> dict[int, int]:
    """Return the start epoch of each phase -> number of parameters that train in it."""
    timeline = Timeline(EPOCHS)
    return {
        start: sum(task.places[name].size for name in trainable(task.assigned, start, timeline))
        for start in phase_starts(task.assigned.values(), timeline)
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", ["full", "discriminative", "layer_decay"])
def test_presets_without_phases_train_everything(family: str, preset: str) -> None:
    assert counts(build_task(family, f"tuning={preset}")) == {0: sum(sizes(family)) + decoder_and_head(family)}


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_trains_decoder_and_head_only(family: str) -> None:
    assert counts(build_task(family, "tuning=frozen")) == {0: decoder_and_head(family)}


@pytest.mark.parametrize("family", FAMILIES)
def test_head_then_full_unfreezes_the_backbone_at_once(family: str) -> None:
    total = sum(sizes(family)) + decoder_and_head(family)
    assert counts(build_task(family, "tuning=head_then_full")) == {0: decoder_and_head(family), 2: total}


@pytest.mark.parametrize("last", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_partial_trains_the_last_stages(family: str, last: int) -> None:
    expected = {0: sum(sizes(family)[-last:]) + decoder_and_head(family)}
    assert counts(build_task(family, "tuning=partial", f"tuning.last={last}")) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_gradual_unfreezes_stages_one_by_one_from_the_last(family: str) -> None:
    stages = sizes(family)[::-1]
    expected, trained = {0: decoder_and_head(family)}, decoder_and_head(family)
    for rank, size in enumerate(stages):
        trained += size
        start = -(-(2 * (len(stages) - 1) + 8 * rank) // (len(stages) - 1))  # 2 epochs, then over 8 more, rounded up
        expected[start] = trained
    assert counts(build_task(family, "tuning=gradual")) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_only_trains_only_vectors_of_the_backbone(family: str) -> None:
    model = network(family)
    used = {name for group in model.layer_groups() for name in group}
    vectors = sum(p.numel() for name, p in model.named_parameters() if name in used and p.ndim <= 1)
    assert vectors > 0
    assert counts(build_task(family, "tuning=norm_only")) == {0: vectors + decoder_and_head(family)}


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_trains_few_parameters_of_the_backbone(family: str) -> None:
    task = build_task(family, "tuning=lora", "tuning.lora.rank=4")
    trained = trainable(task.assigned, 0, Timeline(EPOCHS))
    backbone = {name for name in trained if name.startswith("backbone.")}
    assert backbone
    assert all(ADAPTER.replace("\\", "") in name for name in backbone)
    assert sum(task.places[name].size for name in backbone) < sum(sizes(family)) / 2
    assert {name for name in task.places if not name.startswith("backbone.")} <= trained


@pytest.mark.parametrize("family", FAMILIES)
def test_learning_rates_fall_from_the_last_stage_to_the_stem(family: str) -> None:
    for overrides in (("tuning=layer_decay",), ("tuning=discriminative",), ("tuning=head_then_full",)):
        task = build_task(family, *overrides)
        rates = [group.lr for group in task.groups if group.label.startswith("backbone[") and "/decay" in group.name]
        assert rates == sorted(rates)
        assert len(set(rates)) == len(rates) > 4
        (head,) = {group.lr for group in task.groups if group.label == "head"}
        assert rates[-1] == head
    assert rates[0] == pytest.approx(0.01 * rates[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_decay_multiplies_from_block_to_block(family: str) -> None:
    task = build_task(family, "tuning=layer_decay", "tuning.layer_lr_decay=0.8")
    blocks = network(family).layer_groups(fine=True)
    rate = {name: group.lr for group in task.groups for name in group.parameters}
    for depth, names in enumerate(reversed(blocks)):
        assert [rate[name] for name in names] == pytest.approx([2e-3 * 0.8**depth] * len(names))


def test_two_presets_combine() -> None:
    task = build_task("resnet18", "tuning=layer_decay", "tuning.unfreeze_at=2", "tuning.unfreeze_stagger=8")
    blocks = network("resnet18").layer_groups(fine=True)
    assert len(counts(task)) == len(blocks) + 1
    assert len({group.lr for group in task.groups}) == len(blocks)
