"""What `capfilt check` finds out before a run: rows, samples, hosts, devices, models, and the store.

Start with `check.py`; `page.py` prints what it found.
May import everything under `pipeline` but `pipeline.cli`; never Ray or torch.
"""
