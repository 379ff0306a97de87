"""Training: pairs a second of a ViT-B/32 with LoRA, beside what the machine's matrix product would allow."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from bench.machine import gemm_gflops, peak_mib
from bench.material import Material
from bench.rounds import Case, Column, Measured, table

CONTESTANTS = ("vectoruniverse", "HF Trainer + peft", "HF Trainer + peft, max_length", "sentence-transformers + peft")
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
    return Case("training", "check", "all", {"folder": str(options.work), "batch": options.batch[0]})


def cases(options: Namespace, facts: dict[str, Any]) -> list[Case]:
    return [
        Case(
            "training",
            f"{number_format}, batch {batch}",
            name,
            {
                "folder": str(options.work),
                "format": number_format,
                "batch": batch,
                "gflop": facts["gflop_per_pair"],
                "epochs": options.epochs,
            },
        )
        for number_format in options.formats
        for batch in options.batch
        for name in CONTESTANTS
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
    memory, later = peak_mib(), sum(seconds[1:]) / len(seconds[1:])
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
    if name == "vectoruniverse":
        from bench.ours import Ours

        return Ours(material, batch, number_format)
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
    from torch.utils.flop_counter import FlopCounterMode

    found: dict[str, Any] = {}
    rows = list(range(batch))
    for name in CONTESTANTS:
        contestant = build(name, material, batch, "fp32")
        with FlopCounterMode(display=False) as counter:
            loss = contestant.loss(rows)
            loss.backward()
        if name == CONTESTANTS[0]:
            found["gflop_per_pair"] = counter.get_total_flops() / batch / 1e9
        gradients = [one.grad for one in contestant.trained()]
        assert all(gradient is not None for gradient in gradients), name
        norm = torch.nn.utils.get_total_norm(gradients)
        found[name] = {"loss": float(loss.detach()), "gradient": float(norm)}
    refuse_different(found)
    return found


def refuse_different(found: dict[str, Any]) -> None:
    """Raise where a contestant computes something else.

    Raises:
        SystemExit: one differs from the first.
    """
    wanted = found[CONTESTANTS[0]]
    for name in CONTESTANTS[1:]:
        for what, value in found[name].items():
            if not abs(value - wanted[what]) <= TOLERANCE * abs(wanted[what]):
                raise SystemExit(f"{name} computes another {what} of the same rows: {value} and not {wanted[what]}")


def page(found: list[Measured], facts: dict[str, Any]) -> str:
    losses = ", ".join(f"{name} {facts[name]['loss']:.5f}" for name in CONTESTANTS)
    gradients = ", ".join(f"{facts[name]['gradient']:.5g}" for name in CONTESTANTS)
    return (
        f"The same rows give the losses {losses}, and gradients of norm {gradients}. A pair needs "
        f"{facts['gflop_per_pair']:.1f} GFLOP.\n\n{table(found, COLUMNS)}"
    )
