"""How fast a model alone is, as its micro-batches tell."""

import pytest

from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.models.tasks.model_rate import WINDOW, ModelRate, combine_rates


def rate(*batches):
    found = ModelRate()
    for images, seconds in batches:
        found.add(images, seconds)
    return found


def test_a_model_that_has_done_nothing_has_no_rate():
    assert rate().images_per_second is None
    assert rate((0, 1.0), (8, 0.0)).images_per_second is None


def test_the_fastest_tenth_counts():
    slow, fast = [(8, 2.0)] * 18, [(8, 1.0)] * 2
    assert rate(*slow, *fast).images_per_second == 4, "19 of 20 are not faster"
    assert rate(*slow, *fast, (8, 1.0)).images_per_second == 8
    assert rate((8, 2.0)).images_per_second == 4


def test_small_micro_batches_do_not_count():
    assert rate((8, 2.0), (3, 0.1)).images_per_second == 4
    assert rate((8, 2.0), (4, 0.1)).images_per_second == 40


def test_old_micro_batches_are_forgotten():
    assert rate((8, 0.1), *[(8, 2.0)] * (WINDOW - 1)).images_per_second == 4
    assert rate((80, 0.1), *[(8, 2.0)] * WINDOW).images_per_second == 4


def test_models_that_follow_each_other_add_their_seconds():
    assert combine_rates([rate((8, 1.0)), rate((8, 3.0))]) == pytest.approx(2)
    assert combine_rates([rate((8, 1.0)), rate()]) is None
    assert combine_rates([]) is None


def test_micro_batches_time_functions_with_a_result_for_each_image(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("capfilt.models.tasks.micro_batches.time.perf_counter", lambda: now[0])
    batches = MicroBatches(4)

    def work(rows):
        now[0] += 2.0
        return list(range(rows.start, min(rows.stop, 6)))

    assert batches.run(work, 6) == list(range(6))
    assert batches.rate.images_per_second == 2

    def count(size):
        now[0] += 0.001
        return size

    batches.run_once(count, 4)
    assert batches.rate.images_per_second == 2, "no list"


def test_a_micro_batch_that_ran_out_of_memory_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("capfilt.models.tasks.micro_batches.time.perf_counter", lambda: now[0])
    batches = MicroBatches(4)

    def work(size):
        now[0] += 10.0 if size == 4 else 1.0
        if size == 4:
            raise MemoryError
        return [0] * size

    batches.run_once(work, 4)
    assert batches.rate.images_per_second == 2
