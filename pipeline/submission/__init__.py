"""`capfilt submit` and `capfilt stop`: a run as a job of a Ray cluster.

May import pipeline.config and stages.storage; cluster.submission has the requests to the cluster. Start
reading in `submit.py`; `package.py` is what is uploaded, `record.py` what the run directory says of the job.
"""
