"""Flags of texts that say nothing about an image: stock phrases and file names, addresses and prices.

The rules are exact patterns, which docs/schema.md lists. Their words are English; file names, numbers and
addresses are found in any language, and a text in another script is not flagged for its letters.
"""

from __future__ import annotations

import re
import unicodedata

BOILERPLATE = "boilerplate"
"""Flag of a text that is a file name, a stock phrase of web pages, or a date or number alone."""
NOT_CAPTION = "not_caption"
"""Flag of a text with a url, an e-mail address, a price or a telephone number in it."""
CONTENT_FLAGS = (BOILERPLATE, NOT_CAPTION)

MAX_CHARS = 2000
"""Characters of a text that are looked at: the patterns take time in proportion to the length."""

_ENDING = r"\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|svg|heic|avif|raw|cr2|nef)"
_FILE_NAME = re.compile(rf"\S+{_ENDING}", re.IGNORECASE)
_CAMERA_NAME = re.compile(
    rf"(?:img|image|dsc|dscf|dscn|dcim|pict|pic|picture|photo|pxl|gopr|mvi|scan|screenshot|screen shot|"
    rf"untitled|unnamed|download|file|wp|vlcsnap|hpim|sam|cimg|imag)"
    rf"(?:[\s_\-().:]|\d|\bat\b)*(?:{_ENDING})?",
    re.IGNORECASE,
)
_HAS_DIGIT = re.compile(r"\d")
_BARE_NAMES = frozenset(
    ["image", "img", "photo", "picture", "pic", "untitled", "unnamed", "download", "screenshot", "thumbnail"]
)
"""Names that are boilerplate also without a number."""

_PHRASES = re.compile(
    r"\b(?:click (?:here|to|for|on|the image)|(?:add|added) to (?:cart|basket|bag|wish ?list)|buy now|"
    r"shop now|order now|read more|learn more|view (?:larger|full|all|details)|see more|load more|"
    r"(?:image|photo|picture|preview|thumbnail) (?:is )?(?:not (?:available|found)|unavailable|coming soon)|"
    r"no (?:image|photo|picture|preview|thumbnail)(?: is)?(?: currently)? available|"
    r"(?:placeholder|default) image|image placeholder|free shipping|all rights reserved|sign (?:in|up) to|"
    r"log ?in to|subscribe (?:to|now)|page not found|loading\.\.\.)(?!\w)",
    re.IGNORECASE,
)
_TIME_WORDS = re.compile(
    r"\b(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?|mon(?:day)?|tues?(?:day)?|wed(?:nesday)?|thu(?:rsday)?|"
    r"fri(?:day)?|sat(?:urday)?|sun(?:day)?|am|pm|utc|gmt|at|of)\b"
    r"|(?<=\d)(?:st|nd|rd|th|am|pm|t(?=\d)|z|[年月日时時分秒년월일])",
    re.IGNORECASE,
)
_URL = re.compile(r"\b(?:https?|ftp)://\S|\bwww\.[^\s.]+\.\S", re.IGNORECASE)
_EMAIL = re.compile(r"[\w.+\-]{1,64}@[\w\-]{1,63}(?:\.[\w\-]{2,63})+")
_CODES = r"(?:usd|eur|gbp|jpy|inr|cad|aud|chf|cny|rmb|sek|nok|dkk|pln|czk|rub|brl)"
_PRICE = re.compile(
    rf"[$€£¥₹₽₩₺₫฿₴₪]\s?\d|\d\s?[€£¥₹₽₩₺₫฿₴₪]|\b{_CODES}\s?\d|\d\s?{_CODES}\b|\d\s?(?:zł|kč|円|元|원)",
    re.IGNORECASE,
)
_PHONE = re.compile(
    r"(?<![\w.+])\+\d{1,3}(?:[\s().\-]{0,2}\d{2,4}){2,5}(?!\w)"
    r"|(?<![\w.\-])(?:\(\d{3}\)\s?|\d{3}[\s.\-])\d{3}[\s.\-]\d{4}(?![\w\-])"
    r"|\b(?:tel|phone|call|fax|whatsapp)\b\s?[.:]?\s?(?:us\s)?(?:at\s)?\+?(?:[\s().\-]{0,2}\d){6,15}",
    re.IGNORECASE,
)


def flag_content(text: str) -> list[str]:
    """Flags of a text as it came: any of `boilerplate` and `not_caption`; docs/schema.md has the rules."""
    text = unicodedata.normalize("NFKC", text[:MAX_CHARS]).strip()
    flags = [BOILERPLATE] if _is_boilerplate(text) else []
    return [*flags, NOT_CAPTION] if _is_no_caption(text) else flags


def _is_no_caption(text: str) -> bool:
    # Most texts have neither a digit nor one of these signs, which saves most of the time.
    if _HAS_DIGIT.search(text) and (_PRICE.search(text) or _PHONE.search(text)):
        return True
    has_sign = "@" in text or "://" in text or "." in text
    return has_sign and (_URL.search(text) or _EMAIL.search(text)) is not None


def _is_boilerplate(text: str) -> bool:
    if _FILE_NAME.fullmatch(text) or text.lower().strip(".!: ") in _BARE_NAMES:
        return True
    if _HAS_DIGIT.search(text) and (_CAMERA_NAME.fullmatch(text) or _is_date_or_number(text)):
        return True
    return _PHRASES.search(text) is not None


def _is_date_or_number(text: str) -> bool:
    """Whether no letter is left without the names of months and days and the units of time."""
    return not any(character.isalpha() for character in _TIME_WORDS.sub(" ", text))
