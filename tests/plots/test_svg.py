"""Histograms as SVG."""

from xml.etree import ElementTree

from finetune.plots.svg import HEIGHT, histogram

SVG = "{http://www.w3.org/2000/svg}"


def test_each_bar_is_as_high_as_its_count() -> None:
    svg = ElementTree.fromstring(histogram([0, 0, 0, 0, 9, 10], "size <px>", bins=10))
    bars = svg.findall(f"{SVG}rect")
    # 10 is in the last range, with 9
    assert [float(bar.attrib["height"]) for bar in bars] == [HEIGHT, HEIGHT / 2]
    assert [bar.find(f"{SVG}title").text for bar in bars] == ["0 to 1: 4", "9 to 10: 2"]
    assert [text.text for text in svg.findall(f"{SVG}text")] == ["0", "10", "size <px>"]


def test_equal_values_are_one_bar_in_the_middle() -> None:
    svg = ElementTree.fromstring(histogram([5.0, 5.0], "size", bins=4))
    (bar,) = svg.findall(f"{SVG}rect")
    assert bar.find(f"{SVG}title").text == "5 to 5.5: 2"


def test_values_beyond_given_limits_are_in_the_outer_bars() -> None:
    svg = ElementTree.fromstring(histogram([-5, 300], "brightness", bins=2, limits=(0, 255)))
    assert [bar.find(f"{SVG}title").text[-1] for bar in svg.findall(f"{SVG}rect")] == ["1", "1"]
