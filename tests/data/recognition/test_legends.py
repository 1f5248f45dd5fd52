import pytest

from finetune.data.recognition.legends import find_legends, read_legend


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "class_dict.csv",
            "name,r,g,b\nSky, 128,128,128\nRoad,128,64,128\nVoid,0,0,0\n",
            ({"#808080": "Sky", "#804080": "Road"}, ("#000000",)),
        ),
        ("legend.csv", "class;color\nsoil;#000000\ncrop;00ff00\n", ({"#000000": "soil", "#00ff00": "crop"}, ())),
        ("labels.csv", "id,label\n0,background\n7,road\n255,unlabelled\n", ({0: "background", 7: "road"}, (255,))),
        ("objectInfo.txt", "Idx\tRatio\tName\n1\t0.2\twall\n2\t0.1\tsky\n", ({1: "wall", 2: "sky"}, ())),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:48,112,32::\n",
            ({"#000000": "background", "#307020": "cat"}, ()),
        ),
        ("classes.txt", "soil\ncrop\n\nweed\n", ({0: "soil", 1: "crop", 2: "weed"}, ())),
        ("classes.txt", "soil\ncrop\nvoid\n", ({0: "soil", 1: "crop"}, (2,))),
        ("labels.txt", "0 background\n1: road\n7, car\n", ({0: "background", 1: "road", 7: "car"}, ())),
        ("label_colors.txt", "128 0 0\t\troad\n0 128 64\tsky\n", ({"#800000": "road", "#008040": "sky"}, ())),
        ("meta.json", '{"classes": ["a", "b", "c"], "ignore_index": 0}', ({1: "b", 2: "c"}, (0,))),
        ("meta.json", '{"classes": {"a": 1, "b": 2}, "ignore_index": 0}', ({1: "a", 2: "b"}, (0,))),
        ("meta.json", '{"classes": ["a", "b"], "ignore_index": 0}', ({0: "a", 1: "b"}, ())),
        ("meta.json", '{"classes": ["a", "b"], "ignore_index": 255}', ({0: "a", 1: "b"}, (255,))),
        ("classes.json", '{"road": [255, 0, 255], "sky": "#0000ff"}', ({"#ff00ff": "road", "#0000ff": "sky"}, ())),
        ("label_colors.json", '[{"name": "a", "id": 3}, {"name": "b", "id": 4}]', ({3: "a", 4: "b"}, ())),
    ],
)
def test_the_usual_files_name_classes(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    (legend,) = find_legends(tmp_path)
    assert (legend.by_value, legend.ignored) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "image,mask\na.png,b.png\nc.png,d.png\n"),  # a table of files
        ("classes.txt", "images/a.png\nimages/b.png\n"),  # a list of files
        ("classes.txt", "one"),
        ("legend.csv", "name,r,g,b\nsky,0,0,300\nroad,1,2,3\n"),
        ("legend.csv", "name,r,g,b\nsky,0,0,3\nroad,0,0,3\n"),  # which of the two?
        ("legend.csv", "name,r,g,b\nsky,0,0,3\nsky,0,0,4\n"),
        ("legend.csv", "name,value\nsky\nroad,1\n"),
        ("meta.json", '{"classes": 3}'),
        ("meta.json", '{"labels": "cats"}'),
        ("meta.json", "[1, 2"),
        ("meta.json", '{"classes": [["a"], ["b"]]}'),
        ("meta.json", '[{"name": "a"}, {"name": "b"}]'),
        ("classes.json", "[" * 50_000),
        ("classes.json", "[[1, 2], [3, 4]]"),
        ("classes.json", '{"": 0, "road": 1}'),
        ("legend.csv", "name,value\nsky" + "y" * 200_000 + ",0\nroad,1\n"),
        ("classes.txt", "\0\1\2"),
        ("readme.md", "name,r,g,b"),
    ],
)
def test_files_about_something_else_are_passed_over(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert find_legends(tmp_path) == []


def test_a_file_that_is_no_text_and_a_huge_one_are_passed_over(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00name")
    (tmp_path / "classes.txt").write_bytes(b"a\nb\n" * 300_000)
    assert find_legends(tmp_path) == []
    assert read_legend(tmp_path / "labels.csv") is None
