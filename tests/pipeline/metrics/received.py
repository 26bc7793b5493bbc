"""A receiver of metrics that keeps them."""

from capfilt.pipeline.metrics.families import FAMILIES

LABELS = {family.name: family.labels for family in FAMILIES}
KINDS = {family.name: family.kind for family in FAMILIES}


class Received:
    """Keeps what was added and set, and checks kinds and labels."""

    def __init__(self):
        self.counted, self.last = [], {}

    def add(self, name, value, **labels):
        assert KINDS[name] == "counter" and tuple(labels) == LABELS[name] and value >= 0
        self.counted.append((name, tuple(labels.values()), value))

    def set(self, name, value, **labels):
        assert KINDS[name] == "gauge" and tuple(labels) == LABELS[name]
        self.last[name, *labels.values()] = value

    def forget(self, name, **labels):
        positions = [(LABELS[name].index(label), value) for label, value in labels.items()]
        for key in list(self.last):
            if key[0] == name and all(key[1 + place] == value for place, value in positions):
                del self.last[key]

    def refresh(self):
        """Nothing is forgotten."""

    def sum(self, name):
        """{values of the labels: sum} of a counter."""
        found = {}
        for each, labels, value in self.counted:
            if each == name and value:
                found[labels] = found.get(labels, 0) + value
        return found
