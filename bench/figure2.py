#!/usr/bin/python3
"""The plot of `split-perf isolation --json` (Split gRPC, Figure 2): figure2.py RESULT.json OUT.svg

One column for each message size, alone and with an antagonist; above what is answered and how busy the cores are, below P75, P90 and
P99 from the intended send time, on a logarithmic scale. x is the busy loop in the handler.
"""
import json
import math
import pathlib
import sys

COLOURS = {"grpc++": "#4063d8", "split": "#1a7f5a", "split-modelled": "#c98a1b"}
WIDTH, HEIGHT, LEFT, TOP, GAP_X, GAP_Y = 300, 170, 60, 60, 50, 40


def line(points, colour, dash=""):
    if not points:
        return ""
    at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="1.6"{f" stroke-dasharray={chr(34)}{dash}{chr(34)}" if dash else ""}/>'


def text(x, y, words, size=11, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{words}</text>'


def frame(x, y):
    return f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'


class Panel:
    """Rows of one size, with or without the antagonist, into two frames at (x, y)."""

    def __init__(self, rows, x, y):
        self.rows, self.x, self.y = rows, x, y
        self.busy_max = max(r["busy_ns"] for r in rows) or 1
        slowest = max([r["p99_ns"] for r in rows] + [1000])
        fastest = min([r["p75_ns"] for r in rows if r["p75_ns"]] or [1000])
        self.low, self.high = math.floor(math.log10(fastest)), math.ceil(math.log10(slowest))
        self.high = max(self.high, self.low + 1)

    def across(self, row):
        return self.x + WIDTH * row["busy_ns"] / self.busy_max

    def share(self, value):
        return self.y + HEIGHT * (1 - min(value, 1.2) / 1.2)

    def latency(self, ns):
        top = self.y + HEIGHT + GAP_Y
        return top + HEIGHT * (1 - (math.log10(max(ns, 1)) - self.low) / (self.high - self.low))

    def axes(self, title):
        out = [text(self.x + WIDTH / 2, self.y - 8, title, 13, "middle"), frame(self.x, self.y), frame(self.x, self.y + HEIGHT + GAP_Y)]
        for tick in (0, 0.5, 1):
            out.append(text(self.x - 6, self.share(tick) + 4, f"{tick:.0%}", 10, "end"))
        for power in range(self.low, self.high + 1):
            ns = 10 ** power
            label = f"{ns / 1e9:g} s" if ns >= 1e9 else f"{ns / 1e6:g} ms" if ns >= 1e6 else f"{ns / 1e3:g} us"
            out.append(text(self.x - 6, self.latency(ns) + 4, label, 10, "end"))
        bottom = self.y + 2 * HEIGHT + GAP_Y
        for part in (0, 0.5, 1):
            out.append(text(self.x + WIDTH * part, bottom + 14, f"{self.busy_max * part / 1000:.0f} us", 10, "middle"))
        return out

    def draw(self, title):
        out = self.axes(title)
        for system, colour in COLOURS.items():
            rows = sorted((r for r in self.rows if r["system"] == system), key=lambda r: r["busy_ns"])
            if system != "split-modelled":
                out.append(line([(self.across(r), self.share(r["calls_per_s"] / r["offered_per_s"])) for r in rows], colour))
                out.append(line([(self.across(r), self.share(r["host_util"])) for r in rows], colour, "6 3"))
            if system != "grpc++":
                out.append(line([(self.across(r), self.share(r["daemon_util"])) for r in rows], colour, "2 3"))
            for key, dash in (("p99_ns", ""), ("p90_ns", "6 3"), ("p75_ns", "2 3")):
                out.append(line([(self.across(r), self.latency(r[key])) for r in rows if r[key]], colour, dash))
        return out


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    rows = json.loads(pathlib.Path(sys.argv[1]).read_text())["rows"]
    sizes = sorted({r["bytes"] for r in rows})
    kinds = sorted({r["antagonist"] for r in rows})
    tall = 2 * HEIGHT + GAP_Y + 70
    width, height = LEFT + len(sizes) * (WIDTH + GAP_X + 20) + 20, TOP + len(kinds) * tall + 20
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
           '<rect width="100%" height="100%" fill="white"/>']
    for i, (system, colour) in enumerate(COLOURS.items()):
        out.append(f'<rect x="{LEFT + i * 130}" y="8" width="12" height="12" fill="{colour}"/>')
        out.append(text(LEFT + i * 130 + 16, 18, system))
    out.append(text(LEFT + 400, 18, "above: answered of offered (solid), host's core (dashed), daemon's core (dotted); "
                                    "below: P99 (solid), P90 (dashed), P75 (dotted)"))
    for row, antagonist in enumerate(kinds):
        for column, size in enumerate(sizes):
            some = [r for r in rows if r["bytes"] == size and r["antagonist"] == antagonist]
            if some:
                panel = Panel(some, LEFT + column * (WIDTH + GAP_X + 20), TOP + row * tall)
                out += panel.draw(f"{size:,} B, {'with an antagonist' if antagonist else 'alone'}")
    out.append("</svg>")
    pathlib.Path(sys.argv[2]).write_text("\n".join(out) + "\n")


main()
