"""Images with captions, for the tasks retrieval and caption: the layouts of `capfilt evaluate`."""

from __future__ import annotations

from capfilt.pipeline.testset.layouts import TestSetError, read_test_set
from capfilt.stages.taskdata.records import Sample, TaskDataError, TaskRecord, merge_records


def read_captions(address: str, part: str | None, split: str, key: str) -> list[TaskRecord]:
    """Read images with captions: COCO, Karpathy, BLIP or NoCaps json, or a manifest with url and text.

    Args:
        address: the file.
        part: the part of Karpathy's json; None: that of the split, in files that have parts.
        split: "train" or "test".
        key: the config key of this data, for messages.

    Raises:
        ManifestError, TaskDataError: the file cannot be used.
    """
    try:
        found = read_test_set(address, part, None)
        if part is None and split == "train" and found.split is not None:
            found = read_test_set(address, "train", None)
    except TestSetError as error:
        line = str(error).replace("--data", "file").replace("--split", "split")
        raise TaskDataError(f"{key}: {line}") from error
    records = []
    for number, image in enumerate(found.images):
        name = str(image.image_id if image.image_id is not None else number)
        texts = [text for text in image.row["texts"] if text.strip()]
        records.append(
            TaskRecord(
                key=name,
                images=(image.row["url"] or "",),
                samples=[Sample(id=name, text=text, group=image.domain) for text in texts],
                status=image.status,
                message=image.message,
            )
        )
    return merge_records(records)
