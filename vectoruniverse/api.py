"""A finished run in a program of your own: pictures and texts to unit vectors, or texts to classes.

Shapes: N inputs or rows, S side of the stored picture, E shared embedding, C classes.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vectoruniverse.adapters.base import Adapter
from vectoruniverse.adapters.methods import put_on
from vectoruniverse.config.sections import Experiment
from vectoruniverse.data.decoding import (
    PictureError,
    PictureRecipe,
    decode_content,
    decode_picture,
    pillow_warnings_silenced,
)
from vectoruniverse.data.text_table import open_table, text_rows
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import DualEncoder
from vectoruniverse.models.heads import TextClassifier
from vectoruniverse.models.text import TextEncoder
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.label_records import LabelInput
from vectoruniverse.runs.listing import default_runs_dir, find_trained_run
from vectoruniverse.tasks.classification import setup as classification
from vectoruniverse.tasks.classification.settings import ClassificationExperiment
from vectoruniverse.tasks.identity import run_experiment
from vectoruniverse.tasks.image_text.label_rules import read_labels
from vectoruniverse.tasks.image_text.labels import make_fusion
from vectoruniverse.tasks.image_text.model import adapter_host, load_encoder, load_whole, picture_recipe
from vectoruniverse.tasks.image_text.predict import LabelPredictor, PredictedLabels
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.tasks.image_text.setup import as_image_text
from vectoruniverse.tasks.predictions import Predictions
from vectoruniverse.tasks.rows import tell_doubts
from vectoruniverse.terminal import Display
from vectoruniverse.training.device import choose_compute

Picture = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A file, an open Pillow image, or RGB bytes of shape (height, width, 3)."""

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
"""Pillow modes that a PNG holds without loss."""


class LoadedRun:
    """The model of a run: base and adapter together, in evaluation mode.

    Vectors are equal to those that ``vu eval`` evaluates: the same recipe makes the pictures square, the same tokenizer
    cuts the texts, the same code encodes them.

    Attributes:
        run: the run folder.
        experiment: its configuration.
        encoder: the model, with the adapter on it.
        adapter: what was put on the encoder; None where every parameter was trained, or where this is a run's base.
        compute: where and in which format it computes.
        recipe: how a picture becomes a square.
    """

    def __init__(
        self,
        run: Run,
        experiment: ImageTextExperiment,
        encoder: DualEncoder,
        adapter: Adapter | None,
        compute: Compute,
    ) -> None:
        """Bind a model to the run that it belongs to; see ``load_run``."""
        self.run, self.experiment, self.compute = run, experiment, compute
        self.encoder, self.adapter = encoder, adapter
        self.recipe = picture_recipe(experiment, encoder)
        encoder.model.eval()

    @functools.cached_property
    def base(self) -> LoadedRun:
        """The model as it was before training, loaded beside this one the first time it is asked for.

        Raises:
            ConfigError: the run trained a model from random weights, or its base cannot be loaded any more.
        """
        encoder = load_encoder(as_image_text(run_experiment(self.run), self.run.name), self.compute)
        if encoder is None:
            raise ConfigError(f"{self.run.name} began with random weights, which are no model to compare with")
        return LoadedRun(self.run, self.experiment, encoder, None, self.compute)

    def embed_images(self, pictures: Sequence[Picture], *, batch_size: int = 64) -> NDArray[np.float32]:
        """Unit vectors of pictures, (N, E).

        Args:
            pictures: files, Pillow images and uint8 arrays (height, width, 3), mixed as you like. Rotation by EXIF,
                transparency, and the limits on pixels and aspect ratio are as in training.
            batch_size: pictures decoded and encoded at a time.

        Raises:
            PictureError: a picture cannot be used; names its file, or its place among ``pictures``.
        """
        if isinstance(pictures, str | os.PathLike | Image.Image):
            raise TypeError("embed_images takes a sequence of pictures, not one picture")
        if not len(pictures):
            return self.embed_texts([], batch_size=batch_size)
        with pillow_warnings_silenced(), ThreadPoolExecutor() as pool:

            def take(part: slice) -> NDArray[np.uint8]:
                places = range(len(pictures))[part]
                chosen = [pictures[i] for i in places]
                return np.stack(list(pool.map(functools.partial(_square, recipe=self.recipe), chosen, places)))

            return _array(self.encoder.embed_squares(take, len(pictures), batch_size=batch_size))

    def embed_squares(self, squares: NDArray[np.uint8], *, batch_size: int = 64) -> NDArray[np.float32]:
        """Unit vectors of pictures that are square already: uint8 (N, S, S, 3) → float32 (N, E)."""
        return _array(self.encoder.embed_squares(squares.__getitem__, len(squares), batch_size=batch_size))

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> NDArray[np.float32]:
        """Unit vectors of texts, (N, E).

        Args:
            texts: texts; one that is longer than the model reads is cut. The template ``data.text`` is not applied.
            batch_size: texts encoded at a time.
        """
        if isinstance(texts, str):
            raise TypeError("embed_texts takes a sequence of texts, not one text")
        return _array(self.encoder.embed_texts(self.encoder.tokenize(texts), batch_size=batch_size))

    def predict(
        self,
        pictures: Sequence[Picture] | None = None,
        texts: Sequence[str] | None = None,
        *,
        batch_size: int = 64,
    ) -> PredictedLabels:
        """Which labels pictures have, or texts, or both together, by the rules learned on the run's validation rows.

        Args:
            pictures: as of ``embed_images``; None: by texts alone.
            texts: as of ``embed_texts``, one for each picture; None: by pictures alone.
            batch_size: rows encoded at a time.

        Raises:
            ConfigError: the run has no rules, or none for this input.
            PictureError: a picture cannot be used.
        """
        if (pictures is None and texts is None) or (pictures and texts and len(pictures) != len(texts)):
            raise TypeError("predict takes pictures, texts, or as many of both")
        predictor = self._predictor
        image = None if pictures is None else torch.from_numpy(self.embed_images(pictures, batch_size=batch_size))
        text = None if texts is None else torch.from_numpy(self.embed_texts(texts, batch_size=batch_size))
        return predictor.tell(image, text)

    def predict_table(
        self, file: Path, display: Display, *, encoding: str = "utf-8", by: LabelInput | None = None
    ) -> Predictions:
        """Which labels the rows of a metadata file have, whose pictures lie beside it as those of the run's data do.

        Args:
            file: the table.
            display: is told of what cannot be predicted, and of progress.
            encoding: of the table.
            by: ``picture``, ``text``, ``both``, or ``fused`` where a fusion was trained; None: each row by all that it
                has.

        Raises:
            ConfigError: the run has no rules, or none for this input.
            DataError: the file cannot be read as a table, or lacks a column.
        """
        return self._predictor.predict_table(file, display, encoding=encoding, by=by)

    @functools.cached_property
    def _predictor(self) -> LabelPredictor:
        if (learned := read_labels(self.run.adapter, self.encoder.width)) is None:
            raise ConfigError(
                "this run has learned no labels: its validation rows have none, no two labels tell rows apart, "
                "or an earlier version made it",
                file=self.run.path,
                remedy=f"where its validation rows have labels, vu eval {self.run.name} --split val learns them",
            )
        is_fused = "fused" in learned.rules.models["adapted"]
        fusion = make_fusion(self.experiment, self.encoder, self.run.adapter) if is_fused else None
        return LabelPredictor(self.encoder, self.experiment, self.recipe, learned, fusion)


class LoadedClassifier:
    """The model of a run of task ``sequence_classification`` or ``pair_classification``, in evaluation mode.

    Attributes:
        run: the run folder.
        experiment: its configuration.
        model: encoders, with what was trained on them, and head.
        names: of the classes.
    """

    def __init__(
        self,
        run: Run,
        experiment: ClassificationExperiment,
        encoder: TextEncoder,
        model: TextClassifier,
        names: tuple[str, ...],
    ) -> None:
        """Bind a model to the run that it belongs to; see ``load_classifier``."""
        self.run, self.experiment, self.model, self.names = run, experiment, model, names
        self._encoder = encoder
        model.eval()

    def predict(
        self, *texts: Sequence[str], batch_size: int = 64, display: Display | None = None
    ) -> NDArray[np.float32]:
        """Probability of each class, (N, C).

        Args:
            texts: one sequence of N texts; two, of first and second texts, where the run classifies pairs.
            batch_size: texts encoded at a time.
            display: is told of texts that are longer than the model reads.
        """
        roles = list(classification.text_columns(self.experiment))
        if len(texts) != len(roles) or any(isinstance(column, str) for column in texts):
            raise TypeError(f"predict takes {len(roles)} sequence{'s' * (len(roles) > 1)} of texts: {', '.join(roles)}")
        if not texts[0]:
            return np.zeros((0, len(self.names)), dtype=np.float32)
        columns = dict(zip(roles, texts, strict=True))
        inputs = classification.tokenize(self.experiment, self._encoder, columns, display or Display(quiet=True))
        found: NDArray[np.float32] = self.model.predict(inputs, batch_size=batch_size).numpy()
        return found

    def predict_table(self, file: Path, display: Display, *, encoding: str = "utf-8") -> Predictions:
        """What the classifier says of the rows of a table with the columns that the run was trained on.

        Raises:
            ConfigError: a column is not there, or there is no such encoding.
            DataError: the file cannot be read as a table.
        """
        columns = classification.text_columns(self.experiment)
        table = open_table(file, encoding=encoding, keys={"file": "--input", "encoding": "--encoding"})
        found = text_rows(table, texts=columns)
        tell_doubts(found.doubts, file, display)
        texts = [[row.texts[role] for row in found.rows] for role in columns]
        return Predictions.of_classes(table, found.rows, found.bad, self.names, self.predict(*texts, display=display))


def load_run(
    reference: str | os.PathLike[str],
    *,
    runs_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> LoadedRun:
    """Load the model of a finished run.

    Args:
        reference: a path; a full name; ``latest`` (of the finished ones); the name of an experiment, for its latest
            run; a unique prefix.
        runs_dir: folder of the runs; without it ``VU_RUNS``, else ``runs``.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``; not necessarily what the run was trained on.
        precision: ``auto`` (the usual one of the device: fp32 on a CPU), ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        ConfigError: there is no such run, it has no adapter yet, its base cannot be loaded, or the device is absent.
        DataError: the adapter is damaged.
    """
    run, experiment = _find(reference, runs_dir)
    if not isinstance(experiment, ImageTextExperiment):
        said = f"is of task {experiment.task}; only runs of task image_text can be loaded so, or exported"
        raise ConfigError(said, file=run.path, key="task")
    compute = choose_compute(device, precision)
    if experiment.adapter.trains_everything:  # what is saved needs no base, which may be gone
        return LoadedRun(run, experiment, load_whole(run.adapter.absolute(), compute), None, compute)
    encoder = load_encoder(experiment, compute)
    assert encoder is not None, "the config refuses an adapter on a model from scratch"
    host = adapter_host(encoder, experiment, compute)
    adapter = put_on(host, experiment.adapter, experiment.seed, trained=run.adapter)
    return LoadedRun(run, experiment, encoder, adapter, compute)


def load_classifier(
    reference: str | os.PathLike[str],
    *,
    runs_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> LoadedClassifier:
    """Load the classifier of a finished run; arguments as for ``load_run``.

    Raises:
        ConfigError: there is no such run, it has trained nothing yet, it is no classifier, or its base
            cannot be loaded.
        DataError: what it saved is damaged.
    """
    run, experiment = _find(reference, runs_dir)
    if not isinstance(experiment, ClassificationExperiment):
        raise ConfigError(f"{run.name} is of task {experiment.task}, which has no classes to predict")
    compute = choose_compute(device, precision)
    encoder, model, names = classification.load_classifier(experiment, compute, run.adapter.absolute())
    return LoadedClassifier(run, experiment, encoder, model, names)


def load_predictor(
    reference: str | os.PathLike[str], *, runs_dir: str | os.PathLike[str] | None = None
) -> LoadedRun | LoadedClassifier:
    """Load a run that predicts labels or classes; errors as of ``load_run`` and ``load_classifier``."""
    _, experiment = _find(reference, runs_dir)
    if isinstance(experiment, ImageTextExperiment):
        return load_run(reference, runs_dir=runs_dir)
    return load_classifier(reference, runs_dir=runs_dir)


def _find(reference: str | os.PathLike[str], runs_dir: str | os.PathLike[str] | None) -> tuple[Run, Experiment]:
    run = find_trained_run(Path(runs_dir or default_runs_dir()), os.fspath(reference))
    return run, run_experiment(run, trained_model_only=True)


def _array(vectors: Tensor) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = vectors.numpy()
    return rows


def _square(picture: Picture, position: int, recipe: PictureRecipe) -> NDArray[np.uint8]:
    """Any kind of picture as RGB bytes (S, S, 3), through the one door that files of a data set go through."""
    if isinstance(picture, str | os.PathLike):
        path = Path(picture)
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # told by decode_picture, which comes next
            path = path.resolve()
        return decode_picture(path, recipe)
    source = Path(f"picture {position}")
    image = picture if isinstance(picture, Image.Image) else _image(picture, source)
    return decode_content(_png(image, source, recipe.max_pixels), source, recipe)


def _image(array: object, source: Path) -> Image.Image:
    usable = isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3
    if not usable or not array.size:  # type: ignore[attr-defined] # an array, as the line above says
        raise PictureError(source, "is neither a path, nor a Pillow image, nor uint8 of shape (height, width, 3)")
    return Image.fromarray(np.ascontiguousarray(array))


def _png(image: Image.Image, source: Path, max_pixels: int) -> bytes:
    """An open image as the bytes of a file; its size is looked at before its pixels are loaded."""
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(source, f"has {width} x {height} pixels, more than data.max_pixels allows ({max_pixels:,})")
    content, exif = io.BytesIO(), None
    try:
        with contextlib.suppress(Exception):  # broken EXIF beside sound pixels is common, and raises anything
            exif = image.getexif().tobytes() if image.getexif() else None
        pixels = image if image.mode in _PNG_MODES else image.convert("RGB")
        pixels.save(content, "PNG", compress_level=0, exif=exif)
    except Exception as error:  # an image over a broken file raises anything when its pixels are loaded
        raise PictureError(source, f"cannot be decoded ({error or type(error).__name__})") from error
    return content.getvalue()
