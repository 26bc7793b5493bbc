"""Runs submitted to a cluster as jobs of Ray's job API.

Imports nothing else of capfilt. Start reading in `client.py`: the requests to a cluster and what its refusals
mean; `environment.py` has the dependencies that a job installs.
"""
