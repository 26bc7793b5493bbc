"""HTTP downloads of one worker: url in, bytes or a `stages.status.Failure` out.

Start with `downloader.py`, which follows one url from top to bottom; `loop.py` runs it for synchronous
callers. Host limits are in `hosts.py`, robots.txt in `robots.py`. Imports `stages.fetch.urls`, which decides
what may be requested, and `stages.status`; knows neither rows nor image formats.
"""
