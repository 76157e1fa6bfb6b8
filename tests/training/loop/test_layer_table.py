from __future__ import annotations

from training.loop.layer_table import LayerRow, layer_table


def test_lines_and_totals() -> None:
    text = layer_table(
        [
            LayerRow("features.0", 1000, None, None),
            LayerRow("features.34", 2000, 3, 1e-5),
            LayerRow("classifier.6", 10, 1, 1e-3),
        ]
    )
    lines = [line.split() for line in text.splitlines()]
    assert lines == [
        ["layer", "parameters", "trains", "learning", "rate"],
        ["features.0", "1,000", "no", "-"],
        ["features.34", "2,000", "from", "epoch", "3", "1e-05"],
        ["classifier.6", "10", "yes", "0.001"],
        ["total", "3,010", "10", "train,", "2,010", "in", "the", "end"],
    ]
    assert len({line.rstrip()[:27] for line in text.splitlines()}) == 5


def rows(*values: tuple[str, int | None, float | None]) -> list[LayerRow]:
    return [LayerRow(name, 10, first, rate) for name, first, rate in values]


def test_neighbours_that_train_alike_are_one_line() -> None:
    text = layer_table(
        rows(
            *((f"features.{index}", None, None) for index in range(6)),
            *((f"features.{index}", 2, 1e-6 * index) for index in range(6, 10)),
            ("features.10", 1, 1e-5),
            *((f"classifier.{index}", 1, 1e-4) for index in range(3)),
        ),
        folded=True,
    )
    assert [line.split("  ")[0] for line in text.splitlines()[1:]] == [
        "features.0 to 5", "features.6 to 9", "features.10",
        "classifier.0", "classifier.1", "classifier.2", "total",
    ]  # fmt: skip
    assert "40  from epoch 2   6e-06 - 9e-06" in text
    assert "60  no" in text
    assert max(map(len, text.splitlines())) <= 80


def test_vgg19_is_four_lines_of_80_columns() -> None:
    names = [*(f"features.{index}" for index in range(16)), *(f"classifier.{i}" for i in (0, 3, 6))]
    text = layer_table([LayerRow(name, 102_764_544, 1, 1e-4) for name in names], folded=True)
    assert len(text.splitlines()) == 1 + 1 + 3 + 1
    assert max(map(len, text.splitlines())) <= 80
