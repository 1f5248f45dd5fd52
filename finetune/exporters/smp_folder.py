"""The model as one of segmentation_models_pytorch (smp): its own layout of `config.json` and `model.safetensors`."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from finetune.checkpoints.saved_model import SavedModel
from finetune.exporters.agreement import Outputs
from finetune.exporters.exporter import EXACT
from finetune.exporters.metadata import metadata
from finetune.inference import Output
from finetune.models import Segmenter
from finetune.models.feature_levels import COARSEST
from finetune.models.heads.head_specs import HEADS
from finetune.models.input_size import Size

CARD = """---
library_name: segmentation-models-pytorch
pipeline_tag: image-segmentation
---
# {title}

```python
model = segmentation_models_pytorch.from_pretrained("FOLDER").eval()
facts = json.loads(pathlib.Path("FOLDER/config.json").read_text())["_finetune"]
mean, std = (torch.tensor(facts[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
logits = model((images - mean) / std)
```

Images (B, {channels}, H, W) have values from 0 to 255, and sides that {multiple} divides. {answer}
The classes are {classes}.
License of the pretrained weights: {license}.
"""


@dataclass(frozen=True)
class Counterpart:
    """What smp calls a head.

    Attributes:
        name: of smp's class.
        options: smp's names of the head's options, by ours.
        dilates: takes the output stride of the backbone.
    """

    name: str
    options: Mapping[str, str]
    dilates: bool = False


UNET = {
    "decoder_channels": "decoder_channels",
    "interpolation": "decoder_interpolation",
    "norm": "decoder_use_norm",
}
FPN = {
    "pyramid_channels": "decoder_pyramid_channels",
    "segmentation_channels": "decoder_segmentation_channels",
    "merge_policy": "decoder_merge_policy",
    "dropout": "decoder_dropout",
    "interpolation": "decoder_interpolation",
}
DEEPLAB = {
    "decoder_channels": "decoder_channels",
    "atrous_rates": "decoder_atrous_rates",
    "separable": "decoder_aspp_separable",
    "dropout": "decoder_aspp_dropout",
}
PSPNET = {"decoder_channels": "psp_out_channels", "norm": "decoder_use_norm", "dropout": "psp_dropout"}
COUNTERPARTS = {
    "unet": Counterpart("Unet", UNET),
    "unetplusplus": Counterpart("UnetPlusPlus", UNET),
    "manet": Counterpart("MAnet", {**UNET, "pab_channels": "decoder_pab_channels"}),
    "linknet": Counterpart("Linknet", {"norm": "decoder_use_norm"}),
    "fpn": Counterpart("FPN", FPN),
    "pspnet": Counterpart("PSPNet", PSPNET),
    "deeplabv3": Counterpart("DeepLabV3", DEEPLAB, dilates=True),
    "deeplabv3plus": Counterpart("DeepLabV3Plus", DEEPLAB, dilates=True),
    "segformer": Counterpart("Segformer", {"segmentation_channels": "decoder_segmentation_channels"}),
    "upernet": Counterpart("UPerNet", {"decoder_channels": "decoder_channels", "norm": "decoder_use_norm"}),
}
TRAINING_ONLY = ("deep_supervision",)  # options of heads that the logits do not depend on
PLAIN = {"neck": "interpolate", "window": None, "views": None, "temperature": 1.0}  # smp has none of these steps


class SmpFolder:
    """A folder that `segmentation_models_pytorch.from_pretrained` reads: the same logits without this toolkit.

    Normalization, classes and colors are in `config.json`, below `_finetune`, which smp leaves alone.

    Args:
        output: of the task.
    """

    limits = EXACT
    size: Size | None = None
    multiple = COARSEST  # smp refuses other sizes; this toolkit pads them

    def __init__(self, output: Output) -> None:
        self.output = output

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write weights, config and card, with adapters merged into the weights."""
        saved.model.merge_adapters()
        network = counterpart(saved.model)
        facts = metadata(saved, self.output, self.size, "float32", "logits")
        statistics = {name: getattr(saved.model, name).flatten().tolist() for name in ("mean", "std")}
        (folder / "README.md").write_text(_card(facts))  # or smp writes one that licenses the weights as its own code
        network.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "_finetune": {**facts, **statistics}}, indent=2))
        return sorted(folder.iterdir())

    def expected(self, saved: SavedModel, images: Tensor) -> Outputs:
        """Return the logits."""
        return {"logits": saved.model(saved.model.normalize(images))}

    def load(self, folder: Path) -> Callable[[Tensor], Outputs]:
        """Return the model that smp builds from the folder, behind the normalization in its config."""
        network = smp.from_pretrained(str(folder)).eval()
        facts = json.loads((folder / "config.json").read_text())["_finetune"]
        mean, std = (torch.tensor(facts[name]).view(1, -1, 1, 1) for name in ("mean", "std"))

        def compute(images: Tensor) -> Outputs:  # in the model's memory format, on which the last bit depends
            return {"logits": network(images.to(mean.dtype, memory_format=torch.channels_last).sub(mean).div(std))}

        return compute

    def usage(self, folder: Path) -> str:
        """Return the line of code that loads the model."""
        return f'segmentation_models_pytorch.from_pretrained("{folder}")'


def counterpart(model: Segmenter) -> Any:
    """Return smp's model with the same weights; those of training losses and the backbone's classifier stay behind.

    Raises:
        ValueError: smp has no such model.
    """
    arguments = smp_arguments(model)
    network = getattr(smp, COUNTERPARTS[model.config()["head"]].name)(**arguments)
    parts: dict[str, nn.Module] = {
        "encoder.model": model.backbone.model,
        "decoder": model.decoder,
        "segmentation_head": model.head,
    }
    weights = {
        _flat(f"{name}.{key}"): tensor for name, part in parts.items() for key, tensor in part.state_dict().items()
    }
    if missing := [key for key in network.state_dict() if _flat(key) not in weights]:
        raise ValueError(f"smp's model has weights that this one lacks, such as {missing[0]}")
    network.load_state_dict({key: weights[_flat(key)] for key in network.state_dict()})
    return network


def _flat(name: str) -> str:
    """Return the name of a parameter as it is in any form of a timm model: some forms join `stages.0` to `stages_0`."""
    return name.replace(".", "_")


def smp_arguments(model: Segmenter) -> dict[str, Any]:
    """Return the arguments of smp's model.

    Raises:
        ValueError: smp has no such head, or none with such an option or step around it.
    """
    config = model.config()
    if (head := config["head"]) not in COUNTERPARTS:
        raise ValueError(f"smp computes what these heads do: {', '.join(COUNTERPARTS)}")
    known, defaults = COUNTERPARTS[head], inspect.signature(HEADS[head].build).parameters
    given = {name: value for name, value in config["head_options"].items() if name not in TRAINING_ONLY}
    own = {name: value for name, value in given.items() if name not in known.options}
    unknown = [f"head.{name}={value}" for name, value in own.items() if value != defaults[name].default]
    unknown += [f"{name}={config[name]}" for name, plain in PLAIN.items() if config[name] != plain]
    stride = config["output_stride"] or HEADS[head].output_stride
    if stride != COARSEST and not known.dilates:
        unknown.append(f"backbone.output_stride={stride}")
    if model.backbone.input_size.only is not None:
        unknown.append("a backbone of one image size")
    if unknown:
        raise ValueError(f"smp's {known.name} knows no {', '.join(unknown)}")
    return {
        "encoder_name": f"tu-{config['backbone']}",
        "encoder_weights": None,
        "in_channels": config["in_channels"],
        "classes": model.classes,
        **{known.options[name]: value for name, value in given.items() if name in known.options},
        **({"encoder_output_stride": stride} if known.dilates else {}),
        **{name: value for name, value in config["backbone_options"].items() if name != "num_classes"},
    }


def _card(facts: Mapping[str, Any]) -> str:
    """Return the README of a folder."""
    task = facts["task"]
    answer = "The class of a pixel is the largest of its logits, `logits.argmax(1)`."
    if "thresholds" in task:
        answer = f"A pixel has the classes whose `logits.sigmoid()` exceeds {task['thresholds']}."
    return CARD.format(
        title=f"{facts['backbone']} with a {facts['head']} head",
        channels=facts["channels"],
        multiple=COARSEST,
        answer=answer,
        classes=", ".join(facts["classes"]),
        license=facts["weights_license"],
    )
