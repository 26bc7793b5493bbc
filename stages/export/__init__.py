"""Exported shards: the texts of a committed shard that are kept, in the form that a trainer reads.

May import `stages.shards`, `stages.verdicts` and `stages.storage`; needs neither Ray nor torch. Start with
`shard.py`, the stage that writes one shard; `read.py` says what is exported, `tars.py` and `tables.py` how it
is written, `config.py` what the forms are.
"""
