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
