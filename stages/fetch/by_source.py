"""NEW FILE."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.http.loop import BackgroundDownloader
from capfilt.stages.fetch.img2dataset import Img2datasetFetch
from capfilt.stages.fetch.stage import Fetch


class FetchBySource:
    """The fetch stage with each source's own settings; a shard has rows of one source only.

    Args:
        configs: settings by source. Sources that ask the web in the same manner share what is known of its hosts.
        workers: fetch workers of the node; each gets an equal share of every host's rate.
    """

    def __init__(self, configs: Mapping[str, FetchConfig], workers: int = 1) -> None:
        manners = {source: config.manners() for source, config in configs.items()}
        webs = {each: BackgroundDownloader(each, workers) for each in manners.values()}
        self.stages: dict[str, Fetch | Img2datasetFetch] = {}
        for source, config in configs.items():
            web = webs[manners[source]]
            theirs = config.backend == "img2dataset"
            self.stages[source] = Img2datasetFetch(config) if theirs else Fetch(config, web)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self.stages[batch["source"][0].as_py()](batch)

    def on_progress(self, told: Callable[[], None]) -> None:
        for stage in self.stages.values():
            stage.on_progress(told)
