"""Use of a model without a run: captions, scores, answers and rankings of pictures, and evaluation on tasks.

Imports `tasks`, `testset`, `config` and `console`. Start with `describe.py`, which takes pictures to printed
lines; `pictures.py` finds and reads them, `models.py` chooses the model. No Ray.
"""
