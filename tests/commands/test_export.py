"""The command `export`: what the files hold of a run."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import finetune
from finetune.models import Segmenter

pytestmark = pytest.mark.usefixtures("folder")


def test_an_export_of_a_checkpoint_holds_what_its_run_knows_of_the_data() -> None:
    run, checkpoint = Path("run"), Path("run/checkpoints/best.ckpt")
    checkpoint.parent.mkdir(parents=True)
    model = Segmenter("test_resnet.r160_in1k", "linear", 2, weights="none")
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"model_config": model.config(), "state_dict": state, "task": {"name": "semantic"}}, checkpoint)
    data = {"root": "photos", "value_range": [32, 1456], "ignore_index": 7, "mask_values": None, "snap": False}
    (run / "config.yaml").write_text(yaml.safe_dump({"output": "run", "data": data}))
    (run / "env.json").write_text("{}")
    finetune.export(f"run={checkpoint}", "format=safetensors", "output=out")
    saved = json.loads(Path("out/config.json").read_text())["data"]
    assert saved == {"value_range": [32, 1456], "ignore_index": 7, "mask_values": None, "snap": False}
