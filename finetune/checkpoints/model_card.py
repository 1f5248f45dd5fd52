"""The card of a finished model: `README.md`, whose front matter the Hugging Face hub reads."""

import math
from collections.abc import Mapping
from typing import Any

import yaml

from finetune.models import INSTANCE_HEADS, TunableModel

# licenses of timm's weights that the hub knows by name: https://huggingface.co/docs/hub/repositories-licenses
LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "apple-ascl", "apple-amlr", "gemma")
UNKNOWN = "unknown"
# what a model does, what it returns, and its headline score
PIXELS = (
    "Segments images into",
    "masks",
    "`iou` is computed over the full data set and averaged over the classes present.",
)
OBJECTS = (
    "Finds the objects of",
    "objects",
    "`mask_ap` is COCO's average precision of masks, over the full data set, averaged over the classes with objects.",
)


def front_matter(config: Mapping[str, Any], library: str, task: str = "image-segmentation") -> str:
    """Return the YAML at the top of a card: license of the pretrained weights, library, task, tags and base model.

    Args:
        config: of the model.
        library: that loads the model, in the hub's names.
        task: of the model, in the hub's names.
    """
    name, base = config["weights_license"], config.get("base_model")
    known = {"license": name} if name in (*LICENSES, UNKNOWN) else {"license": "other", "license_name": name}
    kind = "instance" if config["head"] in INSTANCE_HEADS else "semantic"
    facts = {**known, "library_name": library, "pipeline_tag": task, "tags": ["timm", f"{kind}-segmentation"]}
    return f"---\n{yaml.safe_dump({**facts, **({'base_model': base} if base else {})}, sort_keys=False)}---\n"


def model_card(model: TunableModel, scores: Mapping[str, float], task: Mapping[str, Any], place: str) -> str:
    """Return the card of a model in this toolkit's own format.

    Args:
        model: the model.
        scores: name -> value.
        task: plain data, from the task's `config()`.
        place: path or address that it is loaded from.
    """
    config = model.config()
    lines = [f"- {name}: {value:.4f}" for name, value in scores.items() if not math.isnan(value)]
    options = "".join(f", {key}: {value}" for key, value in task.items() if key != "name")
    does, result, about = OBJECTS if config["head"] in INSTANCE_HEADS else PIXELS
    names = model.class_names
    return front_matter(config, "finetune-seg") + "\n".join(
        [
            f"# {config['backbone']} with a {config['head']} head",
            "",
            f"{does} {len(names)} class{'es' * (len(names) > 1)}: {', '.join(names)}.",
            "",
            f"Task: {task['name']}{options}.",
            "",
            "## Use",
            "```python",
            "import finetune",
            f'{result} = finetune.load("{place}").predict("photos/")',
            "```",
            "",
            "## Scores",
            about,
            "",
            *(lines or ["not evaluated"]),
            "",
            "## Limits",
            "It was fine-tuned on one data set; how well it does on other images has not been measured.",
            f"The backbone's pretrained weights have the license: {config['weights_license']}.",
            "",
        ]
    )
