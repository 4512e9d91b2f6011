"""The fonts of a figure, cut down to the characters it shows and put into the SVG, so that text stays text."""

from __future__ import annotations

import base64
import io
import re
from html import unescape
from typing import Final

FAMILY: Final = "saedsl-figure"
_TEXT = re.compile(r"<text[^>]*?style=\"([^\"]*)\"[^>]*>([^<]*)</text>")
_FONT = re.compile(r"(font: (?:\w+ )*[\d.]+px |font-family: )[^;\"]*")
"""matplotlib writes one property, or since 3.10 several."""
_BOLD = re.compile(r"font(-weight)?: (700|bold)\b")
_WEIGHTS: Final = {"normal": "400", "bold": "700"}


def embedded(svg: bytes) -> bytes:
    """`svg` of matplotlib with its fonts inside."""
    text = svg.decode()
    shown = {"normal": "", "bold": ""}
    for style, words in _TEXT.findall(text):
        shown["bold" if _BOLD.search(style) else "normal"] += unescape(words)
    rules = "".join(_rule(weight, characters) for weight, characters in shown.items() if characters)
    text = _FONT.sub(rf"\1'{FAMILY}', 'DejaVu Sans', Verdana, sans-serif", text)
    return text.replace('<style type="text/css">', f'<style type="text/css">{rules}', 1).encode()


def _rule(weight: str, characters: str) -> str:
    data = base64.b64encode(_subset(weight, characters)).decode()
    source = f"src:url(data:font/ttf;base64,{data}) format('truetype')"
    return f"@font-face{{font-family:'{FAMILY}';font-weight:{_WEIGHTS[weight]};{source}}}"


def _subset(weight: str, characters: str) -> bytes:
    """DejaVu Sans with no more than `characters`; equal characters give equal bytes."""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont
    from matplotlib.font_manager import FontProperties, findfont

    font = TTFont(findfont(FontProperties(family="DejaVu Sans", weight=weight)), recalcTimestamp=False)
    options = Options()
    options.hinting = False
    options.layout_features = ["kern"]
    options.drop_tables = [*options.drop_tables, "FFTM"]
    cutter = Subsetter(options)
    cutter.populate(unicodes=sorted({ord(c) for c in characters} | {32}))
    cutter.subset(font)
    file = io.BytesIO()
    font.save(file)
    return file.getvalue()
