"""Steps of a model of objects on several ranks."""

import torch
from torch.nn.parallel import DistributedDataParallel

from finetune.instances import Objects, objects_of
from finetune.models.instance_segmenter import InstanceSegmenter
from tests.instance_samples import drawn_objects


class Losses(torch.nn.Module):
    """The sum of a model's losses as its forward pass, which DDP prepares gradients for."""

    def __init__(self, model: InstanceSegmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, targets: list[Objects]) -> torch.Tensor:
        return torch.stack(list(self.model.losses(images, targets).values())).sum()


def train_with_empty_images(head: str) -> dict[str, torch.Tensor]:
    """Train three steps: nothing on any rank, objects on the first rank only, nothing again; return the weights."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    torch.manual_seed(0)
    model = InstanceSegmenter("test_resnet.r160_in1k", head, 2, weights="none", head_options={"channels": 16})
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name not in model.unused_parameters()
    wrapped = DistributedDataParallel(Losses(model.train()))  # without find_unused_parameters
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    empty = objects_of(torch.zeros(0, 64, 64, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    ((image, objects),) = drawn_objects(1, 64, seed=rank)
    for target in (empty, objects if rank == 0 else empty, empty):
        loss = wrapped(model.normalize(image[None]), [target])
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimizer.step()
    torch.distributed.destroy_process_group()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
