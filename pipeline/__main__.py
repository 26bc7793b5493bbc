"""`python -m pipeline`: the `capfilt` command from a checkout, without an installation."""

from capfilt.pipeline.cli.app import main

main()
