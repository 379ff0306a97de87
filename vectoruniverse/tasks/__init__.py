"""What can be learned: one folder a task, and what the runner asks of each.

Whoever imports anything from here has the metrics of every task in the catalogue. Nothing heavy is loaded for it.
"""

from vectoruniverse.metrics.catalogue import declare
from vectoruniverse.tasks.classification.metrics import METRICS as CLASSIFICATION
from vectoruniverse.tasks.image_text.metrics import METRICS as IMAGE_TEXT
from vectoruniverse.tasks.masked_lm.metrics import METRICS as MASKED_LM
from vectoruniverse.tasks.text_pairs.metrics import METRICS as TEXT_PAIRS

for metrics in (IMAGE_TEXT, TEXT_PAIRS, CLASSIFICATION, MASKED_LM):
    declare(metrics)
