"""Lists in the options of the commands that evaluate codecs."""

from __future__ import annotations


def names_in(words: str) -> list[str]:
    """Names in text like a,b,c."""
    return [name.strip() for name in words.split(",") if name.strip()]


def qualities_in(words: str) -> list[float]:
    """Of codecs, from text like 1,2,4."""
    from stereopsis.compression.codec import level_of

    try:
        steps = [float(part) for part in words.split(",")]
    except ValueError:
        raise ValueError(f"--qualities is {words!r}; give numbers with commas, for example 1,2,4,6,8.") from None
    for quality in steps:
        level_of(quality)
    return steps
