"""The tables: those of the BLIP paper, and others on choices that the paper leaves open."""

from __future__ import annotations

from dataclasses import replace

from capfilt.pipeline.ablation.definitions import (
    CAPFILT,
    NOTHING,
    SHAPES_DIR,
    WEB,
    AblationTable,
    PaperScores,
    TableRow,
    Variant,
    row_without_bootstrap,
)


def _variant(name: str, *overrides: str, rounds: int = 1, controls: str = "") -> Variant:
    """A variant that makes as many rounds as its rows need, and no other models than they have."""
    return Variant(name, (*overrides, f"run.rounds={rounds}", f"controls=[{controls}]"))


CONTROLS = _variant("", controls="human_only,filter_only,captioner_only")
ORACLE = replace(
    _variant("oracle", f"sources.{WEB}.rows.manifest={SHAPES_DIR}/web/oracle.parquet", rounds=0),
    only_shapes=True,
)
REPEATED = _variant("repetition", controls="web_repeated")
SELECTED = _variant("selection", controls="filter_only,itc_top")
ROUNDS = _variant("rounds", rounds=3)
DECOUPLED = _variant("decoupled", "shared_finetune=false")
NEW_MODEL = _variant("new-model", "continue_training=false")


def _nucleus(top_p: float, paper: PaperScores | None = None) -> TableRow:
    sampling = "captioner.generate.sampling"
    variant = _variant(f"nucleus-{top_p:g}", f"{sampling}.strategy=nucleus", f"{sampling}.top_p={top_p:g}")
    return TableRow(f"nucleus, p = {top_p:g}", variant, paper=paper)


def _sharing(label: str, value: str, paper: PaperScores) -> TableRow:
    variant = _variant(f"sharing-{value}", f"model.med.sharing={value}", rounds=0)
    return TableRow(label, variant, "pretrain.0", round=0, paper=paper, noise=False)


def _captions(count: int) -> TableRow:
    return TableRow(
        f"{count} per image", _variant(f"captions-{count}", f"captioner.generate.captions_per_image={count}")
    )


def _threshold(value: float) -> TableRow:
    return TableRow(f"{value:g}", _variant(f"threshold-{value:g}", f"filter.judge.threshold={value:g}"))


def _mixing(label: str, name: str, **texts: float | str) -> TableRow:
    """A row with these settings of `pretrain.texts` and the defaults of the others, but for the verdicts."""
    defaults = {"human": 1, "web": 1, "synthetic": 1, "per_image": "all", "sentences": "whole"}
    overrides = [f"pretrain.texts.{key}={value}" for key, value in (defaults | texts).items()]
    return TableRow(label, _variant(f"mixing-{name}", *overrides))


def _web_share(share: float) -> TableRow:
    return TableRow(f"{share:.0%} web", _variant(f"web-share-{share:g}", f"captioner.web_share={share:g}"))


def _ensemble(label: str, name: str, captioners: int, filters: int) -> TableRow:
    sizes = f"captioner.ensemble={captioners}", f"filter.ensemble={filters}"
    return TableRow(label, _variant(name, *sizes))


ONE_OF_EACH = _ensemble("one of each", "ensembles-1", 1, 1)

TABLES: dict[str, AblationTable] = {
    "capfilt": AblationTable(
        "Captioner and filter (paper, Table 1)",
        "On which texts is the model pretrained? The paper: captioner and filter help, both together most.",
        "both",
        (
            row_without_bootstrap(CONTROLS),
            TableRow("human only", CONTROLS, "human_only", noise=False),
            TableRow(
                "captioner only",
                CONTROLS,
                "captioner_only",
                paper=PaperScores(79.7, 62.0, 128.9),
                noise=False,
            ),
            TableRow(
                "filter only", CONTROLS, "filter_only", paper=PaperScores(79.1, 61.5, 128.2), noise=False
            ),
            TableRow("both", CONTROLS, paper=CAPFILT),
            TableRow("oracle texts", ORACLE, "pretrain.0", round=0, noise=False),
        ),
    ),
    "decoding": AblationTable(
        "Decoding of the synthetic texts (paper, Table 2)",
        "Beam search or nucleus sampling? The paper: nucleus sampling is noisier and better.",
        "nucleus, p = 0.9",
        (
            row_without_bootstrap(_nucleus(0.9).variant),
            TableRow(
                "beam",
                _variant("beam", "captioner.generate.sampling.strategy=beam"),
                paper=PaperScores(79.6, 61.9, 128.9, noise=19),
            ),
            _nucleus(0.5),
            _nucleus(0.7),
            _nucleus(0.9, CAPFILT),
            _nucleus(1),
        ),
    ),
    "sharing": AblationTable(
        "Parameters shared by text encoder and decoder (paper, Table 3)",
        "Which layers do they share, in a pretraining without bootstrapping? Best in the paper: all but "
        "self-attention.",
        "all but self-attention",
        (
            _sharing("all", "all", PaperScores(77.3, 59.5, 125.9)),
            _sharing("all but cross-attention", "all_but_ca", PaperScores(77.5, 59.9, 126.1)),
            _sharing("all but self-attention", "all_but_sa", NOTHING),
            _sharing("none", "none", PaperScores(78.3, 60.5, 127.4)),
        ),
    ),
    "decoupling": AblationTable(
        "Captioner and filter in one model (paper, Table 4)",
        "One finetuning for both, or one for each? The paper: a shared model drops less of its own texts, "
        "and the result is worse.",
        "decoupled",
        (
            row_without_bootstrap(DECOUPLED),
            TableRow(
                "shared",
                _variant("shared", "shared_finetune=true"),
                paper=PaperScores(79.8, 62.2, 129.0, noise=8),
            ),
            TableRow("decoupled", DECOUPLED, paper=CAPFILT),
        ),
    ),
    "repetition": AblationTable(
        "Repeated web texts (paper, Table 12)",
        "Is the gain due to more pairs? The paper: the web texts, repeated to as many pairs, gain nothing.",
        "bootstrapped",
        (
            row_without_bootstrap(REPEATED),
            TableRow(
                "web texts repeated",
                REPEATED,
                "web_repeated",
                paper=PaperScores(78.3, 60.5, 127.7),
                noise=False,
            ),
            TableRow("bootstrapped", REPEATED, paper=CAPFILT),
        ),
    ),
    "continuation": AblationTable(
        "Continued training (paper, Table 13)",
        "A new model on the bootstrapped pairs, or more training of MED 0? The paper: no difference.",
        "new model",
        (
            row_without_bootstrap(NEW_MODEL),
            TableRow(
                "continued",
                _variant("continued", "continue_training=true"),
                paper=PaperScores(80.6, 63.0, 129.9),
            ),
            TableRow("new model", NEW_MODEL, paper=CAPFILT),
        ),
    ),
    "rounds": AblationTable(
        "Rounds of bootstrapping",
        "Does another round help? The paper leaves it open.",
        "1 round",
        (
            row_without_bootstrap(ROUNDS),
            TableRow("1 round", ROUNDS),
            TableRow("2 rounds", ROUNDS, "pretrain.2", round=2),
            TableRow("3 rounds", ROUNDS, "pretrain.3", round=3),
        ),
    ),
    "captions": AblationTable(
        "Synthetic texts per image",
        "Do more synthetic texts help? The paper leaves it open.",
        "1 per image",
        (row_without_bootstrap(_captions(1).variant), _captions(1), _captions(2), _captions(4)),
    ),
    "ensemble": AblationTable(
        "Several captioners and filters",
        "Do captioners and filters with different seeds do more together? The paper leaves it open. Two "
        "captioners write two texts per image, so the row with two texts of one captioner belongs to them.",
        "one of each",
        (
            row_without_bootstrap(ONE_OF_EACH.variant),
            ONE_OF_EACH,
            TableRow("one of each, 2 texts", _captions(2).variant),
            _ensemble("2 captioners", "captioners-2", 2, 1),
            _ensemble("2 filters", "filters-2", 1, 2),
            _ensemble("2 captioners, 2 filters", "ensembles-2", 2, 2),
        ),
    ),
    "threshold": AblationTable(
        "Threshold of the filter",
        "From which ITM probability on is a text kept? The paper: 0.5, what the ITM head predicts.",
        "0.5",
        (row_without_bootstrap(_threshold(0.5).variant), *map(_threshold, (0.05, 0.1, 0.2, 0.3, 0.5, 0.7))),
    ),
    "selection": AblationTable(
        "Selection of the web texts",
        "By the ITM probability of the filter, or a top share by ITC similarity, as DataComp selects? "
        "Equally many web texts, and no synthetic ones.",
        "filter only",
        (
            row_without_bootstrap(SELECTED),
            TableRow("filter only", SELECTED, "filter_only", noise=False),
            TableRow("top share by ITC", SELECTED, "itc_top", noise=False),
            TableRow("both", SELECTED),
        ),
    ),
    "mixing": AblationTable(
        "Mixture of the pairs",
        "How often does the pretraining see the texts of each origin, and how many of an image in an epoch? "
        "The paper: all equally often.",
        "equal",
        (
            row_without_bootstrap(_mixing("equal", "equal").variant),
            _mixing("equal", "equal"),
            _mixing("human x 2", "human-2", human=2),
            _mixing("human x 4", "human-4", human=4),
            _mixing("web x 2", "web-2", web=2),
            _mixing("synthetic x 2", "synthetic-2", synthetic=2),
            _mixing("synthetic x 0.5", "synthetic-half", synthetic=0.5),
            _mixing("one per image, equal", "one", per_image="one"),
            _mixing(
                "one per image, 0.2 web, 0.8 synthetic", "one-2-8", web=0.2, synthetic=0.8, per_image="one"
            ),
            _mixing("one sentence of each text", "sentences", sentences="sample"),
        ),
    ),
    "captioner_data": AblationTable(
        "Web pairs in the finetuning of the captioner",
        "Does the captioner keep more of what the web taught it, if it goes on seeing web pairs? The paper: "
        "human pairs only.",
        "0% web",
        (row_without_bootstrap(_web_share(0).variant), *map(_web_share, (0, 0.25, 0.5))),
    ),
}
"""Name of a table, as `--table` takes it → what it compares."""
