"""Figures of downstream tasks that need more than a mean, computed from what a model says to test samples.

Each file has one task. The functions take plain numbers and texts, so that a test can compare them with a
computation of its own.
"""
