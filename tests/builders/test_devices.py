"""The number of loading processes, from the cores and devices of a machine."""

from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune.builders import devices
from finetune.builders.checks.training import check
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from tests.samples import SYNTHETIC, TINY, draw_folder

Usage = namedtuple("Usage", "total used free")
GPU = {"accelerator": "auto", "devices": 1}


@pytest.mark.parametrize(
    ("cores", "gpus", "settings", "expected"),
    [
        (16, 0, GPU, 0),
        (16, 1, {"accelerator": "cpu", "devices": 1}, 0),
        (16, 1, GPU, 8),
        (4, 1, GPU, 3),
        (2, 1, GPU, 1),
        (1, 1, GPU, 1),
        (16, 4, {"accelerator": "gpu", "devices": 4}, 3),
        (16, 8, {"accelerator": "gpu", "devices": "auto", "num_nodes": 2}, 1),
    ],
)
def test_each_gpu_gets_the_cores_but_one_and_a_cpu_nothing(
    cores: int, gpus: int, settings: dict[str, object], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(devices, "cores", lambda: cores)
    monkeypatch.setattr(devices, "_shared_memory", lambda: 2e9)
    assert devices.resolve_workers("auto", settings) == expected
    assert devices.resolve_workers(5, settings) == 5


def test_what_the_machine_decides_is_said_with_its_reason_and_what_is_given_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "_cpu_computes_bf16", lambda: True)
    config, lines = devices.decide_for_machine(load_config([*SYNTHETIC, "trainer.precision=auto"], "train"))
    assert (config["trainer"]["precision"], config["data"]["num_workers"]) == ("bf16-mixed", 0)
    assert lines == [
        "trainer.precision=bf16-mixed: this CPU multiplies bfloat16 matrices faster",
        "data.num_workers=0: a training on the CPU computes on all of its cores",
    ]
    given = load_config([*SYNTHETIC, "trainer.precision=64-true", "data.num_workers=3"], "train")
    assert devices.decide_for_machine(given) == (given, [])


def test_a_container_with_little_shared_memory_loads_in_the_training_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "runs_on_cpu", lambda _: False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(2**26, 0, 2**26))
    monkeypatch.setattr("os.path.isdir", lambda _: True)
    assert devices.resolve_workers("auto", GPU) == 0


def test_auto_is_a_number_once_a_config_is_checked() -> None:
    assert load_config(SYNTHETIC, "train")["data"]["num_workers"] == "auto"
    config, _ = check(load_config(SYNTHETIC, "train"))
    assert config["data"]["num_workers"] == 0
    with pytest.raises(ConfigError, match=r"data\.num_workers=many: expected a whole number or auto"):
        check(load_config([*SYNTHETIC, "data.num_workers=many"], "train"))


@pytest.mark.parametrize(
    ("tiles", "avx512_bf16", "amd", "expected"),
    [
        (True, True, False, "bf16-mixed"),
        (False, True, True, "bf16-mixed"),
        (False, True, False, "32-true"),
        (False, False, True, "32-true"),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_if_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, tiles: bool, avx512_bf16: bool, amd: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(devices, "_is_amd", lambda: amd)
    assert devices.resolve_precision({"precision": "auto", "accelerator": "auto"}) == expected
    assert devices.resolve_precision({"precision": "16-mixed", "accelerator": "auto"}) == "16-mixed"


def test_files_are_read_on_all_cores_although_a_training_on_a_cpu_loads_in_its_own_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = []

    def noted(function: Any, items: Any, processes: int | None = None) -> Any:
        asked.append(processes)
        return map(function, items)

    monkeypatch.setattr("finetune.data.caching.facts.each_result", noted)
    data = ("data=folder", "data.classes=3", f"data.root={draw_folder(tmp_path)}")
    config, _ = check(load_config([*TINY, *data], "train"))
    assert config["data"]["num_workers"] == 0
    assert asked == [1, None]  # for the whole collection, then for its files


def test_memory_is_that_of_the_gpu_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [8, 80]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(total_memory=sizes[gpu]))
    monkeypatch.setattr(torch.cuda, "device", lambda gpu: f"as {gpu}")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for given, expected in (([1], 80), ("1,0", 80), (1, 8), ("auto", 8), ([7], 8)):
        config = {"trainer": {"accelerator": "gpu", "devices": given}}
        assert devices.device_memory(config) == expected
        assert devices.on_training_device(config) == f"as {sizes.index(expected)}"
