from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, pad
from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from vectoruniverse.losses.contrastive import alignment_anisotropy, info_nce, siglip

TEMPERATURE = 0.05


def raw_views(rows: int, *, width: int = 6, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {view: torch.randn(rows, width, generator=random).requires_grad_() for view in ("I", "T", "I+", "T+")}


def unit(views: dict[str, Tensor]) -> dict[str, Tensor]:
    return {view: normalize(rows, dim=1) for view, rows in views.items()}


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_chance_is_the_loss_of_rows_that_all_look_alike(rows: int) -> None:
    alike = {view: normalize(torch.ones(rows, 6), dim=1) for view in ("I", "T", "I+", "T+")}
    for found in (
        info_nce(alike, logit_scale=20.0),
        info_nce(alike, logit_scale=20.0, pairs=("IT", "II+", "I+T")),
        alignment_anisotropy(alike, form="log_sum_exp", temperature=0.1),
    ):
        assert found.chance == pytest.approx(found.total.item(), abs=1e-5)
    for form, weight in (("linear", 1.0), ("log_sum_exp", 0.5)):
        assert alignment_anisotropy(alike, form=form, temperature=0.1, anisotropy_weight=weight).chance is None
    assert siglip(alike, logit_scale=10.0, logit_bias=-10.0).chance is None


def split(kind: str) -> tuple[str, str]:
    first = kind[:2] if kind[1] == "+" else kind[:1]
    return first, kind[len(first) :]


def cosine(views: dict[str, Tensor], kind: str, i: int, j: int) -> Tensor:
    first, second = split(kind)
    return cosine_similarity(views[first][i], views[second][j], dim=0)


def slow_alignment(views: dict[str, Tensor], kinds: tuple[str, ...]) -> Tensor:
    rows = len(views["I"])
    return sum(-cosine(views, kind, i, i) / TEMPERATURE for i in range(rows) for kind in kinds) / rows


def slow_linear(views: dict[str, Tensor], kinds: tuple[str, ...]) -> Tensor:
    """The note's code: for each row, the cosines to all other rows, over the batch size; then the mean of the rows."""
    rows = len(views["I"])
    per_row = []
    for i in range(rows):
        anisotropy = torch.zeros(())
        for j in range(rows):
            if i != j:
                for kind in kinds:
                    anisotropy = anisotropy + cosine(views, kind, i, j)
        per_row.append(anisotropy / rows)
    return torch.stack(per_row).mean()


def slow_log_sum_exp(views: dict[str, Tensor], kinds: tuple[str, ...]) -> Tensor:
    """The note's formula: log Σ_{j≠i} exp(sim / τ), summed over the pair kinds; then the mean of the rows."""
    rows = len(views["I"])
    per_row = []
    for i in range(rows):
        logs = [
            torch.log(sum(torch.exp(cosine(views, kind, i, j) / TEMPERATURE) for j in range(rows) if j != i))
            for kind in kinds
        ]
        per_row.append(sum(logs))
    return torch.stack(per_row).mean()


def assert_same_gradients(fast: Tensor, slow: Tensor, leaves: list[Tensor]) -> None:
    for quick, obvious in zip(
        torch.autograd.grad(fast, leaves, allow_unused=True, retain_graph=True),
        torch.autograd.grad(slow, leaves, allow_unused=True),
        strict=True,
    ):
        assert (quick is None) == (obvious is None)
        if quick is not None:
            torch.testing.assert_close(quick, obvious, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_linear_form_is_the_code_of_the_note_in_value_and_gradient(rows: int) -> None:
    raw = raw_views(rows)
    loss = alignment_anisotropy(unit(raw), form="linear", temperature=TEMPERATURE)
    alignment = slow_alignment(raw, ("II+", "IT", "I+T+", "TT+"))
    anisotropy = slow_linear(raw, ("II", "T+T+", "IT", "I+T+"))
    torch.testing.assert_close(loss.parts["alignment"], alignment.detach())
    torch.testing.assert_close(loss.parts["anisotropy"], anisotropy.detach(), rtol=1e-5, atol=1e-6)
    assert_same_gradients(loss.total, alignment + anisotropy, list(raw.values()))


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_log_sum_exp_form_is_the_formula_of_the_note_in_value_and_gradient(rows: int) -> None:
    raw = raw_views(rows)
    loss = alignment_anisotropy(unit(raw), form="log_sum_exp", temperature=TEMPERATURE)
    alignment = slow_alignment(raw, ("II+", "IT", "I+T+", "TT+"))
    anisotropy = slow_log_sum_exp(raw, ("IT", "I+T+", "II+", "TT+"))
    torch.testing.assert_close(loss.parts["alignment"], alignment.detach())
    torch.testing.assert_close(loss.parts["anisotropy"], anisotropy.detach())
    assert_same_gradients(loss.total, alignment + anisotropy, list(raw.values()))


@pytest.mark.parametrize(
    ("alignment_pairs", "anisotropy_pairs"),
    [(("IT",), ("IT",)), (("IT+", "I+T"), ("TT", "I+I+")), (("II+", "IT", "I+T"), ("II+", "IT", "I+T", "II", "IT+"))],
)
def test_chosen_pairs_and_weights_are_the_ones_computed(
    alignment_pairs: tuple[str, ...], anisotropy_pairs: tuple[str, ...]
) -> None:
    raw = raw_views(5, seed=1)
    for form, slow in (("linear", slow_linear), ("log_sum_exp", slow_log_sum_exp)):
        loss = alignment_anisotropy(
            unit(raw),
            form=form,
            temperature=TEMPERATURE,
            alignment_pairs=alignment_pairs,
            anisotropy_pairs=anisotropy_pairs,
            alignment_weight=0.5,
            anisotropy_weight=3.0,
        )
        expected = 0.5 * slow_alignment(raw, alignment_pairs) + 3.0 * slow(raw, anisotropy_pairs)
        torch.testing.assert_close(loss.total, expected)
        assert_same_gradients(loss.total, expected, list(raw.values()))


@pytest.mark.parametrize("form", ["linear", "log_sum_exp"])
def test_a_view_that_is_the_same_tensor_counts_as_often_as_it_is_named(form: str) -> None:
    raw = raw_views(4, seed=2)
    views = unit({"I": raw["I"], "T": raw["T"]})
    shared = alignment_anisotropy({**views, "I+": views["I"], "T+": views["T"]}, form=form, temperature=TEMPERATURE)
    copied = alignment_anisotropy(
        {**views, "I+": views["I"].clone(), "T+": views["T"].clone()}, form=form, temperature=TEMPERATURE
    )
    torch.testing.assert_close(shared.total, copied.total)
    assert_same_gradients(shared.total, copied.total, [raw["I"], raw["T"]])


def test_symmetric_averages_over_rows_and_columns() -> None:
    views = unit(raw_views(5, seed=3))
    turned = {"I": views["T"], "T": views["I"]}
    options = {"form": "log_sum_exp", "temperature": 0.1, "alignment_pairs": ("IT",), "anisotropy_pairs": ("IT",)}
    rows, columns = alignment_anisotropy(views, **options), alignment_anisotropy(turned, **options)
    both = alignment_anisotropy(views, **options, symmetric=True)
    assert not torch.isclose(rows.total, columns.total)
    torch.testing.assert_close(both.total, (rows.total + columns.total) / 2)


def mean_off_diagonal(rows: Tensor) -> float:
    cosines = rows @ rows.T
    return float((cosines.sum() - cosines.trace()) / (len(rows) * (len(rows) - 1)))


def test_two_opposite_points_are_optimal_for_the_linear_form_and_not_for_log_sum_exp() -> None:
    n = 64
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(n // 2, 1)
    opposite = pad(opposite, (0, n - 2))
    simplex = normalize(torch.eye(n) - 1 / n, dim=1)  # as far apart as n points can be
    assert mean_off_diagonal(opposite) == pytest.approx(-1 / (n - 1))

    def loss(rows: Tensor, form: str) -> float:
        views = {"I": rows, "T": rows, "I+": rows, "T+": rows}
        return float(alignment_anisotropy(views, form=form, temperature=TEMPERATURE).total)

    assert loss(opposite, "linear") == pytest.approx(loss(simplex, "linear"), rel=1e-6)
    assert loss(opposite, "linear") == pytest.approx(-4 / TEMPERATURE - 4 / n, rel=1e-6)  # the least possible
    assert loss(simplex, "log_sum_exp") < loss(opposite, "log_sum_exp") - 10


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_info_nce_is_the_loss_of_clip(scale: float) -> None:
    raw = raw_views(7, seed=4)
    views = unit(raw)
    logit_scale = torch.tensor(scale, requires_grad=True)
    loss = info_nce(views, logit_scale=logit_scale)
    theirs = image_text_contrastive_loss(logit_scale * views["T"] @ views["I"].T)
    torch.testing.assert_close(loss.total, theirs)
    assert_same_gradients(loss.total, theirs, [raw["I"], raw["T"], logit_scale])


def test_info_nce_averages_its_pair_kinds_and_names_them() -> None:
    views = unit(raw_views(5, seed=5))
    loss = info_nce(views, logit_scale=10.0, pairs=("II+", "IT", "I+T"))
    for kind, part in loss.parts.items():
        first, second = split(kind)
        torch.testing.assert_close(part, image_text_contrastive_loss(10 * views[first] @ views[second].T))
    assert list(loss.parts) == ["II+", "IT", "I+T"]
    torch.testing.assert_close(loss.total, torch.stack(list(loss.parts.values())).mean())


def test_siglip_is_the_loss_of_siglip_model() -> None:
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=SiglipTextConfig(
            **tower, vocab_size=20, max_position_embeddings=4, bos_token_id=1, eos_token_id=2, pad_token_id=0
        ).to_dict(),
        vision_config=SiglipVisionConfig(**tower, image_size=8, patch_size=4).to_dict(),
    )
    model = SiglipModel(config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10.0))
        model.logit_bias.fill_(-5.0)
    output = model(input_ids=torch.randint(3, 20, (5, 4)), pixel_values=torch.randn(5, 3, 8, 8), return_loss=True)
    views = {"I": output.image_embeds, "T": output.text_embeds}
    loss = siglip(views, logit_scale=model.logit_scale.exp(), logit_bias=model.logit_bias)
    torch.testing.assert_close(loss.total, output.loss)
    torch.testing.assert_close(loss.parts["positive"] + loss.parts["negative"], output.loss.detach())
    theirs = torch.autograd.grad(output.loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    ours = torch.autograd.grad(loss.total, list(model.parameters()), allow_unused=True)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_siglip_is_the_double_loop_of_the_paper() -> None:
    views = {view: rows.detach() for view, rows in unit(raw_views(3, seed=6)).items()}
    total = 0.0
    for i in range(3):
        for j in range(3):
            z = 1 if i == j else -1
            total -= math.log(1 / (1 + math.exp(-z * (10 * float(views["I"][i] @ views["T"][j]) - 10))))
    assert siglip(views, logit_scale=10.0, logit_bias=-10.0).total.item() == pytest.approx(total / 3, rel=1e-5)


def test_autocast_does_not_coarsen_the_cosines() -> None:
    views = unit(raw_views(8, width=64))

    def losses() -> list[float]:
        return [
            loss.total.item()
            for loss in (
                alignment_anisotropy(views, form="log_sum_exp", temperature=TEMPERATURE),
                alignment_anisotropy(views, form="linear", temperature=TEMPERATURE),
                info_nce(views, logit_scale=100.0),
                siglip(views, logit_scale=100.0, logit_bias=-10.0),
            )
        ]

    plain = losses()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert losses() == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("form", ["linear", "log_sum_exp"])
def test_one_row_has_no_negatives(form: str) -> None:
    views = unit(raw_views(1))
    with pytest.raises(ValueError, match="at least 2 rows"):
        alignment_anisotropy(views, form=form, temperature=TEMPERATURE)
    with pytest.raises(ValueError, match="at least 2 rows"):
        info_nce(views, logit_scale=1.0)
    with pytest.raises(ValueError, match="at least 2 rows"):
        siglip(views, logit_scale=1.0, logit_bias=0.0)


def test_pairs_that_cannot_be_are_refused_by_name() -> None:
    views = unit(raw_views(3))
    with pytest.raises(ValueError, match="needs the view 'I\\+'"):
        info_nce({"I": views["I"], "T": views["T"]}, logit_scale=1.0, pairs=("I+T",))
    with pytest.raises(ValueError, match="unknown pair kind 'IX'"):
        info_nce(views, logit_scale=1.0, pairs=("IX",))
    with pytest.raises(ValueError, match="TT contrasts a view with itself"):
        info_nce(views, logit_scale=1.0, pairs=("IT", "TT"))
    with pytest.raises(ValueError, match="one shape"):
        siglip({"I": views["I"], "T": views["T"][:2]}, logit_scale=1.0, logit_bias=0.0)
