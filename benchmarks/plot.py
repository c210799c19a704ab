"""A line over time as an SVG picture, for the documents."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 30, 34


def plot(points: Sequence[tuple[float, float]], marks: Sequence[float], title: str) -> str:
    """Draws shares from 0 to 1 over seconds.

    Args:
        points: (seconds, share).
        marks: seconds at which a vertical line stands: the ends of shards.
        title: what is drawn.
    """
    last = max([seconds for seconds, _ in points] + list(marks))

    def x(seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * seconds / last, 1)

    def y(share: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(share, 1), 1)

    step = max(1, round(last / 8))
    line = " ".join(f"{x(seconds)},{y(share)}" for seconds, share in points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18" font-size="13">{title}; dashed: a shard is done</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share)}" y2="{y(share)}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(share) + 4}" text-anchor="end">{share:.0%}</text>')
    for second in range(0, int(last) + 1, step):
        parts.append(f'<text x="{x(second)}" y="{HEIGHT - 14}" text-anchor="middle">{second} s</text>')
    for mark in marks:
        parts.append(
            f'<line x1="{x(mark)}" x2="{x(mark)}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#b33" '
            'stroke-dasharray="4 3"/>'
        )
    parts += [f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="1.6"/>', "</svg>"]
    return "\n".join(parts) + "\n"
