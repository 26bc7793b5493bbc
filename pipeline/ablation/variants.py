"""The runs of a table: one for each variant and seed, in run directories side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from capfilt.pipeline.ablation.definitions import SHAPES_DIR, WEB, AblationTable, TableRow, Variant
from capfilt.pipeline.config.load import ConfigError, load_config
from capfilt.pipeline.config.paths import check_job_paths
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.prepare import check_sources, make_corpora, open_run, states
from capfilt.stages.storage.layout import CONFIG, seed_folder
from capfilt.stages.storage.store import Store


@dataclass(frozen=True)
class VariantRun:
    """A variant with one seed."""

    variant: Variant
    seed: int
    config: Config

    @property
    def folder(self) -> str:
        """Name of its run directory in the folder of the ablation."""
        return seed_folder(self.seed, self.variant.name)


@dataclass(frozen=True)
class Ablation:
    """A base config, and the folder in which its variants are."""

    path: str
    """Of the config file, as given."""
    overrides: tuple[str, ...]
    """Of the command line."""
    base: Config

    @classmethod
    def load(cls, path: str, overrides: Sequence[str]) -> Ablation:
        """Load the base config.

        Raises:
            ConfigError: it is not valid, or it pretrains nothing that could be compared.
        """
        base = load_config(path, overrides)
        if base.pretrain is None or not base.of_kind("test"):
            raise ConfigError(
                f"{path}: a table compares pretrained models on held-out images; give the config a section "
                "pretrain and a source of kind test"
            )
        return cls(path, tuple(overrides), base)

    @property
    def store(self) -> Store:
        """The folder of the ablation."""
        return Store(self.base.run.dir.rstrip("/"), self.base.run.storage_options)

    def rows(self, table: AblationTable) -> list[TableRow]:
        """The rows of a table that the data allow."""
        return [row for row in table.rows if self.base.shapes is not None or not row.variant.only_shapes]

    def runs(self, table: AblationTable, seeds: Sequence[int]) -> list[VariantRun]:
        """The runs of a table, those of one seed after the other.

        Raises:
            ConfigError: the config does not allow a variant.
        """
        variants = list(dict.fromkeys(row.variant for row in self.rows(table)))
        return [self._run(variant, seed) for seed in seeds for variant in variants]

    def _run(self, variant: Variant, seed: int) -> VariantRun:
        place = f"{self.base.run.dir.rstrip('/')}/{seed_folder(seed, variant.name)}"
        own = [*self._expand(variant), f"run.seed={seed}", f"run.dir={place}"]
        return VariantRun(variant, seed, load_config(self.path, [*self.overrides, *own]))

    def _expand(self, variant: Variant) -> Iterator[str]:
        """The overrides of a variant, with the names of the config in them."""
        for override in variant.overrides:
            names = self.base.of_kind("web") if WEB in override else [""]
            for name in names:
                yield override.replace(WEB, name).replace(SHAPES_DIR, self.base.shapes_dir)

    def donors(self, run: VariantRun) -> list[str]:
        """Run directories of other variants with the same seed, also of other tables; and the folder of the
        ablation, if the config itself was run in it."""
        store, first = self.store, seed_folder(run.seed, "")
        names = [n for n in store.list() if (n == first or n.startswith(f"{first}-")) and n != run.folder]
        found = [store.address(name) for name in names if store.exists(f"{name}/{CONFIG}")]
        return [*found, store.url] if store.exists(CONFIG) else found


def check_runs(runs: Iterable[VariantRun]) -> bool:
    """Check everything about runs that can be known before the first of them starts.

    Makes the demonstration corpora that they read.

    Returns:
        Whether any of them has work.

    Raises:
        UserError: one line for the user.
    """
    has_work = False
    for run in {run.folder: run for run in runs}.values():
        check_job_paths(run.config)
        make_corpora(run.config)
        check_sources(run.config)
        run_dir = open_run(run.config)
        run_dir.ledger.check_place()
        state = states(run_dir)
        for kind in dict.fromkeys(node.kind for name, node in run_dir.nodes.items() if state[name] != "done"):
            kind.check_inputs(run.config, run_dir.store)
            has_work = True
    return has_work
