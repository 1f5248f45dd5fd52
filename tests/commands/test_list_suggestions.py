"""`finetune list backbones for=...`."""

import pytest

from finetune.catalog.backbones import entries
from finetune.catalog.suggestions import DEVICES, measured
from finetune.commands.list_models import list_models
from finetune.commands.list_suggestions import list_suggestions
from finetune.config.errors import ConfigError
from tests.samples import exit_code


@pytest.mark.parametrize("name", DEVICES)
def test_every_suggestion_has_a_reason_of_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = list_suggestions(name, entries())
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["backbone", "parameters", "license", "reason"]
    assert [row.split()[0] for row in rows[:-2]] == chosen
    assert rows[0].endswith(("the least time of these", "the least computation of these"))
    assert all(" x the " in row for row in rows[1:-2])
    assert all(("not measured on a GPU" in row) == (name == "gpu") for row in rows[:-2])
    assert rows[-2].startswith(f"{len(chosen)} of {len(measured())} measured backbones, up to")
    assert "without a download: backbone=efficientnet_lite0 (" in rows[-1]


def test_a_suggestion_passes_the_other_filters(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("list", "backbones", "for=cpu", "license=mit") == 0
    rows = capsys.readouterr().out.splitlines()[1:-1]
    assert rows
    assert all(" mit " in row for row in rows)
    assert list_models("for=cpu", "name=efficientnet_*", "parameters=6") == ["efficientnet_b0"]
    assert list_models("for=cpu", "name=beit*") == []
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"0 of {len(measured())} measured backbones")


@pytest.mark.parametrize("value", ["tpu", "[cpu]", "1"])
def test_another_device_is_refused_with_the_three(value: str) -> None:
    with pytest.raises(ConfigError, match=r"for=.*: expected cpu, laptop, gpu"):
        list_models(f"for={value}")


def test_heads_are_not_suggested_for_a_device() -> None:
    with pytest.raises(ConfigError, match="for filters backbones only"):
        list_models("what=heads", "for=cpu")
