"""How close a chain comes to its models alone."""

import pytest

from capfilt.cluster.chain.efficiency import EfficiencyMeter, StageEfficiency, StageProcesses

READ = StageProcesses("read", 8, long_lived=False)
CAPTION = StageProcesses("caption", 2, long_lived=True)
FILTER = StageProcesses("filter", 2, long_lived=True, fused=True)


class Meter:
    """A meter whose clock the test sets."""

    def __init__(self):
        self.now = 0.0
        self.meter = EfficiencyMeter(lambda: self.now)

    def run(self, stages, times, images=10):
        self.meter.begin_pass(stages)
        for self.now in times:
            self.meter.add(images)
        return self

    def of(self, **rates):
        return {stage: found.efficiency for stage, found in self.meter.measure(rates).items()}


def test_the_clock_starts_when_each_process_has_had_a_shard():
    """Two processes that each take 5 s for a shard of 10 images, after a start of 100 s."""
    found = Meter().run([READ, CAPTION], [105, 105, 110, 110, 115, 115])
    assert found.of(caption=2.0) == {"caption": 1.0}
    assert found.of(caption=4.0) == {"caption": 0.5}
    assert found.meter.measure({"caption": 4.00004}) == {
        "caption": StageEfficiency(processes=2, images_per_second=4.0, efficiency=0.5)
    }


@pytest.mark.parametrize("times", [[], [105], [105, 106]])
def test_too_few_shards_have_none(times):
    assert Meter().run([READ, CAPTION], times).of(caption=2.0) == {}


def test_one_more_shard_than_processes_suffices():
    assert Meter().run([READ, CAPTION], [105, 105, 110]).of(caption=2.0) == {"caption": 0.5}


def test_stages_that_share_their_processes_add_the_seconds_of_their_models():
    found = Meter().run([READ, CAPTION, FILTER], [5, 5, 10, 10])
    assert found.of(caption=4.0, filter=4.0) == {"caption": 1.0, "filter": 1.0}
    assert found.of(caption=4.0) == {"caption": 0.5}


def test_stages_with_processes_of_their_own_have_values_of_their_own():
    other = StageProcesses("filter", 1, long_lived=True)
    found = Meter().run([READ, CAPTION, other], [5, 5, 10, 10])
    assert found.of(caption=4.0, filter=4.0) == {"caption": 0.5, "filter": 1.0}


def test_the_time_between_two_passes_does_not_count():
    found = Meter().run([READ, CAPTION], [5, 5, 10, 10])
    larger = StageProcesses("caption", 4, long_lived=True)
    found.run([READ, larger], [1005] * 4 + [1010] * 4)
    assert found.of(caption=2.0) == {"caption": 1.0}
    assert found.meter.measure({"caption": 2.0})["caption"].processes == 4


def test_stages_without_models_have_none():
    assert Meter().run([READ, CAPTION], [5, 5, 10, 10]).of() == {}
