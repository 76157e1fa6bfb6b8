from __future__ import annotations

from training.reports.certainty import certainty_rows

HELD_OUT = {"held_out": {"accuracy": 0.85, "images": 20}}


def test_few_held_out_images_say_little() -> None:
    """Wilson's interval of 17 of 20."""
    assert certainty_rows(HELD_OUT) == [
        ("this model, on held-out images", "20", "85.0%", "64.0% to 94.8%")
    ]


def test_a_fitted_head_adds_what_cross_validation_says() -> None:
    folds = [{"right": 9, "images": 10}, {"right": 6, "images": 10}]
    head = {"images": 1000, "leave_one_out_right": 900, "folds": folds}
    _, left_out, in_folds = certainty_rows(HELD_OUT | {"head": head})
    assert left_out[1:] == ("1,000", "90.0%", "88.0% to 91.7%")
    assert in_folds[0] == "the same, 2 folds of 60.0% to 90.0%"
    assert in_folds[1:3] == ("20", "75.0%")
    assert len(certainty_rows(HELD_OUT | {"head": head | {"folds": []}})) == 2
