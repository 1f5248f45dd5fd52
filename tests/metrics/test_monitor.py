"""The direction of a monitored score: from its name, or given where the name does not tell."""

import pytest

from finetune.metrics.monitor import monitor_mode


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [
        ("val/iou", "max"),
        ("val/iou/loss of hair", "max"),  # the name of a class says nothing
        ("val/pixel_accuracy", "max"),
        ("val/loss", "min"),
        ("train/loss", "min"),
        ("val_loss", "min"),
        ("val_iou", "max"),
        ("train_loss_epoch", "min"),
    ],
)
def test_the_direction_follows_from_the_score(monitor: str, expected: str) -> None:
    assert monitor_mode(monitor) == expected
    assert monitor_mode(monitor, expected) == expected
    other = {"max": "min", "min": "max"}[expected]
    with pytest.raises(ValueError, match=f"mode={other}: a .*er {monitor} is not better. Set .*={expected}"):
        monitor_mode(monitor, other, "checkpoint.mode")


def test_a_score_without_a_known_direction_needs_the_mode() -> None:
    assert (monitor_mode("val/distance", "min"), monitor_mode("val/hits", "max")) == ("min", "max")
    with pytest.raises(ValueError, match=r"is a higher val/distance better\? Set mode=max if it is, or mode=min"):
        monitor_mode("val/distance")


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode=up: choose auto, max"):
        monitor_mode("val/iou", "up")
