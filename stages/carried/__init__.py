"""Columns that a manifest brings along and that a run carries into its corpus and its candidates.

`fields` decides which columns are carried, under which names and with which types; `survey` finds the types,
`values` collects the values of a shard, and `ids` finds ids that are missing or double. Imports the files of
`stages` and `stages.storage`. Start with `fields.py`.
"""
