"""Every tuning preset on many backbone families, phase by phase, against counts made without it."""

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

FAMILIES = [
    "resnet18",
    "densenet121",
    "vgg11_bn",
    "regnetx_002",
    "convnext_atto",
    "tf_efficientnet_lite0",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "hrnet_w18_small",
    "rexnet_100",
    "ghostnet_050",
    "cspresnet50",
    "repvgg_a0",
    "nf_resnet26",
]
EPOCHS = 20


@cache
def network(family: str, adapted: bool = False) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(family, "fpn", 3, weights="none", lora={"rank": 4} if adapted else None)


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Gigabytes are given back when the last test has ended."""
    yield
    network.cache_clear()


@cache
def sizes(family: str) -> list[int]:
    """Parameters of each stage of the backbone."""
    model = network(family)
    parameters = dict(model.named_parameters())
    return [sum(parameters[name].numel() for name in group) for group in model.layer_groups()]


@cache
def rest(family: str) -> int:
    """Parameters of decoder and head."""
    model = network(family)
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith(("decoder.", "head.")))


def task(family: str, *words: str) -> SemanticTask:
    config = to_plain_dict(compose(*words))
    made = assemble_task(config, network(family, bool(config["tuning"]["lora"])), CEDice(), 255)
    check_timing(made.assigned, Timeline(EPOCHS))
    return made


def counts(made: SemanticTask) -> dict[int, int]:
    """Epoch at which a phase begins -> parameters that train in it."""
    timeline = Timeline(EPOCHS)
    return {
        start: sum(made.places[name].size for name in trainable(made.assigned, start, timeline))
        for start in phase_starts(made.assigned.values(), timeline)
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", ["full", "discriminative", "layer_decay"])
def test_presets_without_phases_train_everything(family: str, preset: str) -> None:
    assert counts(task(family, f"tuning={preset}")) == {0: sum(sizes(family)) + rest(family)}


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_trains_decoder_and_head_only(family: str) -> None:
    assert counts(task(family, "tuning=frozen")) == {0: rest(family)}


@pytest.mark.parametrize("family", FAMILIES)
def test_head_then_full_unfreezes_the_backbone_at_once(family: str) -> None:
    whole = sum(sizes(family)) + rest(family)
    assert counts(task(family, "tuning=head_then_full")) == {0: rest(family), 2: whole}


@pytest.mark.parametrize("last", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_partial_trains_the_topmost_stages(family: str, last: int) -> None:
    expected = {0: sum(sizes(family)[-last:]) + rest(family)}
    assert counts(task(family, "tuning=partial", f"tuning.last={last}")) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_gradual_unfreezes_one_stage_after_another_from_the_top(family: str) -> None:
    stages = sizes(family)[::-1]
    expected, trained = {0: rest(family)}, rest(family)
    for rank, size in enumerate(stages):
        trained += size
        start = -(-(2 * (len(stages) - 1) + 8 * rank) // (len(stages) - 1))  # 2 epochs, then over 8 more, rounded up
        expected[start] = trained
    assert counts(task(family, "tuning=gradual")) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_only_trains_vectors_of_the_backbone(family: str) -> None:
    model = network(family)
    used = {name for group in model.layer_groups() for name in group}
    vectors = sum(p.numel() for name, p in model.named_parameters() if name in used and p.ndim <= 1)
    assert vectors > 0
    assert counts(task(family, "tuning=norm_only")) == {0: vectors + rest(family)}


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_trains_adapters_that_are_few(family: str) -> None:
    made = task(family, "tuning=lora", "tuning.lora.rank=4")
    trained = trainable(made.assigned, 0, Timeline(EPOCHS))
    backbone = {name for name in trained if name.startswith("backbone.")}
    assert backbone
    assert all(ADAPTER.replace("\\", "") in name for name in backbone)
    assert sum(made.places[name].size for name in backbone) < sum(sizes(family)) / 2
    assert {name for name in made.places if not name.startswith("backbone.")} <= trained


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_fall_from_the_top_of_the_backbone_to_its_stem(family: str) -> None:
    for words in (("tuning=layer_decay",), ("tuning=discriminative",), ("tuning=head_then_full",)):
        made = task(family, *words)
        rates = [group.lr for group in made.groups if group.label.startswith("backbone[") and "/decay" in group.name]
        assert rates == sorted(rates)
        assert len(set(rates)) == len(rates) > 4
        (head,) = {group.lr for group in made.groups if group.label == "head"}
        assert rates[-1] == head
    assert rates[0] == pytest.approx(0.01 * rates[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_decay_multiplies_from_block_to_block(family: str) -> None:
    made = task(family, "tuning=layer_decay", "tuning.layer_lr_decay=0.8")
    blocks = network(family).layer_groups(fine=True)
    rate = {name: group.lr for group in made.groups for name in group.parameters}
    for depth, names in enumerate(reversed(blocks)):
        assert [rate[name] for name in names] == pytest.approx([2e-3 * 0.8**depth] * len(names))


def test_two_presets_combine() -> None:
    made = task("resnet18", "tuning=layer_decay", "tuning.unfreeze_at=2", "tuning.unfreeze_stagger=8")
    blocks = network("resnet18").layer_groups(fine=True)
    assert len(counts(made)) == len(blocks) + 1
    assert len({group.lr for group in made.groups}) == len(blocks)
