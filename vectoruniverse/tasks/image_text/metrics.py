"""What the task reports beside the retrieval and the space of every task."""

from __future__ import annotations

from vectoruniverse.metrics.catalogue import Metric, directions, sides

METRICS = (
    *directions(image_to_text="image → text", text_to_image="text → image"),
    *sides(image="images", text="texts"),
    Metric("zero_shot/accuracy@*", "zero-shot label, top {}", "higher", "share"),
    Metric("labels/map", "labels predicted, mAP", "higher", "share"),
    Metric("labels/macro_f1", "labels predicted, macro F1", "higher", "share"),
    Metric("map/image_to_image", "label mAP, image → image", "higher", "share"),
    Metric("map/text_to_text", "label mAP, text → text", "higher", "share"),
    Metric("map/image_to_text", "label mAP, image → text", "higher", "share"),
    Metric("map/text_to_image", "label mAP, text → image", "higher", "share"),
)
