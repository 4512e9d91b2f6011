"""The font of a figure, cut down to the characters it shows and put into the SVG, so that text stays text."""

from __future__ import annotations

import base64
import io
import re
from html import unescape
from typing import Final

FAMILY: Final = "saedsl-figure"
_FONT = re.compile(r"(font: (?:[a-z]+ )*[\d.]+px )[^;\"]*")


def embedded(svg: bytes) -> bytes:
    """`svg` of matplotlib with its font inside."""
    text = svg.decode()
    shown = "".join(unescape(t) for t in re.findall(r"<text[^>]*>([^<]*)</text>", text))
    data = base64.b64encode(_subset(shown)).decode()
    rule = f"@font-face{{font-family:'{FAMILY}';src:url(data:font/ttf;base64,{data}) format('truetype')}}"
    text = _FONT.sub(rf"\1'{FAMILY}', 'DejaVu Sans', Verdana, sans-serif", text)
    return text.replace('<style type="text/css">', f'<style type="text/css">{rule}', 1).encode()


def _subset(characters: str) -> bytes:
    """DejaVu Sans with no more than `characters`; equal characters give equal bytes."""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont
    from matplotlib.font_manager import FontProperties, findfont

    font = TTFont(findfont(FontProperties(family="DejaVu Sans")), recalcTimestamp=False)
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
