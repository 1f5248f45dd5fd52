import torch

from finetune.data.synthetic.drawing import CLASS_NAMES, draw


def test_every_class_is_drawn_about_equally_often_and_none_is_rare():
    counts = sum(torch.bincount(draw(64, index=index)[1].flatten(), minlength=len(CLASS_NAMES)) for index in range(150))
    fractions = counts / counts.sum()
    assert len(fractions) == len(CLASS_NAMES)
    assert 0.5 < fractions[0] < 0.85
    assert fractions[1:].min() > 0.02


def test_color_does_not_tell_the_class():
    means = {label: [] for label in range(len(CLASS_NAMES))}
    for index in range(200):
        image, mask = draw(48, index=index)
        for label in mask.unique().tolist():
            means[label].append(image[:, mask == label].float().mean(1))
    centers = torch.stack([torch.stack(values).mean(0) for values in means.values()])
    spread = torch.cat([torch.stack(values) for values in means.values()]).std(0)
    assert ((centers - centers.mean(0)).abs() < 0.5 * spread).all()
