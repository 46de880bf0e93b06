"""Draw one bird with Pillow: smooth outlines in units of its body, filled with clipped regions of colour."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from flip.sample.outlines import Point, around, bezier, disc, egg, hull, smooth
from flip.sample.shapes import SHAPES, Shape
from flip.sample.species import COLOURS, RGB, Marks, Species

_DARK: RGB = (34, 32, 34)
_BILLS: dict[str, RGB] = {
    "cone": (196, 160, 120), "thin": (52, 48, 46), "straight": (74, 66, 58), "curved": (92, 76, 58),
    "tiny": (40, 38, 38), "flat": (226, 160, 48), "hooked": (232, 184, 56),
}  # fmt: skip


@dataclass(frozen=True)
class Pose:
    """Where a bird sits in a picture, in pixels of the canvas, and how.

    ``x``, ``y`` is the middle of the body and ``unit`` the pixels of one body unit; ``tilt`` (degrees) is added to the
    genus's own, ``nod`` turns the head, ``cock`` the tail; ``sight`` is 1 to the right and -1 to the left.
    """

    x: float
    y: float
    unit: float
    tilt: float
    nod: float
    cock: float
    sight: int


class _Pen:
    """Turns points in units of the body into pixels of the canvas."""

    def __init__(self, pose: Pose, angle: float) -> None:
        self._pose, self._cos, self._sin = pose, math.cos(math.radians(angle)), math.sin(math.radians(angle))

    def at(self, x: float, y: float) -> Point:
        across, up = x * self._cos - y * self._sin, x * self._sin + y * self._cos
        return self._pose.x + self._pose.sight * across * self._pose.unit, self._pose.y - up * self._pose.unit

    def all(self, points: Sequence[Point]) -> list[Point]:
        return [self.at(x, y) for x, y in points]


def draw_bird(canvas: Image.Image, species: Species, pose: Pose, chance: random.Random) -> Image.Image:
    """Draw a bird onto a picture and return the mask of its body, which an occluding leaf may want to know.

    Parameters
    ----------
    canvas : RGB image
        Drawn upon.
    species : Species
    pose : Pose
    chance : random.Random
        Jitters the plumage's colours a little: no two individuals are the same.

    Returns
    -------
    L image of the canvas's size
    """
    return _Bird(canvas, species, pose, chance).draw()


class _Bird:
    def __init__(self, canvas: Image.Image, species: Species, pose: Pose, chance: random.Random) -> None:
        self.canvas, self.pen = canvas, ImageDraw.Draw(canvas)
        self.shape: Shape = SHAPES[species.genus]
        self.marks: Marks = species.marks
        self.pose = pose
        self.body = _Pen(pose, self.shape.upright + pose.tilt)
        self.level = _Pen(pose, pose.tilt * 0.5)
        self.chance = chance
        warmth = chance.uniform(0.93, 1.07)
        self.colours = {
            name: _jitter(getattr(species.marks, name), warmth, chance) for name in ("crown", "back", "breast", "wing")
        }
        self.head = self._head_centre()
        self.gaze = math.radians(pose.nod + pose.tilt * 0.3)

    def draw(self) -> Image.Image:
        """Tail and far leg first, then the body with its colours, then what lies on top."""
        self._legs()
        self._tail()
        self._bill()
        mask = self._silhouette()
        self.canvas.paste(self.colours["back"], mask=mask)
        self._breast(mask)
        self._crown(mask)
        self._shade(mask)
        self._wing()
        self._eye()
        return mask

    def _head_centre(self) -> Point:
        shape = self.shape
        x, y = self.body.at(shape.length * 0.80, shape.depth * 0.50)
        reach = shape.neck + shape.head * 0.45
        lean = 0.45 if shape.neck < 0.3 else 0.12
        return x + self.pose.sight * reach * lean * self.pose.unit, y - reach * self.pose.unit

    def _on_head(self, x: float, y: float) -> Point:
        """Return the pixel of a point in head radii, x along the gaze."""
        r, cos, sin = self.shape.head * self.pose.unit, math.cos(self.gaze), math.sin(self.gaze)
        return (
            self.head[0] + self.pose.sight * r * (x * cos - y * sin),
            self.head[1] - r * (x * sin + y * cos),
        )

    def _mask(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        mask = Image.new("L", self.canvas.size, 0)
        return mask, ImageDraw.Draw(mask)

    def _silhouette(self) -> Image.Image:
        shape, unit = self.shape, self.pose.unit
        mask, pen = self._mask()
        pen.polygon(self.body.all(egg(shape.length, shape.depth)), fill=255)
        r = shape.head * unit
        disc(pen, self.head, r, 255)
        shoulder = self.body.at(shape.length * 0.42, shape.depth * 0.05)
        if shape.neck > 0.3:
            self._long_neck(pen, shoulder)
        else:
            hull(pen, shoulder, shape.depth * 0.80 * unit, self.head, r * 0.90)
        # A blur and a steep threshold round the corners between head, neck and body.
        box = around(mask, 8)
        part = mask.crop(box).filter(ImageFilter.BoxBlur(max(2, unit * 0.045)))
        part = part.point(lambda v: max(0, min(255, (v - 104) * 11)))
        mask.paste(part, box)
        return mask

    def _long_neck(self, pen: ImageDraw.ImageDraw, shoulder: Point) -> None:
        """Draw the S of a heron's neck as discs along a curve."""
        unit, sight = self.pose.unit, self.pose.sight
        start, end = shoulder, (self.head[0] - sight * 0.02 * unit, self.head[1])
        bend = (start[0] + sight * 0.26 * unit, start[1] - 0.16 * unit)
        back = (end[0] - sight * 0.20 * unit, end[1] + 0.24 * unit)
        for i in range(33):
            t = i / 32
            point = bezier(start, bend, back, end, t)
            disc(pen, point, unit * (0.135 * (1 - t) ** 2 + 0.06), 255)

    def _breast(self, mask: Image.Image) -> None:
        shape = self.shape
        length, depth = shape.length, shape.depth
        region, pen = self._mask()
        under = [
            (length * 1.25, depth * 0.55), (length * 0.86, depth * 0.30), (length * 0.45, -depth * 0.05),
            (-length * 0.15, -depth * 0.30), (-length * 0.75, -depth * 0.28), (-length * 1.1, -depth * 0.4),
            (-length * 0.6, -depth * 1.5), (length * 0.7, -depth * 1.6), (length * 1.5, -depth * 0.6),
        ]  # fmt: skip
        pen.polygon(self.body.all(smooth(under)), fill=255)
        if shape.neck > 0.3:
            pen.polygon([self._on_head(*p) for p in ((0.3, -0.5), (3, -0.6), (3, -5), (-0.2, -5))], fill=255)
        else:
            pen.polygon([self._on_head(*p) for p in ((0.25, -0.45), (1.4, -0.2), (2, -3), (-0.3, -2))], fill=255)
        region = ImageChops.multiply(region.filter(ImageFilter.BoxBlur(2)), mask)
        self.canvas.paste(self.colours["breast"], mask=region)
        if self.marks.spotted:
            self._spots(region)

    def _spots(self, region: Image.Image) -> None:
        length, depth = self.shape.length, self.shape.depth
        spots, pen = self._mask()
        for row in range(6):
            for column in range(7):
                x = length * (0.92 - column * 0.19 - (row % 2) * 0.09) + self.chance.uniform(-0.012, 0.012)
                y = -depth * (-0.12 + row * 0.19) + self.chance.uniform(-0.012, 0.012)
                r = self.pose.unit * self.chance.uniform(0.020, 0.027)
                disc(pen, self.body.at(x, y), r, 255)
        self.canvas.paste((62, 44, 34), mask=ImageChops.multiply(spots, region))

    def _crown(self, mask: Image.Image) -> None:
        cap, pen = self._mask()
        line = [
            (1.12, 0.22), (0.7, 0.30), (0.1, 0.34), (-0.5, 0.16), (-1.0, -0.35), (-1.45, -0.2), (-1.2, 1.0), (0, 1.4),
            (1.2, 0.9),
        ]  # fmt: skip
        pen.polygon([self._on_head(*p) for p in smooth(line)], fill=255)
        self.canvas.paste(self.colours["crown"], mask=ImageChops.multiply(cap, mask))

    def _shade(self, mask: Image.Image) -> None:
        """Darken the underside and lighten the top a little, as light from above does."""
        box = around(mask, 0)
        width, height = box[2] - box[0], box[3] - box[1]
        part = mask.crop(box)
        ramp = Image.linear_gradient("L").resize((width, height))
        dark = ImageChops.multiply(part, ramp.point([max(0, v - 120) * 95 // 135 for v in range(256)]))
        self.canvas.paste((20, 18, 30), box=box, mask=dark)
        light = ImageChops.multiply(part, ramp.point([max(0, 90 - v) * 60 // 90 for v in range(256)]))
        self.canvas.paste((255, 250, 235), box=box, mask=light)

    def _wing(self) -> None:
        shape, unit = self.shape, self.pose.unit
        length, depth = shape.length, shape.depth
        tip = -length * (0.35 + 0.75 * shape.wing)
        outline = [
            (length * 0.52, depth * 0.22), (length * 0.20, depth * 0.52), (-length * 0.35, depth * 0.48),
            (tip, depth * 0.02), (-length * 0.55, -depth * 0.30), (length * 0.05, -depth * 0.48),
            (length * 0.42, -depth * 0.28),
        ]  # fmt: skip
        wing, pen = self._mask()
        pen.polygon(self.body.all(smooth(outline)), fill=255)
        colour = self.colours["wing"]
        self.canvas.paste(colour, mask=wing)
        lines, pen = self._mask()
        thin = max(1, round(unit * 0.012))
        for i in range(5):
            start = (length * (0.02 - 0.10 * i), -depth * (0.42 - 0.05 * i) + depth * 0.16 * i)
            pen.line([self.body.at(*start), self.body.at(tip * 0.97, depth * 0.03)], fill=120, width=thin)
        self.canvas.paste(_scaled(colour, 0.5), mask=ImageChops.multiply(lines, wing))
        bars, pen = self._mask()
        for i in range(self.marks.wing_bars):
            x = length * (0.16 - 0.34 * i)
            curve = [(x + length * 0.10, depth * 0.44), (x, depth * 0.05), (x + length * 0.02, -depth * 0.52)]
            pen.line(self.body.all(curve), fill=255, width=max(2, round(unit * 0.045)), joint="curve")
        self.canvas.paste((246, 244, 236), mask=ImageChops.multiply(bars, wing))
        edge = self.body.all([*smooth(outline), smooth(outline)[0]])
        self.pen.line(edge, fill=_scaled(colour, 0.6), width=thin)

    def _tail(self) -> None:
        shape = self.shape
        length, width, base = shape.tail_length, shape.tail_width, -shape.length * 0.80
        raised = 62 if shape.tail == "cocked" else -6 if shape.tail != "pointed" else 4
        turn = math.radians(-raised + self.pose.cock)
        w, end = width * 0.55, base - length
        ends: dict[str, list[Point]] = {
            "square": [(end, w * 1.15), (end, -w * 1.15)],
            "short": [(end, w * 1.2), (end - 0.02, 0), (end, -w * 1.2)],
            "cocked": [(end, w * 1.4), (end - 0.03, 0), (end, -w * 1.4)],
            "notched": [(end, w * 1.5), (end + 0.08, 0), (end, -w * 1.5)],
            "forked": [(end, w * 1.7), (base - length * 0.35, 0), (end, -w * 1.7)],
            "pointed": [(end + 0.12, w * 1.1), (end, 0), (end + 0.12, -w * 1.1)],
        }
        points = [(base + 0.12, w), *ends[shape.tail], (base + 0.12, -w)]
        cos, sin = math.cos(turn), math.sin(turn)
        turned = [(base + (x - base) * cos - y * sin, (x - base) * sin + y * cos) for x, y in points]
        colour = _scaled(self.colours["wing"], 0.80)
        self.pen.polygon(self.body.all(turned), fill=colour, outline=_scaled(colour, 0.6))
        self.pen.line(self.body.all([turned[0], turned[len(turned) // 2]]), fill=_scaled(colour, 0.65))

    def _bill(self) -> None:
        shape = self.shape
        length, depth = shape.bill_length / shape.head, shape.bill_depth / shape.head / 2
        root, tip = 0.78, 0.95 + length
        middle = root + length * 0.5
        outlines: dict[str, list[Point]] = {
            "curved": [(root, depth), (middle, depth * 0.9), (tip, -depth * 3), (middle, -depth)],
            "flat": [(root, depth * 1.3), (middle, 0), (tip, depth * 0.5), (tip, -depth), (root, -depth * 1.4)],
            "hooked": [
                (root, depth), (tip - 0.1, depth * 0.9), (tip, -depth * 1.6), (tip - 0.3, -depth * 0.5), (root, -depth),
            ],
        }  # fmt: skip
        points = outlines.get(shape.bill, [(root, depth), (tip, -depth * 0.15), (root, -depth)])
        colour = _BILLS[shape.bill]
        self.pen.polygon([self._on_head(x, y - 0.08) for x, y in points], fill=colour)
        gape = [self._on_head(root, -0.1), self._on_head(tip - 0.12, -0.1 - depth * 0.1)]
        self.pen.line(gape, fill=_scaled(colour, 0.6), width=max(1, round(self.pose.unit * 0.012)))

    def _legs(self) -> None:
        shape, unit = self.shape, self.pose.unit
        if not shape.legs:
            return
        colour, width = _scaled(COLOURS[self.marks.legs], 0.95), max(2, round(unit * 0.034))
        for at in (-0.02, 0.13):
            hip = self.body.at(shape.length * (at - 0.05), -shape.depth * 0.7)
            foot = foot_of(self.pose, shape, at)
            knee = ((hip[0] + foot[0]) / 2 - self.pose.sight * 0.03 * unit, (hip[1] + foot[1]) / 2)
            self.pen.line([hip, knee, foot], fill=colour, width=width, joint="curve")
            for toe in (0.10, 0.06, -0.07):
                self.pen.line([foot, (foot[0] + self.pose.sight * toe * unit, foot[1] + 0.015 * unit)], colour, width)

    def _eye(self) -> None:
        r = self.shape.head * self.pose.unit
        centre = self._on_head(0.36, 0.14)
        if self.marks.eye == "mask":
            band = [(1.0, 0.16), (0.4, 0.42), (-0.3, 0.30), (-0.85, -0.08), (-0.3, -0.14), (0.4, -0.16), (1.0, -0.06)]
            self.pen.polygon([self._on_head(*p) for p in smooth(band)], fill=(18, 18, 20))
        if self.marks.eye == "ring":
            disc(self.pen, centre, r * 0.40, (250, 248, 240))
        disc(self.pen, centre, r * 0.23, (64, 40, 26) if self.marks.eye == "mask" else _DARK)
        disc(self.pen, (centre[0] + r * 0.07, centre[1] - r * 0.08), r * 0.075, (255, 255, 255))


def foot_of(pose: Pose, shape: Shape, at: float = 0.05) -> Point:
    """Return the pixel where a foot stands, ``at`` of a body unit before the middle."""
    x, y = _Pen(pose, shape.upright + pose.tilt).at(shape.length * (at - 0.05), -shape.depth * 0.95)
    return x + pose.sight * 0.02 * pose.unit, y + shape.legs * pose.unit


def _scaled(colour: RGB, factor: float) -> RGB:
    r, g, b = (max(0, min(255, round(v * factor))) for v in colour)
    return r, g, b


def _jitter(name: str, warmth: float, chance: random.Random) -> RGB:
    r, g, b = COLOURS[name]
    light = chance.uniform(0.90, 1.10)
    return _scaled((round(r * warmth), g, round(b / warmth)), light)
