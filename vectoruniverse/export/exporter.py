"""One export, top to bottom: load → ask the run → write → ask the other library → compare → card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vectoruniverse.api import LoadedRun, load_run
from vectoruniverse.errors import ConfigError
from vectoruniverse.export.card import hub_name, write_card
from vectoruniverse.export.check import Agreement, Vectors, compare, make_probe, others_silenced
from vectoruniverse.export.folder import exported_files, new_folder
from vectoruniverse.export.formats import FORMATS, Peft, Transformers
from vectoruniverse.export.packages import require_packages
from vectoruniverse.models.source import BUILT_IN
from vectoruniverse.runs.listing import find_trained_run
from vectoruniverse.tasks.experiments import load_config_of
from vectoruniverse.tasks.image_text.setup import as_image_text


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export left.

    Attributes:
        folder: where it is.
        files: bytes of each file, by its path in ``folder``.
        agreement: how far the other library's vectors are from the run's.
    """

    folder: Path
    files: dict[str, int]
    agreement: Agreement


def export_run(
    reference: str, to: str, *, runs_dir: Path = Path("runs"), out: Path | None = None, repo: str | None = None
) -> Exported:
    """Write a finished run in another library's format, in fp32 on the CPU, and check it through that library.

    Args:
        reference: the run, as for ``load_run``.
        to: one of ``FORMATS``.
        runs_dir: folder of the runs.
        out: folder to make; ``export/<format>`` in the run folder unless given.
        repo: repository on the hub that it is meant for; the card's snippet loads it from there.

    Raises:
        ConfigError: no such run or format, a package is absent, or something else is at ``out``.
        ExportError: the other library gives other vectors.
        ResourceError: the disk is full.
    """
    require_packages(to)
    form = FORMATS[to]
    as_image_text(load_config_of(find_trained_run(runs_dir, reference)), "vu export")
    loaded = load_run(reference, runs_dir=runs_dir, device="cpu", precision="fp32")
    if repo is not None:
        _refuse_base_that_stays_here(loaded, form)
    if loaded.adapter is not None and not loaded.adapter.mergeable:
        raise ConfigError(
            f"a {loaded.adapter.words} cannot be merged into weights, so there is no model to export",
            remedy=f"use it as it stands: {loaded.run.adapter} is in peft's format, and load_run reads the run",
        )
    if loaded.experiment.quantization is not None and isinstance(form, Peft):
        raise ConfigError(
            f"the adapter was trained on weights in {loaded.experiment.quantization}, and on the plain ones that peft "
            "would load the model gives other vectors",
            remedy=f"use --to transformers, which merges it into what it was trained on; {loaded.run.adapter} is in "
            "peft's format, for a base that is quantised alike",
        )
    folder = out or loaded.run.path / "export" / form.name
    with new_folder(folder, {"run": loaded.run.name, "format": form.name}) as temporary, others_silenced():
        probe = make_probe(loaded)
        expected = Vectors(loaded.embed_squares(probe.squares), loaded.embed_texts(probe.texts))
        form.write(loaded, temporary)
        found = form.embed(temporary, probe)
        agreement = compare(expected, found, reader=form.reader, tolerance=form.tolerance, source=probe.source)
        write_card(loaded, form, agreement, temporary, repo)
    return Exported(folder, exported_files(folder), agreement)


def _refuse_base_that_stays_here(loaded: LoadedRun, form: Transformers) -> None:
    """An adapter on the hub whose base is a folder of this machine would be of no use to anybody."""
    if isinstance(form, Peft) and hub_name(loaded) is None and loaded.experiment.model not in BUILT_IN:
        raise ConfigError(
            "the adapter's base is a folder of this machine, which nobody else could load it with",
            remedy="push a whole model with --to transformers, or a base that is on the hub",
        )
