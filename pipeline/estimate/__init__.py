"""What `capfilt plan` computes: times, bytes and costs of a run from the measurements of a small one.

Start with `assemble.py`; `spans.py` has the intervals. Nothing here starts work or asks the clock.
May import `stages.errors` and numpy; never Ray or torch.
"""
