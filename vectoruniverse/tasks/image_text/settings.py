"""The experiment file of task ``image_text``: pictures and texts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vectoruniverse.config.losses import AlignmentAnisotropyConfig, LabelledLossConfig, logit_start, loss_pairs
from vectoruniverse.config.sections import (
    AdapterSettings,
    Block,
    ContrastiveTrainConfig,
    Encoding,
    Experiment,
    LabelTemplate,
    Positive,
    RetrievalEvalConfig,
    Section,
    Share,
    SplitConfig,
)
from vectoruniverse.models.sizes import ScratchClip


class ColumnsConfig(Section):
    """Names of the columns in the metadata file; null takes the layout's own name."""

    id: str | None = Field(None, description="Row id (layout id: `Id`; picture = a file of that name below images).")
    file: str | None = Field(None, description="Picture path (imagefolder: `file_name`; open_clip: `filepath`).")
    title: str | None = Field(None, description="Title (id: `Title`; imagefolder: `text`; open_clip: `title`).")
    labels: str | None = Field(None, description="Labels, one or several in a cell (id: `Category`; others: none).")
    image: str | None = Field(
        None,
        description="Of packed data, the column that holds pictures, or in tar files the ending of their members; "
        "null: the only one there is.",
    )


class DataConfig(Section):
    """Pictures and their texts: a folder of pictures and its metadata file, or files that hold many samples each."""

    root: str = Field(
        description="Folder of a metadata file and pictures, or packed files: their folder, one of them, or a pattern "
        "such as `shard-{000000..000010}.tar`; relative to the working directory, else to the experiment file."
    )
    format: Literal["auto", "folder", "parquet", "webdataset", "datasets"] = Field(
        "auto",
        description="`folder`: a metadata file beside pictures; packed: `parquet` files with a column of picture "
        "bytes, `webdataset` tar files, or what Hugging Face `datasets` saved; `auto`: told by what is there.",
    )
    metadata: str = Field("metadata.csv", description="Metadata file, relative to root.")
    encoding: Encoding = Field("utf-8", description="Encoding of the metadata file, as in `cp949` or `utf-16`.")
    layout: Literal["auto", "id", "imagefolder", "open_clip"] = Field(
        "auto",
        description="`id`: Id → file below images; `imagefolder`: Hugging Face; `open_clip`: tab-separated; "
        "`auto`: told by the header.",
    )
    images: str = Field("images", description="Folder of the pictures below root (layout id).")
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig, description="Column names, where they differ.")
    text: str = Field("{title}", description="Template of the text: `{title}`, `{labels}` or any `{Column}`.")
    label_separator: str = Field(",", min_length=1, description="What separates labels within a cell.")
    include: dict[str, list[str]] = Field(
        default_factory=dict, description="Keep only rows whose column (or one of its labels) is in the list."
    )
    exclude: dict[str, list[str]] = Field(
        default_factory=dict, description="Drop rows whose column (or one of its labels) is in the list."
    )
    split: SplitConfig = Field(default_factory=SplitConfig, description="Training, validation and test rows.")
    max_bad_share: Share = Field(0.01, description="Stop when more than this share of the rows cannot be used.")
    max_pixels: int = Field(
        64_000_000, ge=1, le=1_000_000_000, description="Refuse pictures with more pixels (width x height)."
    )
    fit: Literal["crop", "squash", "pad"] | None = Field(
        None,
        description="Make a picture square: `crop` the middle as CLIP does, `squash` both sides as SigLIP does, `pad` "
        "in black; null: as the model's own image processor does.",
    )
    cache_size: int | None = Field(
        None, ge=8, le=2048, description="Side of the decoded pictures, pixels; null takes the model's input size."
    )
    store: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Keep decoded pictures on disk (`on`), or decode them whenever they are read (`off`), for data too "
        "large for that; `auto`: off where they would take more than 64 GiB.",
    )
    cache_dir: str | None = Field(None, description="Decoded pictures; null: `$VU_CACHE` or `~/.cache/vectoruniverse`.")


class TextViewsConfig(Section):
    """Views of a text, drawn anew at each step; evaluation reads `data.text`."""

    templates: list[str] | None = Field(
        None,
        min_length=1,
        description="Templates as in data.text, of which each view draws one; null: data.text alone.",
    )
    word_dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="Probability that a word is left out of a view; one word always stays."
    )
    shuffle_labels: bool = Field(False, description="Draw the order of a row's labels.")

    @model_validator(mode="after")
    def _draws_something(self) -> TextViewsConfig:
        if len(set(self.templates or [""])) == 1 and not self.word_dropout and not self.shuffle_labels:
            raise ValueError(
                "text: draws nothing; give several templates, word_dropout or shuffle_labels, or remove it"
            )
        return self


class ViewsConfig(Section):
    """Views of a picture, made on the device, and of its text."""

    count: int = Field(2, ge=1, le=2, description="Views of a picture in one step: 2 gives I and I+.")
    crop_scale: list[Annotated[float, Field(le=1e6)]] = Field(
        default=[0.8, 1.0], min_length=2, max_length=2, description="Range of the cropped share of the area."
    )
    crop_ratio: list[Annotated[float, Field(le=1e6)]] = Field(
        default=[0.9, 1.1111], min_length=2, max_length=2, description="Range of the crop's width / height."
    )
    brightness: Share = Field(0.2, description="Factor drawn from 1 - x to 1 + x; 0 is off.")
    contrast: Share = Field(0.2, description="Factor drawn from 1 - x to 1 + x; 0 is off.")
    saturation: Share = Field(0.2, description="Factor drawn from 1 - x to 1 + x; 0 is off.")
    flip: bool = Field(False, description="Mirror half of the views; off, since titles describe writing in pictures.")
    patch_dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Share of each view's patches that the image tower does not read in training, which makes a step "
        "cheaper (arXiv:2212.00794); 0 is off.",
    )
    pool: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Draw views from so many fixed ones of each picture, for which frozen blocks below the first "
        "adapted one are computed once (lora, with upper blocks named in adapter.vision_layers_to_transform or "
        "text_layers_to_transform); null: new views in every epoch.",
    )
    text: TextViewsConfig | None = Field(None, description="Views of a text; null: all are data.text.")

    @model_validator(mode="after")
    def _ranges(self) -> ViewsConfig:
        low, high = self.crop_scale
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(f"crop_scale must be 0 < low <= high <= 1, got [{low}, {high}]")
        low, high = self.crop_ratio
        if not 0.0 < low <= high:
            raise ValueError(f"crop_ratio must be 0 < low <= high, got [{low}, {high}]")
        if self.pool is not None and self.pool < self.count:
            raise ValueError(
                f"pool: {self.pool} gives no {self.count} views that differ; set count to 1 or pool higher"
            )
        if self.pool is not None and self.text is not None:
            raise ValueError("pool: texts are kept as they are, and views.text draws them anew; remove one of the two")
        return self


class AdapterConfig(AdapterSettings):
    """What is trained on the encoder."""

    vision_targets: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "out_proj"],
        description="Layers of the image tower, by name; `attention`: the family's own; `c_attn.q`: a slice (lora).",
    )
    text_targets: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "out_proj"],
        description="Layers of the text tower, by name; `attention`: the family's own; `c_attn.q`: a slice (lora).",
    )
    vision_layers_to_transform: list[Block] | None = Field(
        None, description="Blocks of the image tower that are adapted, counted from 0 (lora); null: all."
    )
    text_layers_to_transform: list[Block] | None = Field(
        None, description="Blocks of the text tower that are adapted, counted from 0 (lora); null: all."
    )
    train_logit_scale: bool = Field(False, description="Also train the logit scale (and siglip's logit bias).")
    train_projections: bool = Field(False, description="Also train the projections into the shared space.")

    @model_validator(mode="after")
    def _adapts_something(self) -> AdapterConfig:
        if self.has_rank and not self.vision_targets and not self.text_targets:
            raise ValueError("vision_targets and text_targets are both empty: lora would adapt nothing")
        return self


class PreserveConfig(Section):
    """Embedding distillation towards the frozen base, so that adapting loses less of what the base knew."""

    weight: Positive = Field(10.0, description="Factor on the distance from the base's vectors in the loss.")
    distance: Literal["cosine", "squared"] = Field(
        "cosine", description="`cosine`: 1 - s·t; `squared`: ‖s - t‖², which for unit vectors is twice that."
    )
    rows: int = Field(
        64, ge=1, le=1_000_000, description="Rows of `forgetting` that each step distils too, where it is given."
    )


class HardNegativesConfig(Section):
    """Rows whose vectors are near each other when an epoch begins share a batch (arXiv:2407.15831)."""

    share: float = Field(0.5, gt=0.0, le=1.0, description="Share of the training rows that come in pairs of near ones.")
    ceiling: float = Field(
        0.95,
        gt=0.0,
        le=1.0,
        description="Rows nearer than this share of the score of their own pictures and texts are no pair.",
    )


class ImageTextTrainConfig(ContrastiveTrainConfig):
    """The training loop."""

    sampler: Literal["shuffle", "labels", "groups", "no_duplicates"] = Field(
        "shuffle",
        description="Which rows share a batch; each comes once an epoch. `shuffle`: any; `labels`: as many of each "
        "label in every batch; `groups`: rows with one value of `data.split.group_by` by fours; `no_duplicates`: none "
        "with the same picture or text.",
    )
    hard_negatives: HardNegativesConfig | None = Field(
        None, description="Pair near rows, found anew before each epoch by encoding all training rows; null is off."
    )
    preserve: PreserveConfig | None = Field(
        None, description="Hold the vectors of training rows (and of half of the `forgetting` rows) near the base's."
    )


class ImageTextEvalConfig(RetrievalEvalConfig):
    """Evaluation before the first step, after each epoch and by `vu eval`."""

    label_template: LabelTemplate | None = Field(
        "{label}", description="Text of a label for zero-shot accuracy; null leaves labels out of the evaluation."
    )
    rivals: bool = Field(
        True,
        description="Also evaluate what costs no training: maps, probe and cache fitted on the base's vectors.",
    )


class ForgettingConfig(Section):
    """Rows of the same folder that the base model already knew, to see what adapting made it lose."""

    include: dict[str, list[str]] = Field(
        default_factory=dict, description="Keep only rows whose column (or one of its labels) is in the list."
    )
    exclude: dict[str, list[str]] = Field(
        default_factory=dict, description="Drop rows whose column (or one of its labels) is in the list."
    )
    rows: int | None = Field(
        1000, ge=2, le=1_000_000_000, description="At most so many rows, chosen by their content; null takes all."
    )
    scales: list[Annotated[float, Field(ge=0.0, le=1.0)]] = Field(
        default=[0.0, 0.25, 0.5, 0.75, 1.0], min_length=2, description="Shares of the adapter's update to try."
    )


class ImageTextExperiment(Experiment):
    """Contrastive fine-tuning of a CLIP-like dual encoder on pictures and texts."""

    model: str | ScratchClip = Field(
        description="`tiny-clip`, a Hugging Face name, a local folder, or a model built from scratch."
    )
    data: DataConfig = Field(description="Pictures and texts.")
    views: ViewsConfig = Field(default_factory=ViewsConfig, description="Views of pictures and texts.")
    adapter: AdapterConfig = Field(default_factory=AdapterConfig, description="What is trained.")
    loss: LabelledLossConfig = Field(
        default_factory=lambda: AlignmentAnisotropyConfig(name="alignment_anisotropy"), description="What is minimised."
    )
    train: ImageTextTrainConfig = Field(default_factory=ImageTextTrainConfig, description="The loop.")
    eval: ImageTextEvalConfig = Field(default_factory=ImageTextEvalConfig, description="Evaluation.")
    forgetting: ForgettingConfig | None = Field(
        None, description="What the base knew before: rows on which the forgetting ledger tells what adapting lost."
    )

    @property
    def training_templates(self) -> list[str]:
        """Templates of the texts that training reads, each once."""
        texts = self.views.text
        return list(dict.fromkeys((texts.templates if texts is not None else None) or [self.data.text]))

    def _why_whole(self) -> str | None:
        pooled = (
            None if self.views.pool is None else "views.pool passes no whole tower, and shards are gathered by towers"
        )
        return super()._why_whole() or pooled

    @model_validator(mode="after")
    def _consistent(self) -> ImageTextExperiment:
        if self.views.count == 1 and any("I+" in pair for pair in loss_pairs(self.loss)):
            raise ValueError("views.count: 1 gives no I+, which loss pairs with I+ need; choose pairs without it")
        if self.loss.negatives.groups != "off" and self.data.split.group_by is None:
            raise ValueError("loss.negatives.groups: needs the column of groups; name it in data.split.group_by")
        if self.train.sampler != "shuffle" and self.train.hard_negatives is not None:
            raise ValueError("train.hard_negatives says which rows share a batch; set train.sampler to shuffle")
        if self.train.sampler == "groups" and self.data.split.group_by is None:
            raise ValueError("train.sampler: groups needs the column of groups; name it in data.split.group_by")
        shuffles = self.views.text is not None and self.views.text.shuffle_labels
        if shuffles and not any("{labels}" in template for template in self.training_templates):
            raise ValueError("views.text.shuffle_labels: no template holds {labels}; add one that does")
        temperature = logit_start(self.loss)["temperature"] if self.adapter.train_logit_scale else None
        if temperature is not None and not 0.01 <= temperature <= 1.0:
            raise ValueError(
                f"loss.temperature: a trained logit scale stays within 1 to 100 and cannot start at 1/{temperature:g}; "
                "choose from 0.01 to 1"
            )
        if self.views.pool is not None and self.adapter.method != "lora":
            raise ValueError(
                f"views.pool: keeps what blocks below LoRA give, and adapter.method {self.adapter.method} changes all "
                "of them; remove it"
            )
        if self.train.preserve is not None and self.draws_base:
            raise ValueError("train.preserve: a model of random weights knows nothing to preserve; remove it")
        return self
