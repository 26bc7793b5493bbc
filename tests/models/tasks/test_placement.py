"""How many threads decode the images of a model."""

import io
import os

import pytest
import torch
from PIL import Image

from capfilt.models.tasks import placement
from capfilt.models.tasks.captioner import Captioner
from capfilt.models.tasks.placement import decoding_threads, load_pixel_batches
from tests.models.tiny_med import TOKENIZER, build


@pytest.mark.parametrize(
    ("device", "cores", "threads"),
    [("cpu", 2, 4), ("cpu", 64, 4), ("meta", 2, 4), ("meta", 5, 5), ("meta", 16, 16), ("meta", 17, 16)],
)
def test_a_device_of_its_own_has_a_thread_for_each_core(monkeypatch, device, cores, threads):
    """ "meta" stands for a GPU: any device but the cores themselves."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cores))
    assert decoding_threads(build().to(device)) == threads


def test_a_model_decodes_with_as_many_threads(monkeypatch):
    started, pool = [], placement.ThreadPoolExecutor
    monkeypatch.setattr(
        placement, "ThreadPoolExecutor", lambda threads: started.append(threads) or pool(threads)
    )
    monkeypatch.setattr(placement, "decoding_threads", lambda med: 7)
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(sink, "JPEG")
    files = [sink.getvalue()] * 5
    captioner = Captioner(build(parts="captioner"), TOKENIZER, device="cpu")
    found = torch.cat(list(captioner.pixel_batches(files, 2)))
    assert torch.equal(found, torch.cat(list(load_pixel_batches(files, 32, 3, threads=1))))
    assert started == [7, 1]
