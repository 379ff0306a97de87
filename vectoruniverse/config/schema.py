"""The experiment file, field by field. A field's description is its documentation: README and JSON schema use it.

Every section refuses unknown keys and settings that contradict each other when it is built, so that a typing error is
found before a night of training and not after it. Values are strict: no text that looks like a number, no 1 for true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")]
LORA_ONLY = (
    *("rank", "alpha", "dropout", "rank_stabilized", "rank_pattern", "alpha_pattern", "dora", "initialisation"),
    *("lora_plus_ratio", "vision_targets", "text_targets", "vision_layers_to_transform", "text_layers_to_transform"),
    "init_from",
)
PairKind = Literal["II", "TT", "I+I+", "T+T+", "IT", "I+T", "IT+", "I+T+", "II+", "TT+"]


class Section(BaseModel):
    """Base of every section: strict values, unknown keys refused, frozen once built."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ScratchClip(Section):
    """A CLIP with random weights and a byte-pair tokenizer trained on the training texts."""

    scratch: Literal["clip"] = Field(description="Architecture to build with random weights.")
    image_size: int = Field(64, ge=16, le=1024, description="Side of the square input picture, pixels.")
    patch_size: int = Field(8, ge=1, description="Side of a patch, pixels; must divide image_size.")
    width: int = Field(192, ge=16, description="Hidden width of both towers.")
    heads: int = Field(3, ge=1, description="Attention heads; must divide width.")
    vision_layers: int = Field(4, ge=1, description="Layers of the image tower.")
    text_layers: int = Field(3, ge=1, description="Layers of the text tower.")
    projection_dim: int = Field(128, ge=1, description="Width of the shared embedding.")
    vocab_size: int = Field(2048, ge=520, description="Size of the byte-pair vocabulary (512 bytes, merges, 2 marks).")
    max_text_tokens: int = Field(32, ge=4, description="Longest text in tokens, marks included.")

    @model_validator(mode="after")
    def _divides(self) -> ScratchClip:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class ColumnsConfig(Section):
    """Names of the columns in the metadata file; null takes the layout's own name."""

    id: str | None = Field(None, description="Row id (layout id: `Id`; picture = a file of that name below images).")
    file: str | None = Field(None, description="Picture path (imagefolder: `file_name`; open_clip: `filepath`).")
    title: str | None = Field(None, description="Title (id: `Title`; imagefolder: `text`; open_clip: `title`).")
    labels: str | None = Field(None, description="Labels, one or several in a cell (id: `Category`; others: none).")


class SplitConfig(Section):
    """How rows are divided; a pure function of the seed and of the rows' content."""

    val_fraction: float = Field(0.2, gt=0.0, lt=1.0, description="Share of the rows held out for validation.")
    seed: int = Field(42, ge=0, description="Seed of the split; independent of the training seed.")
    group_by: str | None = Field(
        None, description="Column whose equal values stay on one side (`Channel`); null groups identical pictures only."
    )


class DataConfig(Section):
    """A folder of pictures and its metadata file."""

    root: str = Field(description="Folder that holds the metadata file and the pictures.")
    metadata: str = Field("metadata.csv", description="Metadata file, relative to root.")
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
    split: SplitConfig = Field(default_factory=SplitConfig, description="Training and validation rows.")
    max_bad_share: Share = Field(0.01, description="Stop when more than this share of the rows cannot be used.")
    max_pixels: int = Field(64_000_000, ge=1, description="Refuse pictures with more pixels (width x height).")
    fit: Literal["crop", "squash", "pad"] = Field(
        "crop",
        description="Make a picture square: `crop` the middle as CLIP does, `squash` both sides, `pad` in black.",
    )
    cache_size: int | None = Field(
        None, ge=8, le=2048, description="Side of the decoded pictures, pixels; null takes the model's input size."
    )
    cache_dir: str | None = Field(None, description="Decoded pictures; null: `$VU_CACHE` or `~/.cache/vectoruniverse`.")


class ViewsConfig(Section):
    """Augmented views of a picture, made on the device."""

    count: int = Field(2, ge=1, le=2, description="Views of a picture in one step: 2 gives I and I+.")
    crop_scale: list[float] = Field(
        default=[0.8, 1.0], min_length=2, max_length=2, description="Range of the cropped share of the area."
    )
    crop_ratio: list[float] = Field(
        default=[0.9, 1.1111], min_length=2, max_length=2, description="Range of the crop's width / height."
    )
    brightness: Share = Field(0.2, description="Factor drawn from 1 - x to 1 + x; 0 is off.")
    contrast: Share = Field(0.2, description="Factor drawn from 1 - x to 1 + x; 0 is off.")
    saturation: Share = Field(0.2, description="Factor drawn from 1 - x to 1 + x; 0 is off.")
    flip: bool = Field(False, description="Mirror half of the views; off, since titles describe writing in pictures.")

    @model_validator(mode="after")
    def _ranges(self) -> ViewsConfig:
        low, high = self.crop_scale
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(f"crop_scale must be 0 < low <= high <= 1, got [{low}, {high}]")
        low, high = self.crop_ratio
        if not 0.0 < low <= high:
            raise ValueError(f"crop_ratio must be 0 < low <= high, got [{low}, {high}]")
        return self


class AdapterConfig(Section):
    """What is trained on the encoder."""

    method: Literal["lora", "full"] = Field("lora", description="`lora`: low-rank updates; `full`: every parameter.")
    rank: int = Field(8, ge=1, description="Rank of the update B·A (lora).")
    alpha: Positive | None = Field(None, description="The update is scaled by alpha / rank (lora); null: alpha = rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the input of A (lora).")
    rank_stabilized: bool = Field(False, description="Scale by alpha / √rank instead (lora; arXiv:2312.03732).")
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="Other ranks for layers whose path a regular expression matches (lora)."
    )
    alpha_pattern: dict[str, Positive] = Field(
        default_factory=dict, description="Other alphas for layers whose path a regular expression matches (lora)."
    )
    dora: bool = Field(False, description="Learn each weight row's length apart from its direction (lora; DoRA).")
    initialisation: Literal["kaiming", "pissa"] = Field(
        "kaiming", description="`kaiming`: B starts at zero; `pissa`: A, B are the weight's first directions (lora)."
    )
    lora_plus_ratio: Positive | None = Field(
        None, description="Learning rate of B as a multiple of A's (lora; LoRA+ finds 2 to 16 good); null: the same."
    )
    vision_targets: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "out_proj"],
        description="Layers of the image tower, by name; `attention`: the family's own; `c_attn.q`: a slice (lora).",
    )
    text_targets: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "out_proj"],
        description="Layers of the text tower, by name; `attention`: the family's own; `c_attn.q`: a slice (lora).",
    )
    vision_layers_to_transform: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Blocks of the image tower that are adapted, counted from 0 (lora); null: all."
    )
    text_layers_to_transform: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Blocks of the text tower that are adapted, counted from 0 (lora); null: all."
    )
    init_from: str | None = Field(None, description="Folder of a peft adapter to start from (lora); its rank counts.")
    train_logit_scale: bool = Field(False, description="Also train the model's logit scale (and logit bias).")
    train_projections: bool = Field(False, description="Also train the projections into the shared space.")

    @model_validator(mode="after")
    def _meaningful(self) -> AdapterConfig:
        if self.method == "full":
            if given := sorted(self.model_fields_set.intersection(LORA_ONLY)):
                raise ValueError(f"method: full trains everything, so {', '.join(given)} would do nothing; remove it")
        elif not self.vision_targets and not self.text_targets:
            raise ValueError("vision_targets and text_targets are both empty: lora would adapt nothing")
        if self.init_from is not None:
            shape = {"rank", "alpha", "rank_stabilized", "rank_pattern", "alpha_pattern", "dora", "initialisation"}
            if given := sorted(self.model_fields_set & shape):
                raise ValueError(f"init_from brings its own {', '.join(given)}; remove it")
        if self.dora and self.initialisation == "pissa":
            raise ValueError("dora and initialisation: pissa do not go together")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what method: full refuses, so that a written experiment can be loaded again."""
        fields: dict[str, Any] = handler(self)
        return {key: value for key, value in fields.items() if self.method == "lora" or key not in LORA_ONLY}


def _refuse_self_pairs(key: str, pairs: Sequence[str]) -> None:
    for pair in pairs:
        if pair in ("II", "TT", "I+I+", "T+T+"):
            raise ValueError(f"{key}: {pair} pairs a vector with itself; its cosine is always 1")


class AlignmentAnisotropyConfig(Section):
    """Alignment + anisotropy in the manner of SimCSE (arXiv:2104.08821), over two views of pictures and texts."""

    name: Literal["alignment_anisotropy"] = Field(description="Which loss.")
    form: Literal["log_sum_exp", "linear"] = Field(
        "log_sum_exp",
        description="`log_sum_exp`: the formula; `linear`: the note's code, which can collapse (see README).",
    )
    temperature: Positive = Field(0.05, description="Divides every cosine (only the alignment in the linear form).")
    alignment_pairs: list[PairKind] = Field(
        default=["II+", "IT", "I+T+", "TT+"], min_length=1, description="Pairs of the same row that are drawn together."
    )
    anisotropy_pairs: list[PairKind] | None = Field(
        None,
        min_length=1,
        description="Pairs of different rows that are pushed apart; null: II, T+T+, IT, I+T+ (linear) "
        "or IT, I+T+, II+, TT+ (log_sum_exp).",
    )
    alignment_weight: Positive = Field(1.0, description="Weight of the alignment part.")
    anisotropy_weight: Annotated[float, Field(ge=0.0)] = Field(1.0, description="Weight of the anisotropy part.")
    symmetric: bool = Field(False, description="Average the log-sum over rows and over columns (log_sum_exp).")

    @model_validator(mode="after")
    def _meaningful(self) -> AlignmentAnisotropyConfig:
        if self.form == "linear" and self.symmetric:
            raise ValueError("symmetric changes nothing in the linear form, whose sum is the same both ways; remove it")
        _refuse_self_pairs("alignment_pairs", self.alignment_pairs)
        return self


class InfoNceConfig(Section):
    """Symmetric InfoNCE, the loss of CLIP (arXiv:2103.00020)."""

    name: Literal["info_nce"] = Field(description="Which loss.")
    temperature: Positive | None = Field(None, description="Divides the cosine; null takes the model's logit scale.")
    pairs: list[PairKind] = Field(default=["IT"], min_length=1, description="Kinds of pairs; the losses are averaged.")

    @model_validator(mode="after")
    def _meaningful(self) -> InfoNceConfig:
        _refuse_self_pairs("pairs", self.pairs)
        return self


class SiglipConfig(Section):
    """Pairwise sigmoid loss, the loss of SigLIP (arXiv:2303.15343)."""

    name: Literal["siglip"] = Field(description="Which loss.")
    temperature: Positive | None = Field(None, description="Divides the cosine; null takes the model's logit scale.")
    bias: float | None = Field(None, description="Added to the logits; null takes the model's logit bias.")


LossConfig = Annotated[AlignmentAnisotropyConfig | InfoNceConfig | SiglipConfig, Field(discriminator="name")]


class CosineRestartsConfig(Section):
    """Linear warm-up, cosine down to base_lr, again and again from a decaying peak."""

    name: Literal["cosine_restarts"] = Field(description="Which schedule.")
    base_lr: Annotated[float, Field(ge=0.0)] = Field(1e-5, description="Learning rate between peaks.")
    period: int = Field(70, ge=2, description="Optimizer steps from one start to the next.")
    warmup: int = Field(17, ge=0, description="Steps of linear warm-up in each period.")
    decay: float = Field(0.9, gt=0.0, le=1.0, description="Factor on the peak after each period.")

    @model_validator(mode="after")
    def _fits(self) -> CosineRestartsConfig:
        if self.warmup >= self.period:
            raise ValueError(f"warmup {self.warmup} must be shorter than period {self.period}")
        return self


class CosineConfig(Section):
    """Linear warm-up, then one cosine down to a share of the peak over the whole training."""

    name: Literal["cosine"] = Field(description="Which schedule.")
    warmup: Share = Field(0.05, description="Share of all steps spent in linear warm-up from 0.")
    final: Share = Field(0.0, description="Learning rate at the end as a share of train.lr.")


class ConstantConfig(Section):
    """Linear warm-up, then train.lr until the end."""

    name: Literal["constant"] = Field(description="Which schedule.")
    warmup: Share = Field(0.0, description="Share of all steps spent in linear warm-up from 0.")


ScheduleConfig = Annotated[CosineRestartsConfig | CosineConfig | ConstantConfig, Field(discriminator="name")]


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(10, ge=0, description="Passes over the training rows.")
    batch_size: int = Field(128, ge=2, description="Rows in one step; each is a negative for the others.")
    lr: Positive = Field(5e-5, description="Peak learning rate.")
    schedule: ScheduleConfig = Field(
        default_factory=lambda: CosineConfig(name="cosine"), description="Learning rate over the steps."
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        0.01, description="AdamW's decoupled decay; biases, norms and scalars are spared."
    )
    clip_grad_norm: Positive | None = Field(1.0, description="Largest norm of the gradient; null is off.")
    early_stopping: int | None = Field(None, ge=1, description="Stop after this many epochs without a better best.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Compute type; auto: bf16 where the hardware has it, fp16 on older GPUs, else fp32."
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto: cuda, else mps, else cpu.")
    log_every: int = Field(10, ge=1, description="Steps between two lines in metrics.jsonl.")


class GuardConfig(Section):
    """Watches the effective rank of the embeddings while training, to catch a collapse."""

    action: Literal["warn", "stop", "off"] = Field("warn", description="What to do when the space collapses.")
    min_share: Share = Field(
        0.5, description="Collapse: effective rank below this share of its value before the first step."
    )


class EvalConfig(Section):
    """Evaluation before the first step, after each epoch and by `vu eval`."""

    recall_at: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 5, 10], min_length=1, description="The k of recall@k."
    )
    monitor: str = Field("recall@5", description="Metric that picks the best checkpoint (mean of both directions).")
    label_template: str | None = Field(
        "{label}", description="Text of a label for zero-shot accuracy; null leaves labels out of the evaluation."
    )
    report: bool = Field(True, description="Write report.html and its figures at the end of a run.")
    keep: Literal["best", "last"] = Field("best", description="Checkpoint that becomes the run's adapter.")
    batch_size: int = Field(256, ge=1, description="Rows encoded at a time.")

    @model_validator(mode="after")
    def _monitored(self) -> EvalConfig:
        known = [f"recall@{k}" for k in self.recall_at]
        if self.label_template is not None and "{label}" not in self.label_template:
            raise ValueError("label_template: does not contain {label}")
        if self.monitor not in known:
            raise ValueError(f"monitor: {self.monitor!r} is not computed; choose one of {', '.join(known)}")
        return self


class ForgettingConfig(Section):
    """Rows of the same folder that the base model already knew, to see what adapting made it lose."""

    include: dict[str, list[str]] = Field(
        default_factory=dict, description="Keep only rows whose column (or one of its labels) is in the list."
    )
    exclude: dict[str, list[str]] = Field(
        default_factory=dict, description="Drop rows whose column (or one of its labels) is in the list."
    )
    rows: int | None = Field(1000, ge=2, description="At most so many rows, chosen by their content; null takes all.")
    scales: list[Annotated[float, Field(ge=0.0, le=1.0)]] = Field(
        default=[0.0, 0.25, 0.5, 0.75, 1.0], min_length=2, description="Shares of the adapter's update to try."
    )


class WandbConfig(Section):
    """Weights & Biases; what is null is left to the WANDB_* variables."""

    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: online where a key is present, else offline; never asks."
    )
    project: str | None = Field(None, description="Project; null: WANDB_PROJECT, else `vectoruniverse`.")
    entity: str | None = Field(None, description="User or team.")
    group: str | None = Field(None, description="Group of runs.")
    tags: list[str] = Field(default_factory=list, description="Tags.")
    notes: str | None = Field(None, description="Notes.")


class ImageTextExperiment(Section):
    """Contrastive fine-tuning of a CLIP-like dual encoder on pictures and texts."""

    name: Name = Field(description="Name of the experiment; runs are called `<name>-<id>`.")
    task: Literal["image_text"] = Field(description="What is learned and how it is judged.")
    seed: int = Field(0, ge=0, description="Seed of initial adapters, order of rows, views and dropout.")
    model: str | ScratchClip = Field(
        description="`tiny-clip`, a Hugging Face name, a local folder, or a model built from scratch."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face name.")
    data: DataConfig = Field(description="Pictures and texts.")
    views: ViewsConfig = Field(default_factory=ViewsConfig, description="Augmented views.")
    adapter: AdapterConfig = Field(default_factory=AdapterConfig, description="What is trained.")
    loss: LossConfig = Field(
        default_factory=lambda: AlignmentAnisotropyConfig(name="alignment_anisotropy"), description="What is minimised."
    )
    train: TrainConfig = Field(default_factory=TrainConfig, description="The loop.")
    guard: GuardConfig = Field(default_factory=GuardConfig, description="Collapse guard.")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="Evaluation.")
    forgetting: ForgettingConfig | None = Field(
        None, description="The base's own task, for a sweep's forgetting ledger."
    )
    wandb: WandbConfig = Field(default_factory=WandbConfig, description="Weights & Biases.")

    @model_validator(mode="after")
    def _consistent(self) -> ImageTextExperiment:
        if isinstance(self.model, ScratchClip) and self.adapter.method != "full":
            raise ValueError("model.scratch has random weights: adapter.method must be full")
        if self.revision is not None and not (isinstance(self.model, str) and "/" in self.model):
            raise ValueError("revision needs a Hugging Face name in model")
        if self.views.count == 1 and any("I+" in pair for pair in self._loss_pairs()):
            raise ValueError("views.count: 1 gives no I+, which loss pairs with I+ need; choose pairs without it")
        return self

    def _loss_pairs(self) -> list[PairKind]:
        if isinstance(self.loss, AlignmentAnisotropyConfig):
            # null stands for pairs of which I+T+ is one, in both forms
            return [*self.loss.alignment_pairs, *(self.loss.anisotropy_pairs or ["I+T+"])]
        return self.loss.pairs if isinstance(self.loss, InfoNceConfig) else []


Experiment = ImageTextExperiment
