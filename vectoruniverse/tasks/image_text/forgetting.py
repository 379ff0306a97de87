"""The forgetting ledger: what adapting gained on the new rows and lost on those that the base already knew.

Between the base (scale 0) and the adapted model (scale 1) lies a path that costs no training. Both sides are evaluated
along it, and the point named that keeps most of both.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vectoruniverse.adapters.base import Adapter
from vectoruniverse.adapters.lora import LoraAdapter
from vectoruniverse.adapters.svd import intruders, without_intruders
from vectoruniverse.config.sections import SplitConfig
from vectoruniverse.data.splits import Split, split_rows
from vectoruniverse.errors import ConfigError
from vectoruniverse.evaluation.comparison import compare_rows
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.models.dual import DualEncoder
from vectoruniverse.models.sizes import ScratchClip
from vectoruniverse.runs.records import Estimate, ForgettingRecord, Kept
from vectoruniverse.tasks.image_text.data import ImageTextData, decode, group_by
from vectoruniverse.tasks.image_text.metadata import read_rows
from vectoruniverse.tasks.image_text.model import picture_recipe
from vectoruniverse.tasks.image_text.settings import ForgettingConfig, ImageTextExperiment
from vectoruniverse.terminal import Display

RULE = (
    "largest harmonic mean of two shares: the new rows' metric relative to its best along the path, "
    "and the old rows' relative to the base (at most 1); the larger scale of equals"
)


Reached = tuple[Estimate, Estimate | None]
"""The metric, and its paired difference from the base's; None for the base itself."""


@dataclass(frozen=True, slots=True)
class Side:
    """Rows that are evaluated along the path.

    Attributes:
        evaluate: the model as it is now, on these rows.
        units: group of each row, which counts as one draw; None: each alone.
    """

    evaluate: Callable[[], Evaluation]
    units: Sequence[str] | None


def ledger(
    adapter: Adapter, new: Side, old: Side, *, scales: Iterable[float], metric: str, shrink: bool = True
) -> ForgettingRecord:
    """Evaluate both sides along the path from the base to an adapter, which is left in full.

    Args:
        adapter: on the model that both sides evaluate.
        new: rows of the kind that the adapter was trained on.
        old: rows that the base knew.
        scales: to try, beside 0 and 1.
        metric: such as ``recall@5``.
        shrink: whether LoRA is evaluated without its intruder directions, too.
    """
    tried = sorted({*scales, 0.0, 1.0})
    found: list[list[np.ndarray]] = [[], []]

    def evaluate() -> None:
        for values, side in zip(found, (new, old), strict=True):
            values.append(side.evaluate().per_query[metric])

    for scale in tried:
        adapter.set_scale(scale)
        evaluate()
    count = _evaluate_without_intruders(adapter.low_rank, evaluate) if shrink and adapter.low_rank is not None else None
    sides = [_along(metric, values, side.units) for values, side in zip(found, (new, old), strict=True)]
    points = list(zip([*tried, 1.0][: len(found[0])], *sides, strict=True))
    curve = weigh(points[: len(tried)])
    new_rows, old_rows = (len(values[0]) for values in found)
    return ForgettingRecord(
        metric=metric,
        new_rows=new_rows,
        old_rows=old_rows,
        curve=curve,
        best_scale=best_scale(curve),
        intruders=count,
        without_intruders=weigh(points)[-1] if count else None,
        rule=RULE,
    )


def _evaluate_without_intruders(layers: LoraAdapter, evaluate: Callable[[], None]) -> int:
    """How many intruder directions there are; where there are any, the model is evaluated without them."""
    directions = intruders(layers)
    count = sum(len(one) for one in directions.values())
    if count:
        with without_intruders(layers, directions):
            evaluate()
    return count


def _along(metric: str, values: Sequence[np.ndarray], units: Sequence[str] | None) -> list[Reached]:
    """At each scale the metric, and its paired difference from the base's, which is the first and has none."""
    models = {str(i): {metric: one} for i, one in enumerate(values)}
    paired = compare_rows(models, "0", groups=units, family="each")
    differences = [None, *(Estimate(*paired.differences[str(i)][metric]) for i in range(1, len(values)))]
    return [(Estimate(*paired.reached[str(i)][metric]), change) for i, change in enumerate(differences)]


def known_rows(
    experiment: ImageTextExperiment,
    forgetting: ForgettingConfig,
    data: ImageTextData,
    encoder: DualEncoder,
    display: Display,
) -> ImageTextData:
    """The rows that the base knew; none that the experiment trains or is evaluated on.

    All of them are evaluated. Where ``train.preserve`` learns from such rows, half of them are its training rows, whole
    groups, and only the others are evaluated.

    Args:
        experiment: that the base is adapted in.
        forgetting: which rows the base knew.
        data: of the experiment.
        encoder: says how pictures are stored.
        display: what a person sees.

    Raises:
        ConfigError: fewer than two rows are left that the experiment does not itself use.
        DataError: they form a single group, and are to be divided.
    """
    filters = {"include": forgetting.include, "exclude": forgetting.exclude}
    asked = experiment.data.model_copy(update=filters)
    config = asked.model_copy(update={"split": SplitConfig(test_fraction=0.0)})  # another one follows
    metadata, used = read_rows(config), {row.id for row in data.rows}
    rows = [row for row in metadata.rows if row.id not in used]
    if len(rows) < 2:
        raise ConfigError(
            f"{len(rows)} rows are left that the experiment does not use itself",
            key="forgetting",
            remedy="let forgetting.include or forgetting.exclude choose rows that data's own filters leave out",
        )
    by_content = sorted(rows, key=lambda row: hashlib.sha256(row.id.encode()).digest())
    kept = {row.id for row in by_content[: forgetting.rows]}
    chosen = dataclasses.replace(metadata, rows=[row for row in rows if row.id in kept], bad=[])
    recipe = picture_recipe(experiment, None if isinstance(experiment.model, ScratchClip) else encoder)
    known = decode(config, chosen, recipe, display)
    groups = group_by(asked.split.group_by, known.rows, known.pictures.digests)
    split = Split(np.array([], dtype=np.int64), np.arange(len(known.rows)))
    if experiment.train.preserve is not None:
        ids, remedy = [row.id for row in known.rows], "let forgetting.include or forgetting.exclude take in more groups"
        split = split_rows(ids, groups=groups, val_fraction=0.5, seed=asked.split.seed, remedy=remedy)
    return dataclasses.replace(known, config=asked, split=split, groups=groups)


def weigh(points: Sequence[tuple[float, Reached, Reached]]) -> list[Kept]:
    """Which shares of both sides each scale keeps.

    Args:
        points: scale, new rows and old rows, the first of scale 0, which is the base.
    """
    best_new, base_old = max(new[0].estimate for _, new, _ in points), points[0][2][0].estimate
    weighed = []
    for scale, (new, gain), (old, loss) in points:
        new_share = new.estimate / best_new if best_new > 0 else 0.0
        old_share = min(1.0, old.estimate / base_old) if base_old > 0 else 1.0
        both = new_share + old_share
        weighed.append(
            Kept(
                scale=scale,
                new=new,
                old=old,
                new_change=gain,
                old_change=loss,
                new_share=new_share,
                old_share=old_share,
                kept=2 * new_share * old_share / both if both > 0 else 0.0,
            )
        )
    return weighed


def best_scale(curve: Sequence[Kept]) -> float:
    """The scale that keeps most of both sides; see ``RULE``."""
    return max(curve, key=lambda point: (point.kept, point.scale)).scale


def refuse_lone_group(data: ImageTextData, whose: str) -> None:
    """Raise where the evaluated rows are a single one, or a single group, of which no interval can be told.

    Args:
        data: the rows.
        whose: ``new`` or ``old``.

    Raises:
        ConfigError: they are.
    """
    units = data.units("val")
    if len(set(units) if units is not None else data.split.val) < 2:
        raise ConfigError(
            f"the {whose} rows are one group by {data.grouped_by}, so nothing can be drawn to tell an interval",
            key="forgetting",
            remedy="let forgetting.include or data.split take in more groups",
        )
