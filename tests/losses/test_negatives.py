"""Who is a negative of whom: every loss in every mode against double loops over rows and their sets of labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from vectoruniverse.data.pair_items import PairItems, number
from vectoruniverse.errors import DataError
from vectoruniverse.losses.blocks import ELEMENTS
from vectoruniverse.losses.contrastive import alignment_anisotropy, info_nce, siglip
from vectoruniverse.losses.negatives import BLOCK, Negatives, Relations, label_sets

T = 0.2
SCALE, BIAS = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (5.0, -2.0))
USES = ("off", "mask", "soft", "positive")
PAIRS = ("IT", "I+T+", "II+", "TT+")


@dataclass
class Rows:
    """Facts of rows as a person would note them."""

    pictures: list[int]
    texts: list[int]
    channels: list[str]
    labels: list[list[str]]

    def negatives(self, use: str, *, groups: bool) -> Negatives:
        sets, has = label_sets(self.labels) if use != "off" else (None, None)
        channels = np.array([-1 if not name else sorted(set(self.channels)).index(name) for name in self.channels])
        items = PairItems(number(self.pictures), number(self.texts))
        return Negatives(items, channels if groups else None, sets, has, use)

    def weights(self, i: int, j: int, use: str, *, groups: bool) -> tuple[float, float]:
        """As a negative and as a positive."""
        if i == j:
            return 0.0, 1.0
        same = self.pictures[i] == self.pictures[j] or self.texts[i] == self.texts[j]
        if same or (groups and self.channels[i] and self.channels[i] == self.channels[j]):
            return 0.0, 0.0
        mine, theirs = set(self.labels[i]), set(self.labels[j])
        jaccard = len(mine & theirs) / len(mine | theirs) if mine | theirs else 0.0
        related = {"off": 0.0, "soft": jaccard}.get(use, float(jaccard > 0))
        return 1.0 - related, related if use in ("soft", "positive") else 0.0


def some_rows(seed: int, count: int = 9) -> Rows:
    """Pictures and texts that now and then stand twice, channels and labels that are sometimes missing."""
    draw = np.random.default_rng(seed)
    labels = [list(draw.permutation(["cat", "dog", "car", "bus"])[: draw.integers(0, 4)]) for _ in range(count)]
    pictures, texts = (draw.integers(0, 3 * count, count).tolist() for _ in range(2))
    pictures[1], texts[2] = pictures[0], texts[0]
    channels = draw.choice(["", "a", "b", "c", "d"], count).tolist()
    return Rows(pictures, texts, channels, labels)


def raw_views(rows: int, *, width: int = 5, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    made = [torch.randn(rows, width, generator=random, dtype=torch.float64) for _ in range(4)]
    return {view: one.requires_grad_() for view, one in zip(("I", "T", "I+", "T+"), made, strict=True)}


def unit(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    return {view: normalize(rows, dim=1) for view, rows in raw.items()}


def both_of(views: dict[str, Tensor], kind: str) -> tuple[Tensor, Tensor]:
    first = kind[:2] if kind[1] == "+" else kind[:1]
    return views[first], views[kind[len(first) :]]


def slow_info_nce(views, weigh) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for kind in ("IT", "II+"):
        one, other = both_of(views, kind)
        for a, b in ((one, other), (other, one)):
            for i in range(len(a)):
                kept = [j for j in range(len(a)) if sum(weigh(i, j)) > 0]
                mass = sum(weigh(i, j)[1] for j in kept)
                whole = torch.log(sum(torch.exp(SCALE * a[i] @ b[j]) for j in kept))
                for j in kept:
                    total = total - weigh(i, j)[1] / mass * (SCALE * a[i] @ b[j] - whole) / len(a) / 2 / 2
    return total


def slow_siglip(views, weigh) -> Tensor:
    total, (a, b) = torch.zeros((), dtype=torch.float64), both_of(views, "IT")
    for i in range(len(a)):
        for j in range(len(a)):
            negative, positive = weigh(i, j)
            logit = SCALE * a[i] @ b[j] + BIAS
            total = total + (positive * torch.log1p(torch.exp(-logit)) + negative * torch.log1p(torch.exp(logit)))
    return total / len(a)


def slow_alignment(views) -> Tensor:
    return sum(-(a[i] @ b[i]) / T / len(a) for a, b in (both_of(views, kind) for kind in PAIRS) for i in range(len(a)))


def slow_log_sum_exp(views, weigh, *, symmetric: bool = False) -> Tensor:
    total = slow_alignment(views)
    for kind in PAIRS:
        one, other = both_of(views, kind)
        for a, b in ((one, other), (other, one)) if symmetric else ((one, other),):
            for i in range(len(a)):
                pushed = [j for j in range(len(a)) if weigh(i, j)[0] > 0]
                if pushed:
                    exps = [weigh(i, j)[0] * torch.exp(a[i] @ b[j] / T) for j in pushed]
                    total = total + torch.log(sum(exps)) / len(a) / (1 + symmetric)
    return total


def slow_linear(views, weigh) -> Tensor:
    total = slow_alignment(views)
    for kind in PAIRS:
        a, b = both_of(views, kind)
        for i in range(len(a)):
            for j in range(len(a)):
                total = total + weigh(i, j)[0] * (a[i] @ b[j]) / len(a) ** 2
    return total


LOSSES = {
    "info_nce": (partial(info_nce, logit_scale=SCALE, pairs=("IT", "II+")), slow_info_nce),
    "siglip": (partial(siglip, logit_scale=SCALE, logit_bias=BIAS), slow_siglip),
    "log_sum_exp": (partial(alignment_anisotropy, form="log_sum_exp", temperature=T), slow_log_sum_exp),
    "symmetric": (
        partial(alignment_anisotropy, form="log_sum_exp", temperature=T, symmetric=True),
        partial(slow_log_sum_exp, symmetric=True),
    ),
    "linear": (partial(alignment_anisotropy, form="linear", temperature=T, anisotropy_pairs=PAIRS), slow_linear),
}


@pytest.fixture(params=[9 * 9, 4 * 9], ids=["at once", "in blocks of 4, 4 and 1 rows"])
def elements(request, monkeypatch):
    monkeypatch.setitem(ELEMENTS, "cpu", request.param)


@pytest.mark.usefixtures("elements")
@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_in_every_mode_is_its_double_loop_in_value_and_gradient(name, use, groups):
    fast, slow = LOSSES[name]
    for seed in range(3):
        rows = some_rows(seed)
        raw = raw_views(9, seed=seed)
        views, order = unit(raw), np.random.default_rng(seed).permutation(9)
        found = fast(views, rows.negatives(use, groups=groups).among(order))
        expected = slow(views, lambda i, j: rows.weights(order[i], order[j], use, groups=groups))  # noqa: B023
        torch.testing.assert_close(found.total, expected, rtol=1e-9, atol=1e-9)
        used = [leaf for view, leaf in raw.items() if name != "siglip" or view in ("I", "T")]
        used = [leaf for leaf in used if name != "info_nce" or leaf is not raw["T+"]]
        used += {"info_nce": [SCALE], "siglip": [SCALE, BIAS]}.get(name, [])
        gradients = (torch.autograd.grad(loss, used, retain_graph=True) for loss in (found.total, expected))
        for quick, obvious in zip(*gradients, strict=True):
            torch.testing.assert_close(quick, obvious, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_rows_that_share_nothing_are_negatives_all_as_without_relations(name):
    fast, _ = LOSSES[name]
    views = unit(raw_views(6))
    negatives = Negatives(PairItems(np.arange(9), np.arange(9)))
    found = fast(views, negatives.among(np.array([0, 2, 4, 5, 7, 8])))
    torch.testing.assert_close(found.total, fast(views).total, rtol=0, atol=0)


@pytest.mark.parametrize("elements", [4 * 4, 2 * 4])
@pytest.mark.parametrize("name", LOSSES)
def test_rows_of_one_text_have_no_negatives_and_nothing_is_pushed(name, elements, monkeypatch):
    """Also in single precision, where an empty sum's logarithm would be infinite and its gradient not a number."""
    monkeypatch.setitem(ELEMENTS, "cpu", elements)
    fast, _ = LOSSES[name]
    raw = {view: rows.detach().float().requires_grad_() for view, rows in raw_views(4).items()}
    negatives = Negatives(PairItems(np.arange(4), np.zeros(4, dtype=np.int64)))
    found = fast(unit(raw), negatives.among(np.arange(4)))
    found.total.backward()
    assert torch.isfinite(found.total) and all(torch.isfinite(x.grad).all() for x in raw.values() if x.grad is not None)
    pushed = {"siglip": "negative"}.get(name, "anisotropy")
    assert float(found.parts.get(pushed, found.total.detach() if name == "info_nce" else 1.0)) == pytest.approx(
        0.0, abs=1e-6
    )


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ["info_nce", "log_sum_exp"])
def test_chance_is_the_loss_of_rows_that_all_look_alike(name, use):
    fast, _ = LOSSES[name]
    alike = {view: normalize(torch.ones(12, 6), dim=1) for view in ("I", "T", "I+", "T+")}
    rows = some_rows(1, 12)
    found = fast(alike, rows.negatives(use, groups=False).among(np.arange(12)))
    assert found.chance == pytest.approx(found.total.item(), abs=1e-5)
    one_text = Negatives(PairItems(np.arange(12), np.zeros(12, dtype=np.int64))).among(np.arange(12))
    assert fast(alike, one_text).chance == {"info_nce": 0.0, "log_sum_exp": None}[name]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("groups", [False, True])
def test_masses_are_the_sums_of_the_weights_in_blocks_of_any_size(use, groups, monkeypatch):
    relations = some_rows(3, 20).negatives(use, groups=groups).among(np.arange(20))
    expected = [one.sum(dim=1) for one in relations.weights(torch.zeros((), dtype=torch.float64))]
    for block in (1, 7, BLOCK):
        monkeypatch.setattr("vectoruniverse.losses.negatives.BLOCK", block)
        vars(relations).pop("masses", None)
        for found, weights in zip(relations.masses, expected, strict=True):
            np.testing.assert_allclose(found, weights, rtol=1e-12)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("groups", [False, True])
def test_the_masked_share_is_that_of_a_slow_count(use, groups):
    rows = some_rows(5, 20)
    chosen = np.array([3, 1, 0, 2, 11, 7, 19])
    found = rows.negatives(use, groups=groups).among(chosen).masked_share()
    pairs = [(i, j) for i in chosen for j in chosen if i != j]
    slow = np.mean([1.0 - rows.weights(i, j, use, groups=groups)[0] for i, j in pairs])
    assert found == pytest.approx(slow, abs=1e-12)


class Largest(TorchDispatchMode):
    """Notes the most entries that any tensor has that an operation gives, in both directions."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        made = given if isinstance(given, tuple | list) else [given]
        self.entries = max([self.entries, *(one.numel() for one in made if isinstance(one, Tensor))])
        return given


def many_rows(kinds: str, count: int) -> Relations:
    """A batch of strangers; of rows with ten labels, each twentieth with the picture of another; or of none alike."""
    if kinds == "strangers":
        return Relations.strangers(count)
    draw = np.random.default_rng(0)
    if kinds == "labelled":
        labels = [[f"{draw.integers(10)}", f"{draw.integers(10)}"][: draw.integers(1, 3)] for _ in range(count)]
        pictures = [draw.integers(count) if i % 20 == 0 else i for i in range(count)]
        return Rows(pictures, list(range(count)), [], labels).negatives("mask", groups=False).among(np.arange(count))
    sets = draw.integers(0, 2, (count, 40)).astype(bool)
    items = PairItems(np.arange(count), np.arange(count))
    return Negatives(items, None, np.arange(count), sets, "soft").among(np.arange(count))


@pytest.mark.parametrize(("kinds", "count"), [("strangers", 16_384), ("labelled", 16_384), ("all different", 4_096)])
def test_the_linear_form_makes_no_square_matrix(kinds, count):
    width = 16
    relations = many_rows(kinds, count)
    views = {view: rows.detach().float().requires_grad_() for view, rows in raw_views(count, width=width).items()}
    with Largest() as largest:
        loss = alignment_anisotropy(views, relations, form="linear", temperature=T)
        loss.total.backward()
        share = relations.masked_share()
    assert largest.entries <= max(4 * count * width, BLOCK) < count**2 / 10
    assert math.isfinite(loss.total.item()) and (share == 0.0) == (kinds == "strangers")


@pytest.mark.parametrize("kinds", ["strangers", "labelled", "all different"])
@pytest.mark.parametrize("name", ["info_nce", "siglip", "log_sum_exp", "symmetric"])
def test_no_loss_of_many_rows_makes_a_square_matrix(name, kinds, monkeypatch):
    monkeypatch.setitem(ELEMENTS, "cpu", 2**16)
    monkeypatch.setattr("vectoruniverse.losses.negatives.BLOCK", 2**16)
    views = {view: rows.detach().float().requires_grad_() for view, rows in raw_views(1_024, width=16).items()}
    settings = {"info_nce": {"logit_scale": 5.0}, "siglip": {"logit_scale": 5.0, "logit_bias": -2.0}}
    with Largest() as largest:
        loss = LOSSES[name][0](views, many_rows(kinds, 1_024), **settings.get(name, {}))
        loss.total.backward()
    assert largest.entries <= 2**16 == 1_024**2 / 16


def test_labels_are_sets_of_what_tells_rows_apart():
    rows, sets = label_sets([["all", "b", "a"], ["a", "b", "all"], ["all"], ["all", "b"]])
    assert rows.tolist() == [0, 0, 1, 2] and sets.tolist() == [[True, True], [False, False], [False, True]]
    assert label_sets([["x"], ["x"]])[1].shape == (1, 0)
    assert [part.shape for part in label_sets([])] == [(0,), (0, 0)]


def test_training_is_refused_where_too_few_pairs_are_negatives_and_the_remedy_is_told():
    rows = Rows(list(range(9)), list(range(9)), ["a"] * 9, [["x"]] * 8 + [["y"]])
    negatives = rows.negatives("mask", groups=False)
    share = 8 * 7 / (9 * 8)
    negatives.refuse_masked(share)
    with pytest.raises(
        DataError, match="78% of the pairs of training rows share their picture or text or label"
    ) as caught:
        negatives.refuse_masked(share - 0.01)
    assert caught.value.remedy == "use loss.negatives.labels: off, or allow more"
    rows.negatives("off", groups=False).refuse_masked(0.0)
    with pytest.raises(DataError):
        rows.negatives("off", groups=True).refuse_masked(0.99)
