"""The fetch stage of a run: one stage per source, each with the settings of its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.http.loop import BackgroundDownloader
from capfilt.stages.fetch.img2dataset import Img2datasetFetch
from capfilt.stages.fetch.stage import Fetch


class FetchBySource:
    """Fetches each batch with the settings of its source. A batch is one shard of one source.

    Args:
        configs: settings by source. Sources with equal `host_settings()` share one downloader, and with it
            what the worker knows about hosts.
        workers: fetch workers of the node; each gets an equal share of every host's rate.
    """

    def __init__(self, configs: Mapping[str, FetchConfig], workers: int = 1) -> None:
        host_settings = {source: config.host_settings() for source, config in configs.items()}
        downloaders = {each: BackgroundDownloader(each, workers) for each in host_settings.values()}
        self.stages: dict[str, Fetch | Img2datasetFetch] = {}
        for source, config in configs.items():
            if config.backend == "img2dataset":
                self.stages[source] = Img2datasetFetch(config)
            else:
                self.stages[source] = Fetch(config, downloaders[host_settings[source]])

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self.stages[batch["source"][0].as_py()](batch)

    def on_progress(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every row, from another thread."""
        for stage in self.stages.values():
            stage.on_progress(callback)
