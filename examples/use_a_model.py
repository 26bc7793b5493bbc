"""Captions, scores, answers and rankings of images from Python, as `capfilt caption`, `match`, `answer` and
`rank` make them in a shell.

    python examples/use_a_model.py

Tiny models with random weights stand for released ones, so what they say means nothing. Give your own: a
capfilt or transformers folder, or a .pth of BLIP or LAVIS with `tokenizer=` the folder of bert-base-uncased.
"""

# %% Three images, and models in place of a finetuned captioner, filter and question answerer
from PIL import Image
from tiny_blip import save_tiny_blip

from capfilt.models.tasks.answerer import Answerer
from capfilt.models.tasks.captioner import Captioner
from capfilt.models.tasks.matcher import Matcher
from capfilt.models.tasks.ranker import Ranker, fill_templates

images = [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue")]  # or bytes of files
captioner, filter_, answerer = save_tiny_blip("tiny-blip")

# %% Captions: the keys name the images, and decide the draws of nucleus sampling
for captions in Captioner.from_checkpoint(captioner).caption(images, ["red", "green", "blue"], n=2):
    print("caption", [caption.text for caption in captions])

# %% How well texts match their image: ITM probability and ITC cosine
for scores in Matcher.from_checkpoint(filter_).match(images, [["a red square", "a blue ring"]] * 3):
    print("match  ", [(round(score.itm_prob, 2), round(score.itc_sim, 2)) for score in scores])

# %% Answers, free and from a list
model = Answerer.from_checkpoint(answerer)
print("answer ", [answer.text for answer in model.answer(images, ["a color"] * 3)])
print("choose ", [answer.text for answer in model.rank(images, ["a color"] * 3, ["red", "green", "blue"])])

# %% Rankings by ITC, the best two again by ITM: texts for each image, images for each text
ranker = Ranker.from_checkpoint(filter_)
texts = ranker.encode(["a red square", "a green star", "a blue ring"])
print("rank   ", [[place.index for place in ranked] for ranked in ranker.rank(images, texts, k=2)])
print("find   ", [ranked[0].index for ranked in ranker.find(images, texts, k=2, top=1)])

# %% Zero-shot classification: the prompts of a class are averaged
names = ["red", "green", "blue"]
classes = ranker.encode(fill_templates(names, ["a {} square", "a picture of a {} square"]))
print("class  ", [names[ranked[0].index] for ranked in ranker.rank(images, classes, top=1)])
