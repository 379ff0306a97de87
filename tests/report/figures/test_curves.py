from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import vectoruniverse.tasks  # noqa: F401 (declares its metrics)
from vectoruniverse.report.figures import curves, style
from vectoruniverse.tracking.series import grouped


def _history(steps: int = 20) -> list[dict[str, float | int | str]]:
    history: list[dict[str, float | int | str]] = []
    for step in range(steps + 1):
        if step:
            loss = 5.0 / step
            history.append(
                {
                    "step": step,
                    "train/loss": loss,
                    "train/loss/alignment": loss - 1,
                    "train/loss/anisotropy": 1.0,
                    "train/lr": 1e-3 * step,
                    "train/effective_rank": 4.0 + step,
                }
            )
        if step % 10 == 0:
            history.append(
                {
                    "step": step,
                    "val/recall@5": 0.1 + step / 100,
                    "val/image_to_text/recall@5": 0.05 + step / 100,
                    "val/text_to_image/recall@5": 0.15 + step / 100,
                    "val/effective_rank": 9.0 + step,
                }
            )
    return history


def _line(axes: curves.Axes, values: list[float]) -> bool:
    return any(
        np.allclose(np.asarray(line.get_ydata(), float), values)
        for line in axes.lines
        if len(line.get_ydata()) == len(values)
    )


def _texts(axes: curves.Axes) -> set[str]:
    return {text.get_text() for text in axes.texts}


def test_loss_its_parts_and_both_directions_are_drawn_and_named() -> None:
    loss, validation = curves.training_curves(_history()).axes
    assert _line(loss, [5.0 / step for step in range(1, 21)])
    assert _line(loss, [5.0 / step - 1 for step in range(1, 21)])
    assert _texts(loss) == {"total", "alignment", "anisotropy"}
    assert _line(validation, [0.05, 0.15, 0.25]) and _line(validation, [0.15, 0.25, 0.35])
    assert _texts(validation) == {"image → text", "text → image", "base (mean)"}
    assert "recall@5" in validation.get_ylabel() and "step" in validation.get_xlabel()


def test_base_is_a_dashed_line_at_the_value_before_the_first_step() -> None:
    axes = curves.training_curves(_history()).axes[1]
    (base,) = [line for line in axes.lines if line.get_color() == style.BASE]
    assert list(np.asarray(base.get_ydata(), float)) == [0.1, 0.1]
    assert base.is_dashed()


def test_one_part_is_the_total_and_not_drawn_twice() -> None:
    history = [{"step": step, "train/loss": 1.0, "train/loss/IT": 1.0} for step in range(1, 4)]
    (axes,) = curves.training_curves(history).axes
    assert len(axes.lines) == 1 and _texts(axes) == {"loss"}


def test_values_that_are_not_finite_leave_a_gap() -> None:
    values: list[float | str] = [1.0, "NaN", 3.0, "Infinity", "nonsense", 2.0]
    history = [{"step": step, "train/loss": value} for step, value in enumerate(values)]
    (axes,) = curves.training_curves(history).axes
    drawn = np.asarray(axes.lines[0].get_ydata(), float)
    assert np.array_equal(drawn, [1, np.nan, 3, np.nan, np.nan, 2], equal_nan=True)
    assert style.png(curves.training_curves([{"step": 1, "train/loss": "NaN"}]))


def test_long_series_are_drawn_as_means_within_their_range() -> None:
    steps = np.arange(1000.0)
    values = np.sin(steps)
    values[10] = np.nan
    mean_steps, mean, low, high = grouped(steps, values, 10)
    for i in range(10):
        part = [v for v in values[i * 100 : (i + 1) * 100] if v == v]
        assert (mean[i], low[i], high[i]) == pytest.approx((sum(part) / len(part), min(part), max(part)))
        assert mean_steps[i] == i * 100 + 49.5
    history = [{"step": step, "train/loss": float(value)} for step, value in enumerate(np.sin(steps))]
    assert len(curves.training_curves(history).axes[0].lines[0].get_ydata()) == curves.POINTS


def test_learning_rate_and_effective_rank_show_what_was_logged() -> None:
    assert _line(curves.learning_rate(_history()).axes[0], [1e-3 * step for step in range(1, 21)])
    axes = curves.effective_rank(_history()).axes[0]
    assert _line(axes, [4.0 + step for step in range(1, 21)]) and _line(axes, [9.0, 19.0, 29.0])
    assert _texts(axes) == {"batches", "held-out rows", "base, held-out"}


@pytest.mark.parametrize("draw", [curves.training_curves, curves.learning_rate, curves.effective_rank])
def test_a_history_without_the_numbers_is_refused(draw: Callable[..., curves.Figure]) -> None:
    with pytest.raises(ValueError, match="history holds no"):
        draw([{"step": 0, "val/recall@5": 0.1}])
