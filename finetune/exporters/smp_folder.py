"""The model as one of segmentation_models_pytorch (smp): its own layout of `config.json` and `model.safetensors`."""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from finetune.checkpoints.model_card import front_matter
from finetune.checkpoints.saved_model import SavedModel
from finetune.exporters.agreement import Outputs
from finetune.exporters.exporter import SAME_WEIGHTS
from finetune.exporters.metadata import metadata
from finetune.inference import Output
from finetune.models import Segmenter
from finetune.models.feature_levels import COARSEST
from finetune.models.heads.head_specs import HEADS
from finetune.models.input_size import Size

CONVOLUTIONAL = (smp.Unet, smp.UnetPlusPlus, smp.MAnet, smp.Linknet, smp.FPN, smp.PSPNet, smp.DeepLabV3)
MODELS = {each.__name__.lower(): each for each in (*CONVOLUTIONAL, smp.DeepLabV3Plus, smp.Segformer, smp.UPerNet)}
RENAMED = {"norm": "use_norm"}  # options of heads; smp also puts one of the prefixes before them
PREFIXES = ("", "decoder_", "decoder_aspp_", "psp_")
TRAINING_ONLY = ("deep_supervision",)  # options of heads that the logits do not depend on
# settings of a model without the steps that smp does not have
PLAIN = {"neck": "interpolate", "window": None, "views": None, "reduce": 1, "temperature": 1.0}
CARD = """# {backbone} with a {head} head

```python
model = segmentation_models_pytorch.from_pretrained(FOLDER).eval()
facts = json.loads(pathlib.Path(FOLDER, "config.json").read_text())["_finetune"]
mean, std = (torch.tensor(facts[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
logits = model((images - mean) / std)
```

Images (B, {channels}, H, W) have values from 0 to 255, and sides that 32 divides. {answer}
The classes are {names}. The license of the pretrained weights is {weights_license}.
"""


class SmpFolder:
    """A folder that `segmentation_models_pytorch.from_pretrained` reads, for the same logits without this toolkit.

    Normalization, classes and colors are in `config.json`, below `_finetune`, which smp leaves alone.

    Args:
        output: of the task.
    """

    limits = SAME_WEIGHTS
    size: Size | None = None
    multiple = COARSEST  # smp refuses other sizes, which this toolkit pads

    def __init__(self, output: Output) -> None:
        self.output = output

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write weights, config and card, with adapters merged into the weights."""
        saved.model.merge_adapters()
        network = smp_model(saved.segmenter)
        facts = metadata(saved, self.output, self.size, "float32", "logits")
        facts |= {name: getattr(saved.model, name).flatten().tolist() for name in ("mean", "std")}
        answer, names = "The class of a pixel is `logits.argmax(1)`.", ", ".join(facts["classes"])
        if "thresholds" in facts["task"]:
            answer = f"A pixel has the classes whose `logits.sigmoid()` exceeds {facts['task']['thresholds']}."
        card = front_matter(saved.model.config(), "segmentation-models-pytorch")
        card += CARD.format(**facts, answer=answer, names=names)
        # or smp writes one that licenses the weights as its own code
        (folder / "README.md").write_text(card, encoding="utf-8")
        network.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "_finetune": facts}, indent=2))
        return sorted(folder.iterdir())

    def expected(self, saved: SavedModel, images: Tensor) -> Outputs:
        """Return the logits."""
        return {"logits": saved.model(saved.model.normalize(images))}

    def load(self, folder: Path) -> Callable[[Tensor], Outputs]:
        """Return the model that smp builds from the folder, after the normalization in its config."""
        network = smp.from_pretrained(str(folder)).eval()
        facts = json.loads((folder / "config.json").read_text())["_finetune"]
        mean, std = (torch.tensor(facts[name]).view(1, -1, 1, 1) for name in ("mean", "std"))

        def compute(images: Tensor) -> Outputs:
            return {"logits": network(images.to(mean.dtype).sub(mean).div(std))}

        return compute

    def usage(self, folder: Path) -> str:
        """Return the line of code that loads the model."""
        return f'segmentation_models_pytorch.from_pretrained("{folder}")'


def smp_model(model: Segmenter) -> Any:
    """Return smp's model with the same weights; those of training losses and of the backbone's classifier are left out.

    Raises:
        ValueError: smp has no such model.
    """
    arguments = smp_arguments(model)
    network = MODELS[model.config()["head"]](**arguments)
    decoder, head = model.decoder, model.head
    parts: Mapping[str, Any] = {"encoder_model": model.backbone.model, "decoder": decoder, "segmentation_head": head}
    state = {f"{part}.{name}": each for part in parts for name, each in parts[part].state_dict().items()}
    weights = {name.replace(".", "_"): each for name, each in state.items()}  # timm may join `stages.0` to `stages_0`
    names = {name: name.replace(".", "_") for name in network.state_dict()}
    if missing := [name for name, ours in names.items() if ours not in weights]:
        raise ValueError(f"smp's model has weights that this one lacks, such as {missing[0]}")
    network.load_state_dict({name: weights[ours] for name, ours in names.items()})
    return network


def smp_arguments(model: Segmenter) -> dict[str, Any]:
    """Return the arguments of smp's model.

    Raises:
        ValueError: smp has no such head, or none with such an option or step around it.
    """
    config = model.config()
    if (head := config["head"]) not in MODELS:
        raise ValueError(f"smp computes what these heads do: {', '.join(MODELS)}")
    known, options = (
        inspect.signature(MODELS[head].__init__).parameters,
        inspect.signature(HEADS[head].build).parameters,
    )
    arguments, unknown = {}, [f"{name}={config[name]}" for name, plain in PLAIN.items() if config[name] != plain]
    for name, value in config["head_options"].items():
        theirs = next((full for prefix in PREFIXES if (full := prefix + RENAMED.get(name, name)) in known), None)
        if theirs is not None:
            arguments[theirs] = value
        elif name not in TRAINING_ONLY and value != options[name].default:
            unknown.append(f"head.{name}={value}")
    stride = config["output_stride"] or HEADS[head].output_stride
    if "encoder_output_stride" in known:
        arguments["encoder_output_stride"] = stride
        unknown += ["a backbone that cannot be dilated"] if stride < model.neck.strides[-1] else []
    elif stride != COARSEST:
        unknown.append(f"backbone.output_stride={stride}")
    if model.backbone.input_size.only is not None:
        unknown.append("a backbone of one image size")
    if unknown:
        raise ValueError(f"smp has no model of this head with {', '.join(unknown)}; train a model without to export it")
    backbone = {name: value for name, value in config["backbone_options"].items() if name != "num_classes"}
    fixed = {"encoder_name": f"tu-{config['backbone']}", "encoder_weights": None, "in_channels": config["in_channels"]}
    return {**fixed, "classes": model.classes, **arguments, **backbone}
