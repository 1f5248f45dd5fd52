"""Overrides with spaces, brackets, umlauts and signs: read as meant, and printed so that they can be pasted."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import finetune
from finetune.config.compose import compose, load_config
from finetune.config.errors import ConfigError
from finetune.config.overrides import override, readable, rejoined, typed
from tests.samples import TINY

pytestmark = pytest.mark.usefixtures("without_figures")

NAMES = [
    "data (1)",
    "Fotos/Bäume",
    "a=b",
    "a#b",
    "it's",
    'say "x"',
    "日本",
    "a;b&c!d~e",
    "p[0-3].png",
    "a, b",
    "back\\slash",
]


def parsed(text: str) -> object:
    return OverridesParser.create().parse_override(text).value()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("a, b", "back\\slash")])
def test_a_path_is_read_as_typed(name: str) -> None:
    assert compose("data=folder", f"data.root={name}").data.root == name


@pytest.mark.parametrize("name", [*NAMES, "2024", "nan", "null", "true", "1e3", "runs/a", "x ", "${x}'"])
def test_a_printed_setting_can_be_pasted_into_a_shell(name: str) -> None:
    (word,) = shlex.split(typed("run", name))
    assert parsed(readable(word)) == name
    assert parsed(override("run", name)) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data.classes=[Hintergrund,Straße]", ["Hintergrund", "Straße"]),
        ("data.classes=[a b, c (d), e=f #1]", ["a b", "c (d)", "e=f #1"]),
        ("+x=[1,2.5,ä]", [1, 2.5, "ä"]),
        ("data.mask_values=[#000000,[#ff0000, #00ff00]]", ["#000000", ["#ff0000", "#00ff00"]]),
        ("data.classes={road:#ff00ff,rest: *}", {"road": "#ff00ff", "rest": "*"}),
        ("data.classes={road: [#ff00ff, 'a b'], car: 7}", {"road": ["#ff00ff", "a b"], "car": 7}),
        ("data.masks={stem}/masks/{object}", "{stem}/masks/{object}"),
    ],
)
def test_the_elements_of_a_list_or_mapping_are_read_as_typed(text: str, expected: list[object]) -> None:
    assert parsed(readable(text)) == expected


@pytest.mark.parametrize(
    "text", ["seed=3", "x=[a,'b c']", "x=choice(1,2", "x=[1,2", "x={a:1", "--config-dir=ä (1)", "~x", "ä", "k (1)=2"]
)
def test_what_hydra_reads_or_no_quoting_helps_stays_as_it_is(text: str) -> None:
    assert readable(text) == text


@pytest.mark.parametrize("key", ["output", "name", "resume", "init_from", "data.root"])
@pytest.mark.parametrize("value", ["2024", "nan", "1e3"])
def test_a_path_that_hydra_reads_as_a_number_is_refused_with_its_quotes(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key} was read as .*, which is no text. Quote .* twice: '{key}="):
        load_config([f"{key}={value}"], "train")


@pytest.mark.parametrize("override", ["optimizer.lr=1e-3)", "trainer.devices=1;", "seed=1)"])
def test_a_mistyped_number_is_still_refused(override: str, folder: Path) -> None:
    with pytest.raises(ConfigError):
        finetune.train(*TINY, "data=synthetic", override)


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        ("data.mask_values=['#000000','#ff0000']", ["#000000", "#ff0000"]),
        ('data.mask_values=["#000000",["#ff0000","#00ff00"]]', ["#000000", ["#ff0000", "#00ff00"]]),
        ('data.classes={road: "#ff00ff"}', {"road": "#ff00ff"}),
        ("data.classes={background: 0, object: '*'}", {"background": 0, "object": "*"}),
        ('data.classes={road: "#ff00ff", car: [1, 2], rest: "*"}', {"road": "#ff00ff", "car": [1, 2], "rest": "*"}),
        ("data.classes=[blue sky,road]", ["blue sky", "road"]),
    ],
)
def test_lists_and_mappings_are_read_after_a_shell_took_their_quotes_and_cut_them(line: str, setting: object) -> None:
    words = rejoined([*shlex.split(line), "seed=1"])
    assert words[1:] == ["seed=1"]
    assert parsed(readable(words[0])) == setting
