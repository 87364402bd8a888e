"""Amounts in words, for people."""


def size(count: float | None) -> str:
    """Bytes: ``1.2 GiB``; ``-`` when not known."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError(count)  # the last unit takes everything


def micros(count: int | None) -> str:
    """Microseconds: ``512 µs``, ``16.4 ms``, ``1.05 s``; ``-`` when not known."""
    if count is None:
        return "-"
    if count < 1000:
        return f"{count} µs"
    return f"{count / 1000:.3g} ms" if count < 1_000_000 else f"{count / 1_000_000:.3g} s"
