"""Numbers as people read them: bytes, seconds, fractions. Used by the command line, the plots and the report alike."""

from __future__ import annotations

import math

NONE = "–"
"""What is shown for a value that was not measured."""


def size(count: float | None, short: bool = False) -> str:
    """Bytes with a decimal unit and three significant digits: 3,214,000 -> '3.21 MB' (`short`: 3,000,000 -> '3 MB')."""
    if count is None or math.isnan(count):
        return NONE
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if abs(value) < 999.5:
            break
        value, unit = value / 1000, larger
    if short or unit == "B":
        return f"{value:.3g} {unit}" if value else "0"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds as '0.42 s', '7.3 s', '48 s', '3:05 min' or '2:07 h'."""
    if seconds is None or math.isnan(seconds):
        return NONE
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def fraction(value: float | None, half_width: float | None = None) -> str:
    """An accuracy with three decimals, and half its interval where there is one: '0.873 ± 0.012'."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.3f}" + ("" if half_width is None else f" ± {half_width:.3f}")


def count(value: float | None) -> str:
    """A whole number with separators: 61706 -> '61,706'."""
    return NONE if value is None or math.isnan(value) else f"{value:,.0f}"


def number(value: float) -> str:
    """A number with three significant digits, infinity as a sign."""
    return "∞" if math.isinf(value) else f"{value:.3g}"
