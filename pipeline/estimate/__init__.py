"""What `capfilt plan` computes: times, bytes and costs of a run from the measurements of a small one.

Start with `nodes.py`; `spans.py` has the intervals. Pure functions: nothing here reads a file or the clock.
May import `stages.errors` and numpy; never Ray or torch.
"""
