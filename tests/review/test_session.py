from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from review.desk import Card, NotNow, UnknownImage
from review.journal import Decision
from review.session import Session
from tests.review.made_up import colour_of, make_pool, make_session


def decision(session: Session, number: int, label: str, **fields: object) -> Decision:
    image = session._pool.items[number].image
    return Decision(image, "label", **{"who": "Ann", "label": label, **fields})  # type: ignore[arg-type]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """30 labelled, of which one is wrong, and 12 new ones."""
    pool = make_pool(tmp_path / "images", known=30, new=12, wrong=(7,))
    return make_session(pool, tmp_path / "review", batch=4)


def numbers(cards: list[Card]) -> list[int]:
    return [int(card.name.removesuffix(".png")) for card in cards]


def test_suspects_come_first_then_what_has_no_label(session: Session) -> None:
    cards = session.queue("a tab", "all", 50)
    assert numbers(cards)[0] == 7
    assert [card.reason for card in cards] == ["suspect"] + ["new"] * 12
    assert cards[0].suggested[0] == (colour_of(7), 1.0)
    best = cards[1].suggested[0]
    assert best[0] == colour_of(numbers(cards)[1])
    assert 0.5 < best[1] < 1
    assert numbers(session.queue("a tab", "suspects", 9)) == [7]
    assert session.queue("a tab", "disputes", 9) == []


@pytest.mark.parametrize("known", [0, 1])
def test_a_review_begins_with_one_image(tmp_path: Path, known: int) -> None:
    pool = make_pool(tmp_path / "images", known=known, new=1 - known)
    session = make_session(pool, tmp_path / "review")
    assert numbers(session.queue("a tab", "all", 9)) == [0] * (1 - known)


def test_two_tabs_are_shown_different_images(session: Session) -> None:
    mine, yours = session.queue("mine", "all", 5), session.queue("yours", "all", 50)
    assert set(numbers(mine)).isdisjoint(numbers(yours))
    assert session.queue("mine", "all", 5) == mine  # as after a reload that keeps its name


def test_a_batch_is_fitted_and_what_it_changed_is_told(session: Session) -> None:
    before = session.overview()
    assert before["fit"]["labels"] == 30
    assert before["fit"]["accuracy"] == pytest.approx(29 / 30)
    assert before["waiting"] == {"disputes": 0, "suspects": 1, "new": 12}
    taken = session.decide([decision(session, 7, colour_of(7))])
    session.decide([decision(session, n, colour_of(n)) for n in (30, 31, 32)])
    session.wait()
    after = session.overview()
    assert after["change"]["labels"] == (30, 33)
    assert after["change"]["accuracy"] == (pytest.approx(29 / 30), 1.0)
    assert (after["change"]["suspects"], after["change"]["gone"]) == ((1, 0), 1)
    assert after["waiting"] == {"disputes": 0, "suspects": 0, "new": 9}
    assert after["decided"] == 4
    assert taken[0].decision.revision == 1


def test_a_person_who_errs_is_asked_once_more_and_then_believed(session: Session) -> None:
    session.decide([decision(session, n, colour_of(n)) for n in (7, 30, 31)])
    session.decide([decision(session, 32, colour_of(33))])
    session.wait()
    (card,) = session.queue("tab", "suspects", 9)
    assert numbers([card]) == [32]
    again = decision(session, 32, colour_of(33), base=card.standing.revision)
    session.decide([again])
    assert session.queue("tab", "suspects", 9) == []


def test_two_errors_in_a_hundred_labels_are_asked_about_again(tmp_path: Path) -> None:
    session = make_session(make_pool(tmp_path / "images", known=6, new=100), tmp_path / "review")
    wrong = {23, 78}
    for number in range(6, 106):
        session.decide([decision(session, number, colour_of(number + (number in wrong)))])
    session.wait()
    session._refit()  # of the last labels, which are less than a batch
    again = session.queue("tab", "suspects", 9)
    assert {*numbers(again)} == wrong
    for card, number in zip(again, numbers(again), strict=True):
        right = decision(session, number, colour_of(number), base=card.standing.revision)
        session.decide([right])
    assert all(session.labelled()[number] == colour_of(number) for number in range(106))
    session._refit()
    assert session.queue("tab", "suspects", 9) == []
    session.close()


def test_what_two_say_is_disputed_and_not_fitted_to(session: Session) -> None:
    session.decide([decision(session, 30, "red"), decision(session, 30, "blue", who="Ben")])
    assert 30 not in session.labelled()
    (card,) = session.queue("tab", "disputes", 9)
    assert [(vote.who, vote.label) for vote in card.standing.votes] == [
        ("Ann", "red"), ("Ben", "blue"),
    ]  # fmt: skip
    assert session.card(card.image).reason == "disputed"
    session.decide([decision(session, 30, "blue", base=card.standing.revision)])
    assert session.labelled()[30] == "blue"
    assert numbers(session.disagreements()) == [30]  # settled, and still told


def test_skipped_ones_come_last_and_nones_no_more(session: Session) -> None:
    first, second = session.queue("tab", "new", 2)
    session.decide([Decision(first.image, "skip", "Ann"), Decision(second.image, "none", "Ann")])
    rest = session.queue("tab", "new", 50)
    assert len(rest) == 11
    assert rest[-1].image == first.image
    assert second.image not in {card.image for card in rest}


def test_a_group_is_of_one_label(session: Session) -> None:
    found = session.group("tab", 24)
    assert found is not None
    label, cards = found
    assert {colour_of(number) for number in numbers(cards)} == {label}
    assert len(cards) == 4
    shares = [card.suggested[0][1] for card in cards]
    assert shares == sorted(shares, reverse=True)


def test_it_begins_without_any_label(tmp_path: Path) -> None:
    session = make_session(make_pool(tmp_path / "i", new=9), tmp_path / "r", classes=["red"])
    cards = session.queue("tab", "all", 50)
    assert len(cards) == 9
    assert cards[0].suggested == ()
    assert session.group("tab", 9) is None
    assert session.overview()["classes"] == [{"label": "red", "images": 0}]
    with pytest.raises(NotNow, match="'red' has no heat map yet"):
        session.heat_map(cards[0].image, "red")
    session.decide([decision(session, n, colour_of(n)) for n in range(9)])
    for _ in range(2):
        session._refit()
    assert session.overview()["fit"]["labels"] == 9


def test_what_was_decided_holds_in_the_next_session(session: Session, tmp_path: Path) -> None:
    session.decide([decision(session, 7, "green"), decision(session, 30, "blue")])
    again = make_session(session._pool, tmp_path / "review")
    assert again.labelled() == session.labelled()
    assert again.labelled()[7] == "green"


def test_an_image_of_elsewhere_is_refused_and_nothing_written(session: Session) -> None:
    other = Decision("../../etc/passwd", "label", "Ann", "red")
    with pytest.raises(UnknownImage, match="no image '../../etc/passwd'"):
        session.decide([decision(session, 30, "red"), other])
    assert session.overview()["decided"] == 0


def test_the_labels_as_a_table(session: Session) -> None:
    session.decide([decision(session, 30, 'a "b", c')])
    name, content = session.export("labels")
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert name == "labels.csv"
    assert len(rows) == 31
    assert rows[-1]["label"] == 'a "b", c'
    assert Path(rows[0]["path"]).is_file()
    with pytest.raises(NotNow, match="no form of export"):
        session.export("../labels")


def test_label_studio_there_and_back(session: Session, tmp_path: Path) -> None:
    session.decide([decision(session, 30, "red"), decision(session, 30, "blue", who="Ben")])
    _, content = session.export("label-studio")
    tasks = json.loads(content)
    assert len(tasks) == 42
    assert [one["created_username"] for one in tasks[30]["annotations"]] == ["Ann", "Ben"]
    file = tmp_path / "export.json"
    file.write_bytes(content)
    other = make_session(session._pool, tmp_path / "other")
    assert other.take(file, "somebody") == 2
    assert other.take(file, "somebody") == 0  # it is there already
    (card,) = other.queue("tab", "disputes", 9)
    assert card.standing.disputed
    other.decide([decision(other, 30, "red", base=card.standing.revision, who="Cem")])
    assert other.take(file, "somebody") == 0  # what is settled isn't opened again
    assert other.queue("tab", "disputes", 9) == []


def test_a_name_that_several_files_have_says_none_of_them(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "i", new=3)
    first, second, third = pool.items
    (tmp_path / "i/b").mkdir()
    second = replace(second, path=second.path.rename(tmp_path / "i/b" / first.path.name))
    session = make_session(replace(pool, items=(first, second, third)), tmp_path / "r")
    result = [{"type": "choices", "value": {"choices": [" red "]}}]
    names = ["000.png", str(second.path), third.path.name]
    tasks = [{"data": {"image": name}, "annotations": [{"result": result}]} for name in names]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks))
    assert session.take(file, "Eve") == 2
    assert session.labelled() == {1: "red", 2: "red"}
    assert session.take(file, "Eve") == 0
