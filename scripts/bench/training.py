"""Training: pairs a second of a ViT-B/32 with LoRA, beside what the machine's matrix product would allow."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.machine import gemm_gflops, training_peak_mib
from bench.material import Material
from bench.rounds import Case, Column, Measured, table

OURS = "vectoruniverse"
CONTESTANTS = (OURS, "HF Trainer + peft", "HF Trainer + peft, max_length", "sentence-transformers + peft")
LESS = ("patch dropout 0.25", "patch dropout 0.5", "upper third", "upper third, trunk kept")
"""Names of this project's own settings that make an update cheaper, and are no equal work."""

TOLERANCE = 1e-4
"""Largest difference of losses and gradients, as a share, in fp32."""

COLUMNS = (
    Column("pairs/s", "pairs"),
    Column("pairs/s, first epoch", "pairs_first"),
    Column("GFLOP/s of need", "gflops", ".0f"),
    Column("share of GEMM peak", "share", ".0%"),
    Column("peak memory, MiB", "memory", ",.0f"),
)


def check(options: Namespace) -> Case:
    """Every contestant's loss and gradient of the same rows."""
    return Case("training", "check", "all", {"folder": str(options.work), "batch": min(16, *options.batch)})


def cases(options: Namespace, facts: dict[str, Any]) -> list[Case]:
    names = [*CONTESTANTS, *(f"{OURS}, {name}" for name in LESS)]
    wanted = [name for name in names if re.search(options.only, name)]
    return [
        Case(
            "training",
            f"{number_format}, batch {batch}",
            name,
            {
                "folder": str(options.work),
                "format": number_format,
                "batch": batch,
                "gflop": facts["gflop_per_pair"].get(name, facts["gflop_per_pair"][OURS]),
                "epochs": options.epochs,
            },
        )
        for number_format in options.formats
        for batch in options.batch
        for name in wanted
    ]


def measure(case: Case) -> dict[str, float]:
    settings = case.settings
    if case.group == "check":
        return same_work(Material(Path(settings["folder"])), settings["batch"])
    material = Material(Path(settings["folder"]))
    contestant = build(case.name, material, settings["batch"], settings["format"])
    return told(contestant.epochs(settings["epochs"]), len(material.rows()), settings)


def told(seconds: list[float], rows: int, settings: Any) -> dict[str, float]:
    """What epochs that took so long say; the first, in which much happens once, stands alone."""
    memory, later = training_peak_mib(), sum(seconds[1:]) / len(seconds[1:])
    gemm = gemm_gflops(settings["format"])  # at the same moment, since other programs come and go
    gflops = settings["gflop"] * rows / later
    return {
        "seconds": later,
        "pairs": rows / later,
        "pairs_first": rows / seconds[0],
        "gflops": gflops,
        "gemm": gemm,
        "share": gflops / gemm,
        "memory": memory,
    }


def build(name: str, material: Material, batch: int, number_format: str) -> Any:
    if name.startswith(OURS):
        from bench.ours import ONE_VIEW, Ours, less_work

        settings = {OURS: ONE_VIEW, **{f"{OURS}, {less}": given for less, given in less_work(material).items()}}
        return Ours(material, batch, number_format, settings[name])
    from bench.peers import HfTrainer, SentenceTransformers

    if name.startswith("HF"):
        return HfTrainer(material, batch, number_format, max_length=name.endswith("max_length"))
    return SentenceTransformers(material, batch, number_format)


def same_work(material: Material, batch: int) -> dict[str, Any]:
    """Loss and gradient norm of each contestant on the first rows, and the floating-point work of a pair.

    The work is what torch counts of this project's forward and backward pass: matrix products and convolutions, with
    titles padded to the longest of their batch and without gradients of frozen weights.

    Raises:
        SystemExit: they differ, so that times would compare different work.
    """
    found: dict[str, Any] = {"gflop_per_pair": {}}
    rows = list(range(batch))
    for name in CONTESTANTS:
        contestant = build(name, material, batch, "fp32")
        flops, loss = counted(contestant, rows)
        if name == OURS:
            found["gflop_per_pair"][name] = flops / batch / 1e9
        gradients = [one.grad for one in contestant.trained()]
        assert all(gradient is not None for gradient in gradients), name
        norm = torch.nn.utils.get_total_norm(gradients)
        found[name] = {"loss": float(loss.detach()), "gradient": float(norm)}
    refuse_different(found)
    for less in LESS:
        contestant = build(f"{OURS}, {less}", material, batch, "fp32")
        for module in contestant.task.modules():
            module.train()
        counted(contestant, rows)  # a trunk is kept from now on
        found["gflop_per_pair"][f"{OURS}, {less}"] = counted(contestant, rows)[0] / batch / 1e9
    return found


def counted(contestant: Any, rows: list[int]) -> tuple[int, torch.Tensor]:
    """Floating-point operations of a forward and backward pass as torch counts them, and its loss."""
    with FlopCounterMode(display=False) as counter:
        loss = contestant.loss(rows)
        loss.backward()
    return counter.get_total_flops(), loss


def refuse_different(found: dict[str, Any]) -> None:
    """Raise where a contestant computes something else.

    Raises:
        SystemExit: one differs from the first.
    """
    wanted = found[OURS]
    for name in CONTESTANTS[1:]:
        for what, value in found[name].items():
            if not abs(value - wanted[what]) <= TOLERANCE * abs(wanted[what]):
                raise SystemExit(f"{name} computes another {what} of the same rows: {value} and not {wanted[what]}")


def page(found: list[Measured], facts: dict[str, Any]) -> str:
    losses = ", ".join(f"{name} {facts[name]['loss']:.5f}" for name in CONTESTANTS)
    gradients = ", ".join(f"{facts[name]['gradient']:.5g}" for name in CONTESTANTS)
    need = facts["gflop_per_pair"]
    less = ", ".join(f"{need[f'{OURS}, {name}']:.1f} ({name})" for name in LESS)
    return (
        f"The same rows give the losses {losses}, and gradients of norm {gradients}. A pair needs {need[OURS]:.1f} "
        f"GFLOP, and with less work {less}.\n\n{table(found, COLUMNS)}"
    )
