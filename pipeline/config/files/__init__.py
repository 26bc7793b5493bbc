"""The files and folders that a config names, checked before the first node starts.

`paths.py`: whether every process would find the same file; `shipped.py`: files that come with the program;
`start_weights.py`: whether the weights that models start from are there.
"""
