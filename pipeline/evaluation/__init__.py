"""Numbers that judge a round: scores of the pretrained models, quality of the filter, diversity of the texts.

Everything but `held_out`, `pretrained` and `calibration` consists of pure functions of texts, scores and
verdicts. The package imports models, stages, the config schema and, for status lines, `cluster.board`;
`pipeline.report`, `pipeline.console` and `pipeline.testset` import it. Start with `filter_quality`, then
`pretrained`.
"""
