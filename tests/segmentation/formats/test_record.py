from __future__ import annotations

from regard.segmentation.formats.record import class_names


def test_known_classes_come_first_in_their_order() -> None:
    assert class_names(["cat", "dog"], ("dog", "cat", "boat")) == ("dog", "cat", "boat")
    assert class_names(["elk", "ant", "dog"], ("dog",)) == ("dog", "ant", "elk")


def test_masks_without_a_name_are_objects_and_come_last() -> None:
    assert class_names(["", "zebra"]) == ("zebra", "object")
    assert class_names([""]) == ("object",)
    assert class_names([]) == ("object",)
    assert class_names(["object", "a"], ("object",)) == ("object", "a")
