"""Flags of texts that say nothing about an image: examples on both sides of every rule."""

import pytest

from capfilt.stages.bootstrap.content_flags import MAX_CHARS, flag_content

BOILERPLATE = """
IMG_1234.jpg | img_1234 | DSC00012.JPG | DSC_0012 | PXL_20210305_101112345.jpg
Screenshot 2020-01-01 at 10.10.10.png | image001 | photo (3).jpeg | untitled-1 | red-car.webp
a1b2c3d4.png | WP_20140101_003 | image | Photo | untitled | Thumbnail. | Click to buy
click here for details | Image not available | image is not available | No image available
no photo currently available | Photo coming soon | Buy now! | Add to cart
Free shipping on all orders | Read more | Loading... | All Rights Reserved | 2014-03-12
12/03/2014 10:15 | March 12, 2014 | 12th March 2014 | Mon, 3 Feb 2020 | 10:15 pm | 2014 | #7
1,234.5 | 2014年3月12日 | 2020-01-01T10:00:00Z | ２０１４／３／１２
"""
NOT_CAPTION = """
https://example.com/a.html | see http://example.com | www.example.com
buy it at www.example.co.uk/x today | mail me: a.b+c@example.org | $5 | only $ 19.99 today
19,99 € | EUR 20 | 20 usd | ¥500 | 1200円 | 99 zł | ₹ 450 | +49 30 901820 | +1 (555) 123-4567
(555) 123-4567 | 555-123-4567 | call us at 030 901820 | Tel: 030 90 18 20
"""
CLEAN = """
a red dog on the grass | Two birds, one stone | my image of the sea | photo of a cat
Image of the day: a galaxy | a screenshot of the game | the file on the desk | Porsche 911
Boeing 747-400 landing | iPhone 12 in blue | 7 cats | Summer of 69 | may the force be with you
a march in London in March 2014 | the 4th of July parade | Sunday lunch | view of the mountains
we click together | a shop that opens now | loading dock | a sign in the window | more to read
cash: a pile of dollars | a 5 dollar bill | 100 m sprint | ratio 3:2 | mp3 player | size 40-42
the .com boom | user@home | @artist | a www sign | the euro 2012 final | European 20 year old
5 krona less | 1914-1918 war memorial | ISBN 978-3-16-148410-0 | pi is 3.14159265358979
highway 101 near exit 23 | call of duty 4 | собака на траве | Собака 2014 | 一只红色的狗
犬が3匹いる | 빨간 개 두 마리 | كلب أحمر على العشب | כלב אדום | एक लाल कुत्ता | สุนัขสีแดง
Ein Hund am 3. Mai auf der Wiese | un chien rouge à Noël | chó đỏ trên cỏ | Κόκκινος σκύλος 7
"""


def examples(block):
    """The examples of a block; they are separated by bars and line ends."""
    return [text for line in block.strip().splitlines() for text in line.split(" | ")]


@pytest.mark.parametrize("text", examples(BOILERPLATE))
def test_boilerplate(text):
    assert flag_content(text) == ["boilerplate"]
    assert flag_content(f"  {text}\n") == ["boilerplate"]


@pytest.mark.parametrize("text", examples(NOT_CAPTION))
def test_not_caption(text):
    assert "not_caption" in flag_content(text)
    assert flag_content(f"A fine lamp, {text}") == ["not_caption"]


@pytest.mark.parametrize("text", examples(CLEAN))
def test_text_about_an_image_has_no_flag(text):
    assert flag_content(text) == []


def test_text_can_have_both_flags():
    assert flag_content("Buy now for $5") == ["boilerplate", "not_caption"]


def test_only_the_beginning_of_a_long_text_is_looked_at():
    filler = "a dog " * (MAX_CHARS // 6)
    assert flag_content(filler[: MAX_CHARS - 9] + " $5") == ["not_caption"]
    assert flag_content(filler[:MAX_CHARS] + " $5") == []
