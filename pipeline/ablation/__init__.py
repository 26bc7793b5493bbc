"""Tables of the paper, remade on any config: `capfilt ablate`.

`definitions` says what each table compares, `variants` makes a config of every row, `scores` reads what their
runs have measured, and the other files show it. May import every other folder of `pipeline` but `cli`.
Start with `definitions.py`.
"""
