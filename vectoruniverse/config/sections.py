"""What every task's experiment file shares. A field's description is its documentation: README and schema use it.

Every section refuses unknown keys and settings that contradict each other when it is built, so that a typing error is
found before a night of training and not after it. Values are strict: no text that looks like a number, no 1 for true.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, le=1e6)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Rank = Annotated[int, Field(ge=1, le=16_384)]
Block = Annotated[int, Field(ge=0, le=9_999)]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _names_label(text: str) -> str:
    if "{label}" not in text:
        raise ValueError("does not contain {label}")
    return text


LabelTemplate = Annotated[str, AfterValidator(_names_label)]
"""Text of a label, with ``{label}`` where its name goes."""
Tag = Annotated[str, Field(max_length=64), AfterValidator(_not_blank)]
Label = Annotated[str, Field(max_length=128), AfterValidator(_not_blank)]
"""What Weights & Biases takes for a tag, and for names of projects, teams and groups; more loses the whole run."""
Encoding = Annotated[str, Field(min_length=1, max_length=40)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")]


class Section(BaseModel):
    """Base of every section: strict values, unknown keys refused, frozen once built."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Division(Section):
    """How rows are divided; a pure function of the seed and of the rows' content."""

    val_fraction: float = Field(
        0.15, gt=0.0, lt=1.0, description="Share of the rows held out for validation, which picks the epoch."
    )
    test_fraction: float = Field(
        0.15,
        ge=0.0,
        lt=1.0,
        description="Share of the rows sealed until the end, which are what is reported; 0: validation rows are "
        "reported, too.",
    )
    seed: Seed = Field(42, description="Seed of the split; independent of the training seed.")
    column: str | None = Field(
        None,
        description="Column that says `train`, `val` (or `validation`, `dev`) or `test` of each row; null divides by "
        "val_fraction, test_fraction and seed. Validation rows that it does not mark are drawn from its training rows.",
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=1_000,
        description="Divide the rows into so many folds of about equal size, of which one is the test part, in place "
        "of test_fraction; null: no folds.",
    )
    fold: int = Field(0, ge=0, le=999, description="Which of the folds is the test part, from 0.")

    @property
    def holds_out(self) -> bool:
        """Whether any row is evaluated that is not learned from."""
        return True

    @property
    def drawn(self) -> str:
        """What rows are drawn by, in words."""
        return f"seed {self.seed}" + ("" if self.folds is None else f", fold {self.fold + 1} of {self.folds}")

    @model_validator(mode="before")
    @classmethod
    def _share_of_a_fold(cls, given: Any) -> Any:
        """With folds the test has one row in so many, also in the file that is written of it."""
        folds = given.get("folds") if isinstance(given, dict) else None
        return {"test_fraction": 1 / folds, **given} if isinstance(folds, int) and folds > 1 else given

    @model_validator(mode="after")
    def _has_the_fold(self) -> Division:
        if self.folds is not None and self.column is not None:
            raise ValueError("folds: the column says which rows are the test; remove folds, or column")
        if self.fold >= (self.folds or 1):
            bound = "needs folds, the number of them" if self.folds is None else f"must be below folds, {self.folds}"
            raise ValueError(f"fold: {bound}, got {self.fold}")
        return self

    @model_validator(mode="after")
    def _leaves_rows_to_train(self) -> Division:
        if self.folds is not None and self.test_fraction != 1 / self.folds:
            raise ValueError(f"test_fraction: {self.folds} folds make it {1 / self.folds}; remove it, or folds")
        if self.val_fraction + self.test_fraction >= 1.0:
            test = "test_fraction" if self.folds is None else f"one of {self.folds} folds"
            raise ValueError(f"val_fraction and {test} leave no training rows; their sum must be below 1")
        return self


class SplitConfig(Division):
    """How pictures and texts are divided."""

    group_by: str | None = Field(
        None, description="Column whose equal values stay on one side (`Channel`); null groups identical pictures only."
    )


class CosineRestartsConfig(Section):
    """Linear warm-up, cosine down to base_lr, again and again from a decaying peak."""

    name: Literal["cosine_restarts"] = Field(description="Which schedule.")
    base_lr: float = Field(1e-5, ge=0.0, le=1e30, description="Learning rate between peaks.")
    period: int = Field(70, ge=2, le=1_000_000_000, description="Optimizer steps from one start to the next.")
    warmup: int = Field(17, ge=0, le=1_000_000_000, description="Steps of linear warm-up in each period.")
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

    epochs: int = Field(10, ge=0, le=100_000, description="Passes over the training rows.")
    batch_size: int = Field(128, ge=2, le=1_000_000, description="Rows in one step; each is a negative for the others.")
    lr: float = Field(5e-5, gt=0.0, le=1e30, description="Peak learning rate.")
    schedule: ScheduleConfig = Field(
        default_factory=lambda: CosineConfig(name="cosine"), description="Learning rate over the steps."
    )
    weight_decay: float = Field(
        0.01, ge=0.0, le=1e6, description="AdamW's decoupled decay; biases, norms and scalars are spared."
    )
    clip_grad_norm: Positive | None = Field(1.0, description="Largest norm of the gradient; null is off.")
    early_stopping: int | None = Field(
        None, ge=1, le=100_000, description="Stop after this many epochs without a better best."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Compute type; auto: the fastest here, as a block of the model is timed."
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto: cuda, else mps, else cpu.")
    activation_checkpointing: bool = Field(
        False,
        description="Keep the inputs of each transformer block alone and compute the rest again on the way back "
        "(PyTorch's checkpoint): less memory for about a third more time; same loss and gradient.",
    )
    compile: bool = Field(
        False,
        description="torch.compile the transformer blocks while training, once for all batches; the first step takes "
        "a minute or so longer.",
    )
    packed_weights: bool = Field(
        True,
        description="On a CPU, keep two more copies of frozen linear layers' weights, laid out as its kernels read "
        "them: faster steps, equal up to rounding.",
    )
    shard_base: bool = Field(
        False,
        description="On several processes each holds a part of every frozen weight, and a transformer block is whole "
        "only while it is passed (PyTorch's FSDP2): for encoders that do not fit a GPU; same numbers.",
    )
    log_every: int = Field(10, ge=1, le=1_000_000_000, description="Steps between two lines in metrics.jsonl.")


class ContrastiveTrainConfig(TrainConfig):
    """The training loop of a loss in which the rows of a batch meet each other."""

    micro_batch: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Rows at most that are encoded with gradients at a time, so that batch_size may be larger than "
        "memory: the loss and its gradient stay those of the whole batch, for a forward pass more (GradCache, "
        "arXiv:2101.06983); null: all at once.",
    )


class GuardConfig(Section):
    """Watches the effective rank of the embeddings while training, to catch a collapse."""

    action: Literal["warn", "stop", "off"] = Field("warn", description="What to do when the space collapses.")
    min_share: Share = Field(
        0.5, description="Collapse: effective rank below this share of its value before the first step."
    )


class EvalConfig(Section):
    """Evaluation before the first step, after each epoch and by `vu eval`."""

    monitor: str = Field("", description="Metric that picks the best checkpoint; greater is better.")
    report: bool = Field(True, description="Write report.html and its figures at the end of a run.")
    keep: Literal["best", "last", "blend"] = Field(
        "best",
        description="Checkpoint that becomes the run's adapter; `blend`: the best one, at the scale between base and "
        "adapted model that validation rows choose (WiSE-FT, arXiv:2109.01903).",
    )
    every: int = Field(
        1, ge=1, le=100_000, description="Epochs from one evaluation to the next; the last is always evaluated."
    )
    test: bool = Field(
        True,
        description="Evaluate the test rows when the training has ended; false leaves them sealed and reports the "
        "validation rows, for runs that only help to choose a setting.",
    )
    batch_size: int = Field(64, ge=1, le=1_000_000, description="Rows encoded at a time.")


class RetrievalEvalConfig(EvalConfig):
    """Evaluation by retrieval: each row looks for its partner among all."""

    monitor: str = Field("recall@5", description="Metric that picks the best checkpoint (mean of both directions).")
    recall_at: list[Annotated[int, Field(ge=1, le=1_000_000)]] = Field(
        default=[1, 5, 10], min_length=1, description="The k of recall@k."
    )

    @model_validator(mode="after")
    def _monitored(self) -> RetrievalEvalConfig:
        known = [f"recall@{k}" for k in self.recall_at]
        if self.monitor not in known:
            raise ValueError(f"monitor: {self.monitor!r} is not computed; choose one of {', '.join(known)}")
        return self


class AdapterSettings(Section):
    """What is trained on an encoder, whatever its towers are."""

    method: Literal["lora", "prefix", "full"] = Field(
        "lora",
        description="`lora`: low-rank updates; `prefix`: keys and values before every layer's own; `full`: everything.",
    )
    rank: Rank = Field(8, description="Rank of the update B·A (lora).")
    alpha: Positive | None = Field(None, description="The update is scaled by alpha / rank (lora); null: alpha = rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the input of A (lora).")
    rank_stabilized: bool = Field(False, description="Scale by alpha / √rank instead (lora; arXiv:2312.03732).")
    rank_pattern: dict[str, Rank] = Field(
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
    init_from: str | None = Field(
        None, description="Folder of a peft adapter to start from (lora), with its own layers, rank and dropout."
    )
    prefix_length: int = Field(
        16, ge=1, le=4_096, description="Learned keys and values of each layer of the text tower (prefix)."
    )
    prefix_projection: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Hidden width of the MLP that makes them while training (prefix); null: no MLP.",
    )

    @property
    def trains_everything(self) -> bool:
        """Whether what is saved is a whole model, which needs no base."""
        return self.method == "full"

    @property
    def has_rank(self) -> bool:
        """Whether what is trained is a low-rank update."""
        return self.method == "lora"

    @property
    def reserved_positions(self) -> int:
        """Positions of tokens that are taken up, so that texts are cut so much earlier where a model counts them."""
        return self.prefix_length if self.method == "prefix" else 0

    @property
    def starts_as_base(self) -> bool:
        """Whether the model is its base before the first step: a new LoRA adds nothing, a new prefix does."""
        return self.method != "prefix" and self.init_from is None

    @property
    def lora_keys(self) -> tuple[str, ...]:
        """Keys that mean something for method ``lora`` only."""
        beside = ("method", "prefix_length", "prefix_projection", "train_logit_scale", "train_projections")
        return tuple(key for key in type(self).model_fields if key not in beside and not self._is_used(key))

    def _is_used(self, key: str) -> bool:
        """Whether method ``prefix`` uses a key of LoRA's too."""
        return key == "dropout" and self.method == "prefix"

    def _unused(self) -> set[str]:
        """Keys that the method leaves without meaning."""
        lora = () if self.method == "lora" else self.lora_keys
        prefix = () if self.method == "prefix" else ("prefix_length", "prefix_projection")
        return {*lora, *prefix, *self._brought()}

    def _brought(self) -> set[str]:
        """Keys that the adapter in ``init_from`` decides."""
        return set() if self.init_from is None else set(self.lora_keys) - {"init_from", "lora_plus_ratio"}

    @model_validator(mode="after")
    def _meaningful(self) -> AdapterSettings:
        if given := sorted(self.model_fields_set & (self._unused() - self._brought())):
            does = "trains everything" if self.method == "full" else "is not about that"
            raise ValueError(f"method: {self.method} {does}, so {', '.join(given)} would do nothing; remove it")
        if given := sorted(self.model_fields_set & self._brought()):
            raise ValueError(f"init_from brings its own {', '.join(given)}; remove it")
        if self.dora and self.initialisation == "pissa":
            raise ValueError("dora and initialisation: pissa do not go together")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what the method refuses, so that a written experiment can be loaded again."""
        fields: dict[str, Any] = handler(self)
        return {key: value for key, value in fields.items() if key not in self._unused()}


class WandbConfig(Section):
    """Weights & Biases; what is null is left to the WANDB_* variables."""

    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: online where a key is present, else offline; never asks."
    )
    project: Label | None = Field(None, description="Project; null: WANDB_PROJECT, else `vectoruniverse`.")
    entity: Label | None = Field(None, description="User or team.")
    group: Label | None = Field(None, description="Group of runs.")
    tags: list[Tag] = Field(default_factory=list, description="Tags, each of at most 64 characters.")
    notes: str | None = Field(None, description="Notes.")

    @field_validator("project")
    @classmethod
    def _names_a_project(cls, project: str | None) -> str | None:
        if project is not None and (odd := set(project) & set("/\\#?%:")):
            raise ValueError(
                f"must not have {' '.join(sorted(odd))}, which Weights & Biases takes in no project's name"
            )
        return project


class Experiment(Section):
    """What every task has; each gives ``model``, ``data`` and ``adapter`` keys of its own."""

    name: Name = Field(description="Name of the experiment; runs are called `<name>-<id>`.")
    task: str = Field(description="What is learned and how it is evaluated.")
    seed: Seed = Field(0, description="Seed of initial weights and adapters, order of rows, views and dropout.")
    model: str | Section = Field(description="The model.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face name.")
    quantization: Literal["int8", "nf4"] | None = Field(
        None,
        description="Keep the frozen linear layers of the model's blocks in 8 bits (`int8`) or 4 (`nf4`, as QLoRA), so "
        "that it takes less memory; for lora and prefix (`vectoruniverse[quantized]`).",
    )
    data: Section = Field(description="Data.")
    adapter: AdapterSettings = Field(default_factory=AdapterSettings, description="What is trained.")
    train: TrainConfig = Field(default_factory=TrainConfig, description="The loop.")
    guard: GuardConfig = Field(default_factory=GuardConfig, description="Collapse guard.")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="Evaluation.")
    wandb: WandbConfig = Field(default_factory=WandbConfig, description="Weights & Biases.")
    tensorboard: bool = Field(
        False, description="Also write event files for TensorBoard into the run (`vectoruniverse[tensorboard]`)."
    )

    @property
    def holds_out(self) -> bool:
        """Whether any row is evaluated that is not learned from."""
        split: Division = getattr(self.data, "split")  # noqa: B009 # every task's data has one
        return split.holds_out

    @property
    def picks_epoch(self) -> bool:
        """Whether validation rows decide which weights are kept, or when training stops."""
        return self.eval.keep != "last" or self.train.early_stopping is not None

    @property
    def draws_base(self) -> bool:
        """Whether the model before training depends on the seed: random weights, or a new head."""
        return isinstance(self.model, Section)

    @property
    def starts_random(self) -> bool:
        """Whether what is evaluated before the first step is random in part, and so nothing that a run may end with."""
        return isinstance(self.model, Section) or self.adapter.method == "prefix"

    def _why_whole(self) -> str | None:
        """Why the base cannot be in shards; None where it can."""
        if self.adapter.trains_everything:
            return "adapter.method: full trains every weight, and only a frozen base is sharded"
        if self.quantization is not None:
            return "what bitsandbytes keeps of a weight is no parameter, which alone are sharded; remove quantization"
        if self.train.compile:
            return "train.compile takes blocks whose weights stay where they are; set one of the two to false"
        if self.adapter.dora or self.adapter.initialisation != "kaiming":
            return f"adapter.{'dora' if self.adapter.dora else 'initialisation'} reads whole weights of the base"
        return None

    @model_validator(mode="after")
    def _trainable(self) -> Experiment:
        if isinstance(self.model, Section) and self.adapter.method != "full":
            raise ValueError("model.scratch has random weights: adapter.method must be full")
        if self.quantization is not None and self.adapter.trains_everything:
            raise ValueError(
                "quantization: only frozen weights can be quantised; adapter.method must be lora or prefix"
            )
        if self.revision is not None and not (isinstance(self.model, str) and "/" in self.model):
            raise ValueError("revision needs a Hugging Face name in model")
        if self.adapter.method == "prefix" and (self.train.compile or self.train.activation_checkpointing):
            key = "compile" if self.train.compile else "activation_checkpointing"
            raise ValueError(f"train.{key}: a prefix comes into the blocks by hooks, which cannot be passed so")
        if self.train.shard_base and (why := self._why_whole()):
            raise ValueError(f"train.shard_base: {why}")
        if self.eval.keep == "blend" and (self.starts_random or self.draws_base):
            raise ValueError(
                "eval.keep: blend needs a way from the base to what is trained; a prefix, a new head and a model of "
                "random weights have none"
            )
        return self
