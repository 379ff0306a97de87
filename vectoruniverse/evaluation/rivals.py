"""Rivals that cost nothing: what linear algebra on the vectors of the frozen base reaches, without any training.

Each is fitted on training rows, its strength is chosen on one set of rows, and it is reported on another, which may be
the same. An adapter that is worth its training beats the best of them.

Shapes: N training rows, M rows that choose or are reported, E width of the shared space, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.evaluation.closed_forms import TINY, cache_scores, canonical, ridge
from vectoruniverse.evaluation.comparison import Family, Values, compare_rows, means
from vectoruniverse.evaluation.label_rules import Probe, fit_rules, predict
from vectoruniverse.evaluation.result import Evaluation, Labels, Rivals
from vectoruniverse.evaluation.retrieval import ZERO_SHOT_AT, pair_ranks, spread, values_of_ranks
from vectoruniverse.metrics.ranking import ranks_of_best
from vectoruniverse.runs.label_records import LabelRules
from vectoruniverse.runs.records import RivalRecord, RivalsRecord

STRENGTHS = tuple(10.0**k for k in range(1, -7, -1))
"""Penalties that are tried, as multiples of the Gram matrix's mean eigenvalue; of equals the first is chosen."""

POWERS = (0.0, 1.0, 2.0)
"""Powers of the canonical correlations that weigh the directions of CCA."""

SHARPNESS = (1.0, 3.0, 5.5, 10.0, 30.0, 100.0)
"""Values of Tip-Adapter's β that are tried."""

RESIDUAL = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Values of Tip-Adapter's α that are tried."""


LABEL_METRIC = "zero_shot/accuracy@1"
"""What chooses among rivals that know labels only."""


Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class EmbeddedRows:
    """Rows as the frozen base sees them: unit vectors (M, E) of pictures and texts, equal items, and labels if any."""

    image: Tensor
    text: Tensor
    items: PairItems
    labels: Labels | None = None

    def select(self, rows: NDArray[np.int64]) -> EmbeddedRows:
        """The rows at these positions."""
        at, labels = torch.from_numpy(rows), self.labels
        some = None if labels is None else replace(labels, of_row=labels.of_row[at])
        return EmbeddedRows(self.image[at], self.text[at], self.items.select(rows), some)

    @property
    def labelled(self) -> Labels | None:
        """The labels, where any row has one."""
        return self.labels if self.labels is not None and bool(self.labels.of_row.any()) else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rival at one strength.

    Attributes:
        how: its strength and what else was chosen, in words.
        evaluate: metric → value of each row (M,), of rows that it has not been fitted on.
        scores: of pictures (M, E), how likely each label is (M, C); None for one that knows no labels.
    """

    how: str
    evaluate: Callable[[EmbeddedRows], Values]
    scores: Map | None = None


@dataclass(frozen=True, slots=True)
class FittedRivals:
    """The chosen candidate of each rival, and the rules by which its scores tell labels; the rest as in ``Rivals``."""

    chosen: Mapping[str, Candidate]
    rules: Mapping[str, LabelRules]
    best: Mapping[str, str]
    chosen_by: str
    fitted_on: int

    def evaluate(self, rows: EmbeddedRows) -> Rivals:
        """What they reach on rows that are reported."""
        values = {name: one.evaluate(rows) for name, one in self.chosen.items()}
        how = {name: one.how for name, one in self.chosen.items()}
        labels = {name: predict(rules, _scores(self.chosen[name], rows)) for name, rules in self.rules.items()}
        return Rivals(values, how, self.best, self.chosen_by, self.fitted_on, labels)


def fit_rivals(training: EmbeddedRows, choosing: EmbeddedRows, metric: str, recall_at: Sequence[int]) -> FittedRivals:
    """Fit every rival on training rows, and choose the strength of each on others.

    Args:
        training: rows (N) to fit on.
        choosing: rows (M) that choose the strengths, and the best rival of each metric.
        metric: what chooses among maps of the space, such as ``recall@5``.
        recall_at: the k of recall@k.
    """
    families = {
        "base": (metric, [Candidate("as it is", partial(_in_space, _same, _same, recall_at))]),
        "centred": (metric, centred(training, recall_at)),
        "ridge map": (metric, ridge_maps(training, recall_at)),
        "CCA": (metric, canonical_maps(training, recall_at)),
    }
    if training.labelled is not None and choosing.labelled is not None:
        families["linear probe"] = (LABEL_METRIC, probes(training.image, training.labelled))
        families["Tip-Adapter cache"] = (LABEL_METRIC, caches(training.image, training.labelled))
    chosen: dict[str, Candidate] = {}
    reached: dict[str, dict[str, float]] = {}
    for name, (decides, candidates) in families.items():
        tried = ((means(one.evaluate(choosing)), one) for one in candidates)
        reached[name], chosen[name] = max(tried, key=lambda found: found[0][decides])
    del chosen["base"]  # its evaluation is known
    best = {
        key: max((name for name in reached if key in reached[name]), key=lambda name: reached[name][key])
        for key in reached["base"]
    }
    return FittedRivals(chosen, _label_rules(chosen, choosing), best, metric, len(training.image))


def _label_rules(chosen: Mapping[str, Candidate], choosing: EmbeddedRows) -> dict[str, LabelRules]:
    """Of candidates that know labels, how their scores tell them."""
    if (labels := choosing.labelled) is None:
        return {}
    having = labels.of_row.any(dim=1)
    truth = labels.of_row[having].numpy()
    told = {name: one for name, one in chosen.items() if one.scores is not None and not truth.all()}
    return {name: fit_rules(_scores(one, choosing)[having.numpy()], truth) for name, one in told.items()}


def _scores(candidate: Candidate, rows: EmbeddedRows) -> NDArray[np.float64]:
    """Scores of labels (M, C, 1)."""
    assert candidate.scores is not None
    scores: NDArray[np.float64] = candidate.scores(rows.image).double().numpy()[:, :, None]
    return scores


def beside_rivals(
    base: Evaluation, adapted: Evaluation | None, groups: ArrayLike | None = None, *, picked: bool = False
) -> RivalsRecord | None:
    """The base, its rivals and the adapted model on the same rows; None where there are no rivals.

    Args:
        base: with its rivals.
        adapted: by how much it stands ahead of each is told, with 95 % intervals; None: of the others alone.
        groups: rows that count as one draw (M,), as in ``compare_rows``.
        picked: whether the best rivals were picked on these very rows, so that all leads are to hold at once.
    """
    if (rivals := base.rivals) is None:
        return None
    models = {"base": base.per_query, **rivals.values, **({"adapted": adapted.per_query} if adapted else {})}
    told = {metric for values in rivals.values.values() for metric in values}
    models = {name: {key: values[key] for key in values if key in told} for name, values in models.items()}
    family: Family = "reference" if picked else "each"
    paired = compare_rows(models, "adapted", groups=groups, ahead=True, family=family) if adapted else None
    ahead = {} if paired is None else paired.differences
    how = {"base": "as it is", **rivals.how, "adapted": "trained"}
    return RivalsRecord(
        chosen_by=rivals.chosen_by,
        fitted_on=rivals.fitted_on,
        best=dict(rivals.best),
        at_once=picked,
        models={
            name: RivalRecord(
                how=how[name],
                reached=means(values),
                adapted_ahead={metric: list(gap) for metric, gap in ahead.get(name, {}).items()},
            )
            for name, values in models.items()
        },
    )


PerRow = dict[str, NDArray[np.float64]]


def _same(rows: Tensor) -> Tensor:
    return rows


def _affine(mean: Tensor, matrix: Tensor | None, rows: Tensor) -> Tensor:
    """Unit rows of (rows - mean) @ matrix, float32; a row of zeros, which has no direction, takes the first axis."""
    moved: Tensor = rows.double() - mean
    moved = moved if matrix is None else moved @ matrix
    norms = torch.linalg.vector_norm(moved, dim=1, keepdim=True)
    moved /= norms.clamp(min=TINY)
    moved[norms[:, 0] == 0, 0] = 1.0
    return moved.float()


def _in_space(of_image: Map, of_text: Map, recall_at: Sequence[int], rows: EmbeddedRows) -> PerRow:
    """Recall, mean of both directions, and zero-shot accuracy, where pictures and texts are mapped."""
    image, text = of_image(rows.image), of_text(rows.text)
    forth, back = pair_ranks(image, text, rows.items), pair_ranks(text, image, rows.items.turned())
    one, other = (values_of_ranks(ranks.numpy(), recall_at) for ranks in (forth, back))
    found = {f"recall@{k}": (one[f"recall@{k}"] + other[f"recall@{k}"]) / 2 for k in recall_at}
    if (labels := rows.labelled) is None:
        return found
    return found | _label_values(lambda images: images @ of_text(labels.text).T, labels, image)


def _label_values(scores: Callable[[Tensor], Tensor], labels: Labels, image: Tensor) -> PerRow:
    """Zero-shot accuracy of scores (M, C); NaN for rows without a label."""
    having = labels.of_row.any(dim=1)
    ranks = ranks_of_best(scores(image[having]), labels.of_row[having])
    return {f"zero_shot/accuracy@{k}": spread((ranks <= k).double(), having) for k in ZERO_SHOT_AT}


def _centred_sides(training: EmbeddedRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means of pictures and texts (E,), and the rows less their mean (N, E), float64."""
    image, text = training.image.double(), training.text.double()
    mean_image, mean_text = image.mean(dim=0), text.mean(dim=0)
    return mean_image, mean_text, image - mean_image, text - mean_text


def centred(training: EmbeddedRows, recall_at: Sequence[int]) -> Iterator[Candidate]:
    """Both clouds around the same point: the modality gap is closed."""
    mean_image, mean_text, *_ = _centred_sides(training)
    maps = partial(_affine, mean_image, None), partial(_affine, mean_text, None)
    yield Candidate("training means subtracted", partial(_in_space, *maps, recall_at))


def ridge_maps(training: EmbeddedRows, recall_at: Sequence[int]) -> Iterator[Candidate]:
    """Pictures mapped among the texts, or texts among the pictures; shrunk to nothing, or to where they are."""
    mean_image, mean_text, x, y = _centred_sides(training)
    stay = torch.eye(x.shape[1], dtype=torch.float64)
    for start, towards in ((0 * stay, "zero"), (stay, "the base")):
        forth = ridge(x, y - x @ start, STRENGTHS)
        back = ridge(y, x - y @ start, STRENGTHS)
        for strength, to_text, to_image in zip(STRENGTHS, forth, back, strict=True):
            for a, b, which in (
                (start + to_text, None, "pictures to texts"),
                (None, start + to_image, "texts to pictures"),
            ):
                maps = partial(_affine, mean_image, a), partial(_affine, mean_text, b)
                how = f"{which}, shrunk towards {towards}, strength {strength:g}"
                yield Candidate(how, partial(_in_space, *maps, recall_at))


def canonical_maps(training: EmbeddedRows, recall_at: Sequence[int]) -> Iterator[Candidate]:
    """Both sides in the directions that they have in common, each weighed by a power of its correlation."""
    mean_image, mean_text, x, y = _centred_sides(training)
    for strength in STRENGTHS:
        a, b, correlations = canonical(x, y, strength)
        for power in POWERS:
            weights = correlations**power
            maps = partial(_affine, mean_image, a * weights), partial(_affine, mean_text, b * weights)
            yield Candidate(f"strength {strength:g}, power {power:g}", partial(_in_space, *maps, recall_at))


def probes(image: Tensor, labels: Labels) -> Iterator[Candidate]:
    """Linear classifiers of the pictures' vectors."""
    for strength, probe in zip(STRENGTHS, fitted_probes(image, labels), strict=True):
        yield Candidate(f"least squares, strength {strength:g}", partial(_by_labels, probe), probe)


def fitted_probes(rows: Tensor, labels: Labels) -> list[Probe]:
    """A linear classifier of each strength by least squares, fitted on the training rows (N, E) that have a label."""
    having = labels.of_row.any(dim=1)
    x, y = rows[having].double(), labels.of_row[having].double()
    mean, shares = x.mean(dim=0), y.mean(dim=0)
    return [Probe(weights, shares - mean @ weights) for weights in ridge(x - mean, y - shares, STRENGTHS)]


def fit_probe(rows: Tensor, labels: Labels, choosing: Tensor, chosen_by: Labels) -> Probe:
    """The probe of training rows (N, E) whose strength does best on other rows (M, E); some of both have a label.

    It is float32, as it is kept.
    """

    def reached(probe: Probe) -> float:
        return float(np.nanmean(_label_values(probe, chosen_by, choosing)[LABEL_METRIC]))

    best = max(fitted_probes(rows, labels), key=reached)
    return Probe(best.weights.float(), best.bias.float())


def caches(image: Tensor, labels: Labels) -> Iterator[Candidate]:
    """The training pictures and their labels, looked up by nearness."""
    cached, of_row, text = image.float(), labels.of_row.float(), labels.text.float()
    for beta in SHARPNESS:
        for alpha in RESIDUAL:

            def scores(rows: Tensor, alpha: float = alpha, beta: float = beta) -> Tensor:
                return cache_scores(rows.float(), cached, of_row, text, alpha, beta)

            yield Candidate(f"α {alpha:g}, β {beta:g}", partial(_by_labels, scores), scores)


def _by_labels(scores: Callable[[Tensor], Tensor], rows: EmbeddedRows) -> PerRow:
    return {} if rows.labelled is None else _label_values(scores, rows.labelled, rows.image)


def sample(keys: Sequence[int], limit: int) -> np.ndarray:
    """Positions, ascending, of at most ``limit`` rows: those with the smallest keys, which do not depend on the order.

    Args:
        keys: stable number of each row.
        limit: rows at most.
    """
    return np.sort(np.argsort(np.array(keys, dtype=np.uint64), kind="stable")[:limit])
