"""Videos of a shape that moves, with texts and questions whose answers are planted.

`scenes` composes and describes them, `encode` writes mp4 files. Neither knows how a shape is painted: the
corpus of shapes passes its words and its brush.
"""
