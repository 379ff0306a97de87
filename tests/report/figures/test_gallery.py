from __future__ import annotations

import numpy as np
import pytest

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.report.figures import gallery, style
from vectoruniverse.report.figures.space import Embedded

N, SIDE = 30, 8
PLAIN = PairItems(np.arange(N), np.arange(N))


def _take(rows: np.ndarray) -> np.ndarray:
    """A picture of row i is all i."""
    return np.broadcast_to(rows[:, None, None, None], (len(rows), SIDE, SIDE, 3)).astype(np.uint8)


@pytest.fixture
def model() -> Embedded:
    random = np.random.default_rng(0)
    image = random.normal(size=(N, 6))
    text = image + random.normal(size=(N, 6))
    return Embedded(*(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, text)))


def _ranks(similarity: np.ndarray, groups: np.ndarray) -> np.ndarray:
    ranks = []
    for i, row in enumerate(similarity):
        best = max(row[j] for j in range(N) if groups[j] == groups[i])
        ranks.append(1 + sum(row[j] >= best for j in range(N) if groups[j] != groups[i]))
    return np.array(ranks)


@pytest.mark.parametrize("direction", ["image_to_text", "text_to_image"])
def test_best_and_worst_are_those_of_a_slow_search(model: Embedded, direction: gallery.Direction) -> None:
    groups, titles = np.arange(N), [f"title {i}" for i in range(N)]
    similarity = model.image @ model.text.T
    similarity = similarity if direction == "image_to_text" else similarity.T
    ranks = _ranks(similarity, groups)
    shown = gallery.choose_retrievals(model, PLAIN, ranks, titles, _take, direction=direction, count=4, k=3)
    by_rank = sorted(range(N), key=lambda i: (ranks[i], -similarity[i, i]))
    assert [item.title for item in shown.best] == [titles[i] for i in by_rank[:4]]
    assert [item.title for item in shown.worst] == [titles[i] for i in by_rank[::-1][:4]]
    assert {item.rank for item in shown.worst} == {ranks[i] for i in by_rank[::-1][:4]}
    for item in (*shown.best, *shown.worst):
        row = titles.index(item.title)
        first = sorted(range(N), key=lambda j: -similarity[row, j])[:3]
        assert [answer.title for answer in item.answers] == [titles[j] for j in first]
        assert [answer.cosine for answer in item.answers] == pytest.approx([similarity[row, j] for j in first])
        assert [answer.right for answer in item.answers] == [j == row for j in first]
        assert [int(answer.picture[0, 0, 0]) for answer in item.answers] == first and item.picture[0, 0, 0] == row
        assert item.among == N


def test_a_text_and_a_picture_are_shown_once(model: Embedded) -> None:
    """Ten texts of three pictures each; the first ten pictures are one."""
    texts, pictures = np.arange(N) // 3, np.maximum(np.arange(N), 9)
    items, titles = PairItems(pictures, texts), [f"title {text}" for text in texts]
    ranks = np.ones(N, dtype=np.int64)
    forth = gallery.choose_retrievals(model, items, ranks, titles, _take, direction="image_to_text", count=8, k=N)
    asked = [item.title for item in (*forth.best, *forth.worst)]
    assert len(asked) == len(set(asked))  # never among the best and the worst
    assert sum(item.picture[0, 0, 0] < 10 for item in (*forth.best, *forth.worst)) == 1
    for item in (*forth.best, *forth.worst):
        assert item.among == len(item.answers) == 10 and len({answer.title for answer in item.answers}) == 10
        wanted = {"title 0", "title 1", "title 2", "title 3"} if item.picture[0, 0, 0] < 10 else {item.title}
        assert {answer.title for answer in item.answers if answer.right} == wanted
    back = gallery.choose_retrievals(model, items, ranks, titles, _take, direction="text_to_image", count=8, k=N)
    for item in (*back.best, *back.worst):
        assert item.among == len(item.answers) == 21
        text = int(item.title.removeprefix("title "))
        right = [int(pictures[answer.picture[0, 0, 0]]) for answer in item.answers if answer.right]
        assert sorted(right) == sorted(set(pictures[texts == text].tolist()))


@pytest.mark.parametrize("direction", ["image_to_text", "text_to_image"])
def test_titles_of_any_kind_can_be_drawn(model: Embedded, direction: gallery.Direction) -> None:
    titles = ["$\\frac{1}{0}$", "한국어 🎉", "\u202eright", "", "x" * 5000, "[/]\x00", *map(str, range(N - 6))]
    shown = gallery.choose_retrievals(
        model, PLAIN, np.arange(1, N + 1), titles, _take, direction=direction, count=3, k=2
    )
    assert style.svg(gallery.gallery_figure(shown)) == style.svg(gallery.gallery_figure(shown))


def test_figure_marks_right_answers(model: Embedded) -> None:
    titles = [f"title {i}" for i in range(N)]
    ranks = _ranks(model.image @ model.text.T, np.arange(N))
    shown = gallery.choose_retrievals(model, PLAIN, ranks, titles, _take, direction="image_to_text", count=2, k=2)
    texts = [text.get_text() for text in gallery.gallery_figure(shown).axes[1].texts]
    assert texts[0] == shown.best[0].title and texts[1] == f"rank 1 of {N}"
    assert texts[2].startswith("✓") and not texts[3].startswith("✓")


def test_an_empty_gallery_is_refused() -> None:
    with pytest.raises(ValueError, match="no retrieval"):
        gallery.gallery_figure(gallery.Gallery("image_to_text", (), ()))


def test_titles_are_cut_by_their_width() -> None:
    assert gallery.short("abcdef", 6) == "abcdef"
    assert gallery.short("abcdefg", 6) == "abcde…"
    assert gallery.short("", 6) == ""
