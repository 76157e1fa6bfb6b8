from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models.bundle.bundle import REFERENCE_FILE, open_bundle
from models.bundle.writer import write_manifest
from models.errors import BundleError
from models.monitoring.features import ImageMeasures, Layout, measured
from models.monitoring.influence import most_influential
from models.monitoring.reference import Reference, read_reference
from models.monitoring.summary import OTHER, summarise
from models.monitoring.watch import MOST_TESTED, Rules, Watch
from testing.bundles import provenance, tiny_spec

LABELS = tiny_spec().labels
LAYOUT = Layout.of(LABELS)
RNG = np.random.default_rng(0)


def rows(
    count: int, brightness: float = 100.0, labels: tuple[float, ...] = (1, 1, 1)
) -> np.ndarray:
    shares = np.array(labels) / sum(labels)
    return np.array(
        [
            measured(
                ImageMeasures(RNG.normal(brightness, 20), RNG.normal(50, 5), 1.5, 0.2, 0),
                RNG.uniform(0.5, 1), None, int(RNG.choice(len(shares), p=shares)), accepted=True,
            )
            for _ in range(count)
        ]
    )  # fmt: skip


KNOWN = rows(300)


def watch(rules: Rules | None = None, labels: tuple[str, ...] = LABELS) -> Watch:
    reference = KNOWN if labels == LABELS else rows(300, labels=(1,) * len(labels))
    return Watch(
        Reference.of_rows(reference, labels),
        labels,
        100,
        rules or Rules(),
        np.random.default_rng(1),
    )


def add(one: Watch, found: np.ndarray, now: float = 0.0) -> None:
    one.add(one.layout.count(found), len(found), now)


def test_an_alarm_is_of_what_changed_and_stays() -> None:
    one = watch()
    add(one, rows(300), now=10.0)
    assert one.alarms == []
    add(one, rows(100, brightness=140), now=20.0)
    assert one.alarms == ["brightness"]
    add(one, rows(2000), now=30.0)
    found = summarise(one, 30.0)
    assert found["alarm"] == {"at": 20.0, "features": ["brightness"]}
    by_name = {feature["name"]: feature for feature in found["features"]}
    assert by_name["brightness"]["p_value"] < 0.01 < by_name["contrast"]["p_value"]
    assert by_name["brightness"]["windows"]["recent"]["psi"] < 0.2  # that's over
    assert "distance" not in by_name  # the reference has none
    assert found["accepted"] == {"reference": 1, "recent": 1, "day": 1}
    assert json.loads(json.dumps(found)) == found


def test_what_is_only_shown_raises_no_alarm() -> None:
    one = watch(Rules(features=("label",)))
    assert one.needed_evidence == 1 / 0.01
    add(one, rows(300, brightness=160))
    assert one.alarms == []
    (brightness,) = [f for f in summarise(one, 0)["features"] if f["name"] == "brightness"]
    assert brightness["most_evidence"] > 1000
    assert not brightness["raises_alarm"]
    add(one, rows(300, labels=(8, 1, 1)))
    assert one.alarms == ["label"]


def test_a_day_and_the_last_images_are_apart() -> None:
    one = watch()
    for hour in range(3):
        add(one, rows(100, brightness=100 + 30 * hour), now=3600.0 * hour)
    windows = summarise(one, 7200)["windows"]
    assert windows == {"recent": 100, "day": 300}
    history = summarise(one, 7200)["history"]
    assert history["hours"] == [0, 3600, 7200]
    assert history["psi"]["brightness"][0] < history["psi"]["brightness"][2]


def test_many_labels_are_told_as_those_that_moved_most() -> None:
    labels = tuple(f"kind {number}" for number in range(100))
    one = watch(labels=labels)
    add(one, rows(100, labels=tuple(50.0 if n == 7 else 1.0 for n in range(100))))
    (label,) = [f for f in summarise(one, 0)["features"] if f["name"] == "label"]
    groups = {group["name"]: group for group in label["groups"]}
    assert len(groups) == 20
    assert groups["kind 7"]["recent"] > 0.2
    for window in ("reference", "recent", "day"):
        assert sum(group[window] for group in groups.values()) == pytest.approx(1)
    assert groups[OTHER]["reference"] > 0.5


def test_of_very_many_images_a_part_is_tested() -> None:
    one = watch()
    add(one, rows(MOST_TESTED + 500))
    assert one.images == MOST_TESTED + 500
    assert {feature["images_tested"] for feature in summarise(one, 0)["features"]} == {MOST_TESTED}


def test_it_goes_on_from_its_state() -> None:
    one, other = watch(), watch()
    add(one, rows(100, brightness=140), now=5.0)
    other.restore(one.state())
    assert summarise(other, 6.0) == summarise(one, 6.0)
    assert other.alarms == ["brightness"]
    with pytest.raises((KeyError, ValueError)):
        watch(labels=("a", "b")).restore(one.state())
    with pytest.raises(KeyError):
        watch().restore({})


@pytest.mark.parametrize(
    ("rules", "alarms"),
    [
        (Rules(), ["brightness"]),
        (Rules(features=("brightness",)), ["brightness"]),
        (Rules(features=("label", "contrast")), []),
        (Rules(false_alarm_rate=1e-90), []),
    ],
)
def test_an_alarm_that_the_rules_of_now_would_not_raise_is_over(
    rules: Rules, alarms: list[str]
) -> None:
    one, other = watch(), watch(rules)
    add(one, rows(100, brightness=140), now=5.0)
    assert one.alarms == ["brightness"]
    other.restore(one.state())
    add(other, rows(10), now=6.0)
    assert other.alarms == alarms
    assert summarise(other, 6.0)["alarm"] == ({"at": 5.0, "features": alarms} if alarms else None)


def test_the_images_that_moved_it_most() -> None:
    one = watch()
    found = np.concatenate([rows(80), rows(20, brightness=200)])
    add(one, found)
    influential = most_influential(one, found, 15)
    assert len(influential) == 15
    assert sum(image.row >= 80 for image in influential) >= 12  # others lie at an edge by chance
    assert influential[0].places[0][0] == "brightness (0 to 255)"
    indexes = [image.index for image in influential]
    assert indexes == sorted(indexes, reverse=True)
    assert min(indexes) > 0


def test_a_bundles_reference(tiny_bundle: Path) -> None:
    path = tiny_bundle
    assert read_reference(open_bundle(path)) is None
    known = rows(10)
    reference = Reference.of_rows(known, LABELS)
    reference.write(path / REFERENCE_FILE)
    write_manifest(path, provenance())
    found = read_reference(open_bundle(path))
    assert found == reference
    assert found.images == 10
    assert found.histogram().tolist() == LAYOUT.count(known).tolist()
    wrong = Reference.of_rows(rows(10), (*LABELS, "another"))
    wrong.write(path / REFERENCE_FILE)
    write_manifest(path, provenance())
    with pytest.raises(BundleError, match="4 bins of label, it must have 3; export the run again"):
        read_reference(open_bundle(path))
    (path / REFERENCE_FILE).write_text('{"format_version": 2, "images": 1, "counts": {}}')
    write_manifest(path, provenance())
    with pytest.raises(BundleError, match="damaged"):
        read_reference(open_bundle(path))


def test_a_reference_from_before_a_feature_is_compared_in_the_others(tmp_path: Path) -> None:
    """An alarm needs no more evidence than it did."""
    images = np.array(
        [measured(ImageMeasures(100, 50, 1.5, 0.2, 0, 11.3), 0.9, None, 1, accepted=True)] * 50
    )
    present = Reference.of_rows(images, LABELS)
    counts = {name: found for name, found in present.counts.items() if name != "quantization"}
    path = tmp_path / REFERENCE_FILE
    path.write_text(json.dumps({"format_version": 1, "images": 50, "counts": counts}))
    earlier = Reference.read(path)
    assert earlier.counts["format"] == present.counts["format"]
    watches = [
        Watch(one, LABELS, 100, Rules(), np.random.default_rng(1)) for one in (earlier, present)
    ]
    for one in watches:
        add(one, images)
    assert [one.features[-1].is_there for one in watches] == [False, True]
    assert [round(one.needed_evidence) for one in watches] == [800, 900]  # without a distance
