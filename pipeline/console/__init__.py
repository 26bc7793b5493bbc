"""What the program shows and the signals it handles: streams, logs, progress, the closing block.

Start with `streams.py` (stdout and stderr), `progress.py` (running nodes), `activity.py` (what is done while
no node runs) and `summary.py` (the last lines of a command); `logs.py` configures Python's logging on stderr.
May import `stages`, `pipeline.config` and `pipeline.evaluation.scores`; never `pipeline.cli`, Ray or torch.
"""
