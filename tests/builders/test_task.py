import pytest
import torch

from finetune.builders.dummy_step import noise_step
from finetune.builders.task import task_without_weights
from finetune.config.compose import load_config
from tests.samples import MODEL


@pytest.mark.parametrize(
    "data", ["data=cityscapes", "data=auto", "data.ignore_index=[3,255]", "data.ignore_index='#ffffff'"]
)
def test_a_step_on_random_data_trains_however_the_data_names_its_ignored_pixels(data: str) -> None:
    config = load_config([*MODEL, "data=folder", data, "data.root=images", "output=run"], "train")
    task = task_without_weights(config, ["sky", "sea"])
    before = {name: parameter.clone() for name, parameter in task.model.head.named_parameters()}
    noise_step(config, task, (2, 3, 32, 32))()
    assert not any(torch.equal(parameter, before[name]) for name, parameter in task.model.head.named_parameters())
