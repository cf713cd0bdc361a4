"""Numbers as people read them: three significant digits, units, intervals."""

from __future__ import annotations

import datetime
import math

__all__ = [
    "count",
    "day",
    "day_of",
    "duration",
    "factor",
    "interval",
    "megabytes",
    "milliseconds",
    "percent",
    "seconds",
    "short",
    "significant",
]

#: The most characters of a name on a page. The table of a chart has all of them.
_LONGEST = 60
_UNKNOWN = "\u2013"


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent; a dash if it is not known."""
    if value is None or not math.isfinite(value):
        return _UNKNOWN
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if places > 12:
        return f"{value:.2g}"
    return f"{round(value, places):,.{places}f}"


def milliseconds(value: float | None) -> str:
    """Seconds, in milliseconds."""
    return significant(None if value is None else 1e3 * value)


def seconds(value: float | None) -> str:
    """Seconds, with one decimal below 100."""
    if value is None or not math.isfinite(value):
        return _UNKNOWN
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def duration(value: float) -> tuple[str, str]:
    """Seconds as a number of a few digits and its unit: seconds, minutes or hours."""
    for unit, length in (("h", 3600), ("min", 60)):
        if value >= length:
            return significant(value / length), unit
    return significant(value), "s"


def percent(share: float | None, digits: int = 3) -> str:
    """A share as percent, with the sign."""
    if share is None or not math.isfinite(share):
        return _UNKNOWN
    return f"{100 * share:.1f} %" if digits >= 3 or share < 0.1 else f"{100 * share:.0f} %"


def factor(value: float | None) -> str:
    """How many times, such as 1.84x."""
    if value is None or not math.isfinite(value):
        return _UNKNOWN
    return f"{significant(value)}\u00d7"


def interval(low: float | None, high: float | None) -> str:
    """An interval, such as ``1.80 to 1.88``; a dash if an end is not known."""
    if low is None or high is None:
        return _UNKNOWN
    return f"{significant(low)} to {significant(high)}"


def megabytes(value: float | None) -> str:
    """Bytes, in MB."""
    return significant(None if value is None else value / 1e6)


def count(value: float | None) -> str:
    """A whole number with separators."""
    return _UNKNOWN if value is None else f"{value:,.0f}"


def day(seconds: float) -> str:
    """The day (UTC) of a POSIX time, such as 2026-11-30."""
    return day_of(int(seconds // 86400))


def day_of(number: int) -> str:
    """A day by its number since 1970; a dash if calendars have no such day."""
    try:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=number)).isoformat()
    except OverflowError:
        return _UNKNOWN


def short(text: str, most: int = _LONGEST) -> str:
    """The beginning of a text that is too long."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"
