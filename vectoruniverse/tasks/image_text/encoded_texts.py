"""What the model makes of training texts: each distinct one once in a step, and once more in a run what stays as it is.

Shapes: B rows of a batch, E shared embedding.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
from torch import Tensor

from vectoruniverse.adapters.apply import draws_dropout
from vectoruniverse.data.transfer import send
from vectoruniverse.models.dual import TEXT_TOWER, DualEncoder
from vectoruniverse.models.encoder import TextBatch, TokenizedTexts, each_once
from vectoruniverse.processes import own
from vectoruniverse.tasks.image_text.frozen import Frozen
from vectoruniverse.tasks.image_text.text_views import TextViews
from vectoruniverse.training.micro_batches import in_micro_batches

MOST_KEPT = 2**19
"""Training rows whose texts' vectors are kept where they stay the same: 1 GiB of vectors of 512 numbers."""


class EncodedTexts:
    """Vectors of training texts as a step needs them.

    Args:
        encoder: the model.
        tokens: texts of the training rows, as they were tokenized.
        count: views of a text in a step, 1 or 2.
        drawn: how a row's text is drawn for each view; None: as it was tokenized.
        frozen: keeps what frozen blocks make of texts.
        micro_batch: rows at most that are encoded with gradients at a time; None: all.
        eval_batch: rows encoded at a time without gradients.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        tokens: TokenizedTexts,
        *,
        count: int,
        drawn: TextViews | None,
        frozen: Frozen | None,
        micro_batch: int | None,
        eval_batch: int,
    ) -> None:
        self._encoder, self._tokens, self._count, self._drawn, self._frozen = encoder, tokens, count, drawn, frozen
        self._micro_batch, self._eval_batch = micro_batch, eval_batch
        self._dropout = draws_dropout(encoder.model.get_submodule(TEXT_TOWER), encoder.model.config.text_config)
        self._constant: Tensor | None = None

    def of_batch(self, rows: np.ndarray, epoch: int) -> list[Tensor]:
        """Unit vectors of each view of this process's rows of a batch, of which ``rows`` are all.

        Of texts that stay as they are those of all rows are encoded when the second epoch begins, and looked up then.
        """
        if epoch == 0 or not self._are_constant:
            return in_micro_batches(lambda some: self.encode(some, epoch), rows, self._micro_batch)
        if self._constant is None:
            self._constant = self._encoder.embed_texts(self._tokens, batch_size=self._eval_batch)
        return [send(self._constant[rows[own(len(rows))]], self._encoder.device)]

    @property
    def _are_constant(self) -> bool:
        """Whether a row's text has the same vector throughout training, and those of all rows are little to keep."""
        drawn = self._drawn is not None or self._dropout
        return not drawn and len(self._tokens) <= MOST_KEPT and not self._encoder.trains_texts()

    def encode(self, rows: np.ndarray, epoch: int) -> list[Tensor]:
        """Unit vectors of each view, 1 or 2 times (B, E); without dropout equal texts are encoded once."""
        encoder, views = self._encoder, range(self._count)
        if self._drawn is None:

            def encode(some: np.ndarray) -> list[Tensor]:
                batch = encoder.pad(self._tokens, some)
                with self._behind_frozen(some, batch):
                    return [encoder.encode_texts(batch) for _ in views]

            return each_once(encode, self._tokens, rows, differ=self._dropout, apart=encoder.passes_apart)
        tokens = encoder.tokenize([text for view in views for text in self._drawn.draw(rows, epoch, view)])

        def encode_drawn(some: np.ndarray) -> list[Tensor]:
            return [encoder.encode_texts(encoder.pad(tokens, some))]

        (vectors,) = each_once(
            encode_drawn, tokens, np.arange(len(tokens)), differ=self._dropout, apart=encoder.passes_apart
        )
        return list(vectors.chunk(len(views)))

    def _behind_frozen(self, rows: np.ndarray, batch: TextBatch) -> AbstractContextManager[object]:
        """Within this, passes of the batch begin with what is kept of its texts, where it is."""
        frozen, encoder, tokens = self._frozen, self._encoder, self._tokens
        if frozen is None or frozen.texts is None:
            return nullcontext()
        return frozen.texts.standing_in(
            [frozen.text_digests[row] for row in rows],
            lambda missing: encoder.encode_texts(encoder.pad(tokens, rows[missing], frozen.longest)),
            batch.ids.shape[1],
        )
