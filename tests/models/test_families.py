"""The smallest model of nearly every family of timm, trained for one step under a head."""

import pytest
import timm
import torch
from torch.nn import functional as F

from finetune.models import Backbone, Segmenter
from finetune.models.backbone import SIDE_BRANCH_FAMILIES
from finetune.models.input_size import NATIVE_SIZE_FAMILIES, family
from tests.models.sampling import slow_unless

# without ten families whose smallest model has 40M parameters or more, and byoanet, which takes seconds
SMALLEST = {
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_v3": "inception_v3",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pvt_v2": "pvt_v2_b0",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
OPTIONS = {"vgg": {"mlp_ratio": 0.02}}  # or its classifier alone would have 120M parameters
# special cases that test_backbone.py does not have: shared parameters, a wrong stride, square images, the pretraining
# size, any size, an order of blocks only, resampled tables
QUICK = ["tresnet", "nest", "efficientformer", "efficientvit_msra", "vision_transformer_relpos"]


def image_size(family_name: str) -> tuple[int, int] | None:
    return None if family_name in NATIVE_SIZE_FAMILIES else (64, 64)


@pytest.mark.parametrize("family_name", slow_unless(QUICK, SMALLEST))
def test_the_smallest_model_of_a_family_trains_all_parameters_except_the_unused_ones(family_name: str) -> None:
    options, size = OPTIONS.get(family_name), image_size(family_name)
    model = Segmenter(SMALLEST[family_name], "linear", 3, weights="none", backbone_options=options, image_size=size)
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 3, 32, 32)
    assert logits.isfinite().all()
    F.cross_entropy(logits, torch.randint(0, 3, (2, 32, 32))).backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == model.unused_parameters()
    used = {name for name, _ in model.named_parameters() if name.startswith("backbone.")} - model.unused_parameters()
    assert {name for group in model.layer_groups(fine=True) for name in group} == used


@pytest.mark.parametrize(
    ("family_name", "level"),
    slow_unless(
        [("efficientvim", -1)],
        [*((name, -1) for name in SMALLEST), *((name, 2) for name in SIDE_BRANCH_FAMILIES)],
    ),
)
def test_all_parameters_except_the_unused_ones_get_a_gradient_from_one_map(family_name: str, level: int) -> None:
    options, size = OPTIONS.get(family_name), image_size(family_name)
    with torch.device("meta"):  # gradients without numbers
        backbone = Backbone(SMALLEST[family_name], "none", options=options, image_size=size)
        backbone.select_features([backbone.levels[level].index])
        (feature,) = backbone(torch.randn(2, 3, 64, 64))
        feature.square().sum().backward()
        without = {name for name, p in backbone.named_parameters() if p.grad is None}
        assert without == backbone.unused_parameters()


def test_the_sample_covers_most_families_of_timm() -> None:
    families = {family(name) for name in timm.list_models()}
    assert [family(name) for name in SMALLEST.values()] == list(SMALLEST)
    assert len(SMALLEST) >= max(60, 0.8 * len(families))
