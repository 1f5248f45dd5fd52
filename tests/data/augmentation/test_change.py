import torch

from finetune.data.augmentation.change import to_byte


def test_numbers_become_the_nearest_byte():
    numbers = torch.tensor([-1e6, -0.6, 0.4, 0.6, 127.5, 128.5, 254.6, 255.4, 300.0, 1e6])
    assert to_byte(numbers).tolist() == [0, 0, 0, 1, 128, 128, 255, 255, 255, 255]
    assert to_byte(torch.tensor([3], dtype=torch.uint8)).tolist() == [3]
