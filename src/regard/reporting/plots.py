"""Charts as inline SVG: small pure functions, text as text, colours from the page's CSS to fit both themes.

Nothing here uses style attributes: the page's Content-Security-Policy forbids them. Series differ by colour
(class `s0`..`s5`), by dash (`d0`..`d2`) and by marker shape, so that no figure depends on seeing colours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from regard.reporting.words import percent_tick, short

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 44, 18, 30, 44
COLOURS, DASHES = 6, 3
SCATTER_WIDTH = 320
SCATTER_HEIGHT = TOP + (SCATTER_WIDTH - LEFT - RIGHT) + BOTTOM  # so that the field is a square
MOST_DOTS = 1500

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line of a chart: its points, the band around it, single values as dots."""

    name: str
    colour: int
    dash: int = 0
    points: tuple[Point, ...] = ()
    band: tuple[tuple[float, float, float], ...] = ()  # (x, low, high)
    dots: tuple[Point, ...] = ()
    markers: bool = True

    @property
    def style(self) -> str:
        """The CSS classes of colour, dash and weight."""
        thin = "" if self.markers else " thin"
        return f"s{self.colour % COLOURS} d{self.dash % DASHES}{thin}"


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic map from values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


@dataclass(frozen=True)
class Frame:
    """What a chart says around its lines."""

    title: str
    x_label: str
    y_label: str
    x_log: bool = False
    x_ticks: tuple[float, ...] = ()  # empty: chosen
    x_text: Callable[[float], str] = field(default=short)
    y_text: Callable[[float], str] = field(default=percent_tick)
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    diagonal: bool = False
    level: float | None = None  # a dotted horizontal line
    marks: tuple[tuple[float, str], ...] = ()  # vertical lines with their names


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; names use `_` for `-`, a trailing `_` is dropped (`class_`); everything is escaped."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{pairs}>{''.join(str(escape(child)) for child in children)}</{name}>")


def _number(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def nice_ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """Round numbers (1, 2 or 5 times a power of ten) inside [low, high], at most `most`."""
    if not high > low:
        return (low,)
    step = 10 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most - 1 + 1e-9)
    first = math.ceil(low / step - 1e-9)
    return tuple(round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1))


def log_ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """1, 2, 5 times powers of ten inside [low, high]; powers alone or every n-th where that is too many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors, every in (((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 3), ((1,), 6)):
        ticks = [f * 10.0**e for e in exponents if e % every == 0 for f in factors]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= most:
            break
    return tuple(ticks)


def span(values: Sequence[float], pad: float = 0.06, floor: float | None = None, ceiling: float | None = None) -> Point:
    """The range of the finite values with some air, inside floor and ceiling."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    air = pad * (high - low) or abs(high) * pad or pad
    low, high = low - air, high + air
    if floor is not None:
        low = max(low, floor)
    if ceiling is not None:
        high = min(high, ceiling)
    return (low, high) if high > low else (low - air, high + air)


def log_span(values: Sequence[float], pad: float = 0.06) -> Point:
    """The range of the positive values with some air, in logarithms."""
    low, high = span([math.log(value) for value in values if value > 0], pad)
    return (math.exp(low), math.exp(high)) if high - low > 0.2 else (math.exp(low - 0.5), math.exp(high + 0.5))


def line_chart(chart_id: str, frame: Frame, series: Sequence[Series]) -> Markup:
    """Lines with bands, markers and dots; `chart_id` is unique in the page. Empty without any point."""
    drawn = [one for one in series if one.points or one.dots]
    if not drawn:
        return Markup("")
    x, y = _axes(frame, drawn)
    body = [_grid(frame, x, y)]
    if frame.diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        body.append(tag("path", d=_path([(x(low), y(low)), (x(high), y(high))]), class_="ideal"))
    if frame.level is not None:
        body.append(tag("path", d=_path([(LEFT, y(frame.level)), (WIDTH - RIGHT, y(frame.level))]), class_="ideal"))
    body += [_band(one, x, y) for one in drawn if len(one.band) > 1]
    body += [_line(one, x, y) for one in drawn]
    for at, name in frame.marks:
        body.append(tag("line", x1=x(at), x2=x(at), y1=TOP, y2=HEIGHT - BOTTOM, class_="zero"))
        side, step = ("end", -6) if x(at) > WIDTH / 2 else ("", 6)
        if name:
            body.append(tag("text", name, x=x(at) + step, y=TOP + 10, class_=f"row {side}".rstrip()))
    description = f"{frame.y_label} against {frame.x_label}: {', '.join(one.name for one in drawn)}"
    return _svg(chart_id, frame.title, description, HEIGHT, body)


def _axes(frame: Frame, series: Sequence[Series]) -> tuple[Axis, Axis]:
    xs = [p[0] for one in series for p in (*one.points, *one.dots)]
    ys = [p[1] for one in series for p in (*one.points, *one.dots)]
    ys += [bound for one in series for band in one.band for bound in band[1:]]
    x_range = frame.x_range or (log_span(xs) if frame.x_log else span(xs, 0.03))
    y_range = frame.y_range or span(ys)
    return (
        Axis(*x_range, LEFT, WIDTH - RIGHT, frame.x_log),
        Axis(*y_range, HEIGHT - BOTTOM, TOP),
    )


def _grid(frame: Frame, x: Axis, y: Axis, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    ticks = frame.x_ticks or (log_ticks(x.low, x.high) if frame.x_log else nice_ticks(x.low, x.high))
    parts = []
    for value in nice_ticks(y.low, y.high, 5 if height == HEIGHT else 6):
        parts.append(tag("line", x1=LEFT, x2=width - RIGHT, y1=y(value), y2=y(value), class_="grid"))
        parts.append(tag("text", frame.y_text(value), x=LEFT - 6, y=y(value) + 4, class_="tick end"))
    parts.append(tag("line", x1=LEFT, x2=width - RIGHT, y1=height - BOTTOM, y2=height - BOTTOM, class_="axis"))
    for value in _apart(ticks, x, 44):
        parts.append(tag("line", x1=x(value), x2=x(value), y1=height - BOTTOM, y2=height - BOTTOM + 4, class_="axis"))
        parts.append(tag("text", frame.x_text(value), x=x(value), y=height - BOTTOM + 17, class_="tick middle"))
    parts.append(tag("text", frame.y_label, x=0, y=13, class_="label"))
    parts.append(tag("text", frame.x_label, x=width - RIGHT, y=height - 8, class_="label end"))
    return Markup("").join(parts)


def _apart(ticks: Sequence[float], axis: Axis, least: float) -> list[float]:
    """Drop ticks whose labels would touch; the last one, usually the whole training set, stays."""
    kept: list[float] = []
    for value in sorted(ticks, reverse=True):
        if not kept or axis(kept[-1]) - axis(value) >= least:
            kept.append(value)
    return kept[::-1]


def _path(pixels: Sequence[Point]) -> str:
    return "M" + "L".join(f"{_number(float(x))},{_number(float(y))}" for x, y in pixels)


def _band(one: Series, x: Axis, y: Axis) -> Markup:
    upper = [(x(at), y(high)) for at, _, high in one.band]
    lower = [(x(at), y(low)) for at, low, _ in reversed(one.band)]
    return tag("path", d=_path([*upper, *lower]) + "Z", class_=f"band {one.style}")


def _line(one: Series, x: Axis, y: Axis) -> Markup:
    parts = []
    if len(one.points) > 1:
        parts.append(tag("path", d=_path([(x(a), y(b)) for a, b in one.points]), class_="line"))
    parts += [tag("circle", cx=x(a), cy=y(b), r=2.2, class_="dot") for a, b in one.dots]
    if one.markers:
        parts += [marker(one, x(a), y(b)) for a, b in one.points]
    return tag("g", tag("title", one.name), *parts, class_=one.style)


def marker(one: Series, x: float, y: float) -> Markup:
    """Circle, square, diamond or triangle by colour; hollow for every dash but the first."""
    r = 4.2
    class_ = "marker" if one.dash == 0 else "marker hollow"
    shape = one.colour % 4
    if shape == 0:
        return tag("circle", cx=x, cy=y, r=r, class_=class_)
    if shape == 1:
        return tag("rect", x=x - r + 0.4, y=y - r + 0.4, width=2 * r - 0.8, height=2 * r - 0.8, class_=class_)
    corners = [(x, y - r - 1), (x + r + 1, y), (x, y + r + 1), (x - r - 1, y)]
    if shape == 3:
        corners = [(x, y - r - 1), (x + r + 0.6, y + r - 0.4), (x - r - 0.6, y + r - 0.4)]
    return tag("path", d=_path(corners) + "Z", class_=class_)


def legend(series: Sequence[Series]) -> Markup:
    """The series as an HTML list, each with the piece of line it is drawn with."""
    items = []
    for one in series:
        line = tag("path", d="M1,8L33,8", class_="line")
        key = tag(
            "svg",
            tag("g", line, marker(one, 17, 8) if one.markers else "", class_=one.style),
            viewBox="0 0 34 16",
            width=34,
            height=16,
            aria_hidden="true",
        )
        items.append(tag("li", key, tag("span", one.name, class_="name")))
    return tag("ul", *items, class_="legend")


def forest(
    chart_id: str,
    title: str,
    rows: Sequence[tuple[Series, float, float | None, float | None]],
    text: Callable[[float], str],
    tick: Callable[[float], str],
) -> Markup:
    """One row per model: (name, style and dots; value; low; high), the interval as a bar on a common axis."""
    rows = [row for row in rows if math.isfinite(row[1])]
    if not rows:
        return Markup("")
    values = [v for one, *known in rows for v in (*known, *(dot for dot, _ in one.dots)) if v is not None]
    height = 34 + 44 * len(rows)
    x = Axis(*span(values, 0.12), 14, WIDTH - 14)
    body = [_ruler(x, tick, 4, height - 26, "", height)]
    for at, (one, value, low, high) in zip(itertools.count(18, 44), rows, strict=False):
        body.append(tag("text", one.name, x=0, y=at, class_="row"))
        parts = []
        if low is not None and high is not None:
            parts.append(tag("line", x1=x(low), x2=x(high), y1=at + 14, y2=at + 14, class_="whisker"))
        parts += [tag("circle", cx=x(dot), cy=at + 14, r=2.2, class_="dot") for dot, _ in one.dots]
        parts.append(marker(one, x(value), at + 14.0))
        body.append(tag("g", *parts, class_=f"s{one.colour % COLOURS}"))
        body.append(tag("text", text(value), x=WIDTH, y=at, class_="row end strong"))
    return _svg(chart_id, title, title, height, body)


def verdict_chart(
    chart_id: str,
    title: str,
    rows: Sequence[tuple[str, float, float, float]],
    margin: float,
    text: Callable[[float], str],
    unit: str,
) -> Markup:
    """Differences (label, value, low, high) against 0 and the +-margin of equivalence."""
    values = [value for row in rows for value in row[1:]] + [0.0, margin, -margin]
    height = 40 + 44 * len(rows)
    x = Axis(*span(values, 0.08), 14, WIDTH - 14)
    body = [_ruler(x, text, 4, height - 30, unit, height)]
    for at, (label, value, low, high) in zip(itertools.count(20, 44), rows, strict=False):
        body.append(tag("text", label, x=0, y=at, class_="row"))
        body.append(tag("rect", x=x(-margin), y=at + 6, width=x(margin) - x(-margin), height=18, class_="zone"))
        body.append(tag("line", x1=x(0), x2=x(0), y1=at + 6, y2=at + 24, class_="zero"))
        bar = tag("line", x1=x(low), x2=x(high), y1=at + 14, y2=at + 14, class_="whisker")
        body.append(tag("g", bar, tag("circle", cx=x(value), cy=at + 14, r=5, class_="marker"), class_="ink"))
    return _svg(chart_id, title, title, height, body)


def cell_chart(chart_id: str, title: str, size: int, cells: Sequence[tuple[int, int, int, int, int]]) -> Markup:
    """A size x size matrix of squares: (row, column, photos, heat 1..8, model), empty cells left blank."""
    side = WIDTH / size
    width = max(side - 0.4, 0.5)
    body = [tag("rect", x=0, y=0, width=WIDTH, height=WIDTH, class_="board")]
    for row, column, photos, heat, model in cells:
        kind = "right" if row == column else "wrong"
        body.append(
            tag("rect", x=column * side, y=row * side, width=width, height=width, class_=f"{kind} h{heat}",
                data_model=model, data_row=row, data_column=column, data_photos=photos)
        )  # fmt: skip
    return _svg(chart_id, title, title, WIDTH, [tag("g", *body, class_="cells")])


def scatter_chart(chart_id: str, frame: Frame, dots: Sequence[Point], style: Series, model: int, column: int) -> Markup:
    """One dot per photo, or squares by number of photos where there are many; the field opens the photos nearby.

    Both axes are linear and have the same range; the diagonal is a perfect answer.
    """
    low, high = frame.x_range or span([value for dot in dots for value in dot])
    x, y = Axis(low, high, LEFT, SCATTER_WIDTH - RIGHT), Axis(low, high, SCATTER_HEIGHT - BOTTOM, TOP)
    body = [
        _grid(frame, x, y, SCATTER_WIDTH, SCATTER_HEIGHT),
        tag("path", d=_path([(x(low), y(low)), (x(high), y(high))]), class_="ideal"),
    ]
    pixels = [(x(a), y(b)) for a, b in dots]
    if len(dots) <= MOST_DOTS:
        body.append(tag("path", d="".join(f"M{a:.1f},{b:.1f}h0" for a, b in pixels), class_=f"cloud {style.style}"))
    else:
        body += _squares(pixels, style)
    field = tag(
        "rect", x=LEFT, y=TOP, width=SCATTER_WIDTH - RIGHT - LEFT, height=SCATTER_WIDTH - RIGHT - LEFT, class_="field",
        data_field=model, data_at=column, data_low=f"{low:.6g}", data_high=f"{high:.6g}",
    )  # fmt: skip
    description = f"{frame.y_label} against {frame.x_label} of {len(dots):,} photos"
    return _svg(chart_id, frame.title, description, SCATTER_HEIGHT, [*body, field], SCATTER_WIDTH)


def _squares(pixels: Sequence[Point], style: Series) -> list[Markup]:
    """Squares of 8 pixels in eight steps of opacity, by the number of dots in each (logarithmic)."""
    counts: dict[tuple[int, int], int] = {}
    for a, b in pixels:
        counts[int(a // 8), int(b // 8)] = counts.get((int(a // 8), int(b // 8)), 0) + 1
    top = math.log1p(max(counts.values()))
    steps: dict[int, str] = {}
    for (a, b), held in counts.items():
        step = max(1, math.ceil(8 * math.log1p(held) / top))
        steps[step] = steps.get(step, "") + f"M{8 * a},{8 * b}h7v7h-7z"
    return [tag("path", d=path, class_=f"squares h{step} {style.style}") for step, path in sorted(steps.items())]


def _ruler(x: Axis, text: Callable[[float], str], top: float, bottom: float, label: str, height: float) -> Markup:
    parts = []
    for value in _apart(nice_ticks(x.low, x.high), x, 46):
        parts.append(tag("line", x1=x(value), x2=x(value), y1=top, y2=bottom, class_="grid"))
        parts.append(tag("text", text(value), x=x(value), y=bottom + 15, class_="tick middle"))
    if label:
        parts.append(tag("text", label, x=WIDTH, y=height, class_="label end"))
    return Markup("").join(parts)


def _svg(
    chart_id: str, title: str, description: str, height: float, body: Sequence[Markup], width: int = WIDTH
) -> Markup:
    head = (tag("title", title, id=f"{chart_id}-t"), tag("desc", description, id=f"{chart_id}-d"))
    return tag(
        "svg", *head, *body, id=chart_id, class_="chart", role="img",
        viewBox=f"0 0 {width} {_number(float(height))}", aria_labelledby=f"{chart_id}-t {chart_id}-d",
    )  # fmt: skip
