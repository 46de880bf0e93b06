"""Background and foreground of a bird: sky, branches, water, reeds."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw, ImageFilter

from flip.sample.species import RGB

PLACES = ("sky", "branch", "water", "reeds")


def background(place: str, side: int, chance: random.Random) -> Image.Image:
    """Return a backdrop out of focus, RGB, ``side`` pixels square.

    Parameters
    ----------
    place : str
        One of ``PLACES``.
    side : int
    chance : random.Random
    """
    # Drawn small and enlarged: that is what a lens does to what lies far behind.
    small = {"sky": _sky, "branch": _foliage, "water": _water, "reeds": _reeds}[place](chance)
    return small.filter(ImageFilter.GaussianBlur(chance.uniform(0.7, 2.0))).resize(
        (side, side), Image.Resampling.BICUBIC
    )


def perch(canvas: Image.Image, place: str, foot: tuple[float, float], upright: bool, chance: random.Random) -> None:
    """Draw what the bird sits on: a twig, a trunk for a climbing bird, a stone, or the water's surface."""
    pen, (x, y), side = ImageDraw.Draw(canvas), foot, canvas.width
    bark = _shifted((104, 82, 62), 26, chance)
    if upright:
        width = side * chance.uniform(0.05, 0.09)
        pen.polygon([(x, 0), (x + width, 0), (x + width * 1.3, side), (x - width * 0.2, side)], fill=bark)
        pen.line(
            [(x + width * 0.5, 0), (x + width * 0.55, side)], fill=_shifted(bark, 18, chance), width=round(side * 0.010)
        )
    elif place == "water":
        wide, high = side * chance.uniform(0.16, 0.26), side * chance.uniform(0.05, 0.08)
        pen.ellipse((x - wide, y - high * 0.15, x + wide, y + high * 2), fill=_shifted((118, 114, 108), 22, chance))
    elif place == "reeds":
        lean, stem = chance.uniform(-0.25, 0.25) * side, _shifted((146, 140, 82), 25, chance)
        pen.line([(x - lean, side), (x, y), (x + lean * 0.6, y - side * 0.25)], stem, round(side * 0.019))
        pen.line([(x - side * 0.2, y + side * 0.012), (x + side * 0.25, y)], stem, round(side * 0.015))
    else:
        slope, width = chance.uniform(-0.16, 0.16), round(side * chance.uniform(0.02, 0.04))
        pen.line([(0, y + x * slope), (side, y - (side - x) * slope)], fill=bark, width=width)
        for _ in range(chance.randrange(3)):
            leaf(canvas, (chance.uniform(0, side), y + side * chance.uniform(-0.02, 0.06)), side * 0.05, chance)


def waterline(canvas: Image.Image, level: float, chance: random.Random) -> None:
    """Let water cover everything below a line, with ripples."""
    side = canvas.width
    water = _shifted((96, 132, 148), 30, chance)
    veil = Image.new("L", canvas.size, 0)
    ImageDraw.Draw(veil).rectangle((0, level, side, side), fill=215)
    canvas.paste(water, mask=veil.filter(ImageFilter.BoxBlur(3)))
    pen = ImageDraw.Draw(canvas)
    for _ in range(14):
        x, y, reach = chance.uniform(0, side), chance.uniform(level, side), side * chance.uniform(0.04, 0.16)
        pen.line([(x - reach, y), (x + reach, y)], fill=_shifted(water, 28, chance), width=2)


def foreground(canvas: Image.Image, place: str, chance: random.Random) -> None:
    """Put something between lens and bird: a blade of reed, or leaves."""
    side = canvas.width
    if place == "reeds":
        for _ in range(chance.randint(1, 3)):
            x, lean = chance.uniform(0.1, 0.9) * side, chance.uniform(-0.15, 0.15) * side
            blade = [(x, side), (x + lean, chance.uniform(0, 0.3) * side), (x + side * 0.023, side)]
            ImageDraw.Draw(canvas).polygon(blade, fill=_shifted((120, 132, 62), 32, chance))
    else:
        for _ in range(chance.randint(1, 3)):
            at = (chance.uniform(0.15, 0.85) * side, chance.uniform(0.15, 0.85) * side)
            leaf(canvas, at, side * chance.uniform(0.05, 0.09), chance)


def leaf(canvas: Image.Image, at: tuple[float, float], length: float, chance: random.Random) -> None:
    """Draw one leaf."""
    dx, dy = chance.uniform(-1, 1) * length, chance.uniform(-1, 1) * length
    (x, y), green = at, _shifted((86, 122, 52), 34, chance)
    ImageDraw.Draw(canvas).polygon(
        [(x - dx, y - dy), (x - dy * 0.45, y + dx * 0.45), (x + dx, y + dy), (x + dy * 0.45, y - dx * 0.45)], fill=green
    )


def _sky(chance: random.Random) -> Image.Image:
    top, low = _shifted((128, 166, 212), 44, chance), _shifted((206, 216, 226), 36, chance)
    small = _gradient(top, low)
    pen = ImageDraw.Draw(small)
    for _ in range(chance.randrange(5)):
        x, y, r = chance.uniform(0, 48), chance.uniform(0, 48), chance.uniform(4, 12)
        pen.ellipse((x - r * 1.8, y - r * 0.5, x + r * 1.8, y + r * 0.5), fill=_shifted((232, 234, 238), 16, chance))
    return small


def _foliage(chance: random.Random) -> Image.Image:
    base = _shifted((104, 128, 84), 50, chance)
    small = _gradient(base, _shifted(base, 30, chance))
    _blobs(small, base, 24, chance)
    return small


def _water(chance: random.Random) -> Image.Image:
    far = _shifted((112, 130, 120), 45, chance)
    near = _shifted((108, 142, 160), 36, chance)
    small, shore = _gradient(near, _shifted(near, 20, chance)), chance.uniform(4, 24)
    pen = ImageDraw.Draw(small)
    pen.rectangle((0, 0, 48, shore), fill=far)
    for _ in range(16):
        x, y = chance.uniform(0, 48), chance.uniform(shore, 48)
        pen.line([(x - 6, y), (x + 6, y)], fill=_shifted(near, 30, chance))
    return small


def _reeds(chance: random.Random) -> Image.Image:
    base = _shifted((158, 152, 108), 40, chance)
    small = _gradient(_shifted(base, 30, chance), base)
    pen = ImageDraw.Draw(small)
    for _ in range(30):
        x, lean = chance.uniform(-4, 52), chance.uniform(-7, 7)
        pen.line(
            [(x, 48), (x + lean, chance.uniform(-4, 24))], fill=_shifted(base, 48, chance), width=chance.choice((1, 2))
        )
    return small


def _blobs(small: Image.Image, base: RGB, count: int, chance: random.Random) -> None:
    pen = ImageDraw.Draw(small)
    for _ in range(count):
        x, y, r = chance.uniform(0, 48), chance.uniform(0, 48), chance.uniform(2, 8)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=_shifted(base, 44, chance))


def _gradient(top: RGB, low: RGB) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((48, 48))
    return Image.composite(Image.new("RGB", (48, 48), low), Image.new("RGB", (48, 48), top), ramp)


def _shifted(colour: RGB, spread: int, chance: random.Random) -> RGB:
    """Return a colour somewhere near another: lighter or darker, and a little of another hue."""
    light = chance.uniform(-spread, spread)
    r, g, b = (max(0, min(255, round(v + light + chance.uniform(-spread, spread) * 0.4))) for v in colour)
    return r, g, b
