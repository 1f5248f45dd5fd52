import pytest

from finetune.data import DataError
from finetune.data.polygons.class_map import class_map, default_names

LABELS = ["leaf", "stem", "stone"]


@pytest.mark.parametrize(
    ("labels", "classes", "names", "values", "background"),
    [
        (LABELS, None, "background leaf stem stone", {"leaf": 1, "stem": 2, "stone": 3}, 0),
        (LABELS, 4, "background leaf stem stone", {"leaf": 1, "stem": 2, "stone": 3}, 0),
        ([], None, "background", {}, 0),
        (["leaf", "Background"], None, "Background leaf", {"Background": 0, "leaf": 1}, 0),
        (["_background_", "leaf"], None, "_background_ leaf", {"_background_": 0, "leaf": 1}, 0),
        (LABELS, ["stone", "leaf"], "background stone leaf", {"stone": 1, "leaf": 2}, 0),
        (LABELS, ["background", "stone"], "background stone", {"stone": 1}, 0),
        (LABELS, ["stone", "BACKGROUND"], "stone BACKGROUND", {"stone": 0}, 1),
        (LABELS, ["stone", "soil", "leaf"], "stone soil leaf", {"stone": 0, "leaf": 2}, 1),
        (["leaf", "Background"], ["background", "leaf"], "background leaf", {"Background": 0, "leaf": 1}, 0),
        (["leaf", "Background"], ["soil", "leaf"], "soil leaf", {"Background": 0, "leaf": 1}, 0),
        (LABELS, {"plant": ["leaf", "stem"]}, "background plant", {"leaf": 1, "stem": 1}, 0),
        (LABELS, {"plant": "leaf", "rock": "stone"}, "background plant rock", {"leaf": 1, "stone": 2}, 0),
        (LABELS, {"rock": ["stone"], "rest": []}, "rock rest", {"stone": 0}, 1),
        (LABELS, {"rock": "stone", "rest": None}, "rock rest", {"stone": 0}, 1),
        (LABELS, {"background": "stem", "rock": "stone"}, "background rock", {"stem": 0, "stone": 1}, 0),
        (LABELS, {"background": [], "rock": "stone", "sky": []}, "background rock sky", {"stone": 1}, 0),
        (["1", "2"], {"one": 1, "both": [2]}, "background one both", {"1": 1, "2": 2}, 0),
    ],
)
def test_labels_become_classes(labels, classes, names, values, background):
    found = class_map(labels, classes)
    assert " ".join(found.names) == names
    assert found.values == values
    assert found.background == background


def test_the_classes_of_a_model_are_found_again_by_their_names():
    for labels in (LABELS, ["leaf", "Background"], ["void", "leaf"]):
        first = class_map(labels)
        assert class_map(labels, list(first.names)) == first


def test_ignored_labels_are_no_classes_and_get_the_ignored_value():
    found = class_map(LABELS, ignored=["stem"], ignore_index=9)
    assert found.names == ("background", "leaf", "stone")
    assert found.values == {"leaf": 1, "stone": 2, "stem": 9}
    assert class_map(["void", "leaf"]).names == ("background", "void", "leaf")  # no name is special


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (3, "data.classes=3, but 'data' has 4 classes: background, leaf, stem, stone. Leave data.classes out"),
        ("leaf", r"data.classes=leaf: expected a list of names such as [background,leaf]."),
        (["leaf", "leaf"], "data.classes has leaf more than once"),
        (["background", "leav"], "data.classes names leav, but 'data' has no such label. 'leav': Did you mean leaf?"),
        (
            ["leav", "ston", "stem"],
            "names leav, ston, but 'data' has no such label. 'leav': Did you mean leaf?; 'ston':",
        ),
        ({"plant": ["leaf", "steem"]}, "names steem, but 'data' has no such label. 'steem': Did you mean stem"),
        ({"plant": "leaf", "rock": ["leaf"]}, "data.classes has the label leaf in two classes"),
        ({"plant": {"leaf": 1}}, "data.classes has plant: {'leaf': 1}; expected a label, or a list of labels"),
        ({"plant": ["leaf", None]}, "expected a label, or a list of labels"),
        (["background", "sky"], "A class of other labels is {NAME: [LABEL, ...]}, one without {NAME: []}."),
    ],
)
def test_classes_that_do_not_fit_the_labels_are_refused(classes, text):
    with pytest.raises(DataError) as error:
        class_map(LABELS, classes, place="'data'")
    assert text in str(error.value)


def test_ignored_labels_that_do_not_exist_are_refused():
    with pytest.raises(
        DataError, match=r"data\.ignored names viod, but 'data' has no such label. 'viod': Did you mean v"
    ):
        class_map(["void", "leaf"], ignored=["viod"], place="'data'")


def test_more_classes_than_an_eight_bit_mask_can_hold_are_refused():
    labels = [str(number) for number in range(255)]
    assert len(class_map(labels[:254]).names) == 255
    with pytest.raises(DataError, match="'data' has 256 classes with the background; at most 255 fit"):
        class_map(labels, place="'data'")
    assert class_map(labels, ["7", "200"]).values == {"7": 1, "200": 2}


def test_the_background_comes_first_in_the_default_names():
    assert default_names(["stone", "leaf"]) == ["background", "stone", "leaf"]
    assert default_names(["stone", "BackGround", "leaf"]) == ["BackGround", "stone", "leaf"]
