"""The `capfilt` command: one module per family of commands, registered in `app.py`.

Start with `app.py` (all commands) and `run.py` (what `capfilt run` does). A command imports what it needs
inside its function, so that `--help` and mistakes in a config need neither Ray nor torch.
May import everything under `pipeline`; nothing imports this folder.
"""
