"""Draws benchmarks/results/interp_circuits.json's refusal as docs/refusal_circuit.svg: parts, and the strongest edges.

python benchmarks/interp_circuits_figure.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PICTURE = ROOT / "benchmarks" / "results" / "interp_circuits.json", ROOT / "docs" / "refusal_circuit.svg"
STEP, TOP, ROW, LEFT = 46, 70, 44, 110
FOR, AGAINST, GREY = "#2563a8", "#c2571a", "#8a8a8a"


def place(name: str, layers: int, heads: int) -> tuple[float, float]:
    """Where a writer is drawn: layers from left to right, a row for each head and one for the MLPs."""
    middle = TOP + ROW * (heads + 1) / 2
    if name == "input":
        return LEFT - 40, middle
    if name == "logits":
        return LEFT + STEP * layers + 20, middle
    found = re.fullmatch(r"a(\d+)\.h(\d+)|m(\d+)", name)
    if found is None:
        raise ValueError(name)
    layer = int(found[1] or found[3] or 0)
    row = heads if found[3] else int(found[2])
    return LEFT + STEP * layer, TOP + ROW * row


def readers(name: str, heads: int) -> list[str]:
    """The parts that a reader belongs to; a key or value to all heads, which share one in gemma-3-270m."""
    found = re.fullmatch(r"(a\d+)\.kv(\d+)<[kv]>", name)
    if found is None:
        return [name.partition("<")[0]]
    return [f"{found[1]}.h{head}" for head in range(heads)]


def drawn(found: dict[str, Any]) -> str:
    written = found["where"]["written_by"]
    layers = sum(name.startswith("m") for name in written)
    heads = sum(name.startswith("a0.") for name in written)
    most, strong = max(written.values()), max(abs(score) for score in found["strongest"].values())
    width, height = LEFT + STEP * layers + 130, TOP + ROW * heads + 70
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<text x="12" y="22" font-size="15">Who carries the refusal of a harmful request</text>',
        f'<text x="12" y="42" fill="#444">The {len(found["strongest"])} strongest of {found["edges"]:,} edges. '
        f'<tspan fill="{FOR}">Blue: pushes towards “I won’t …”.</tspan> '
        f'<tspan fill="{AGAINST}">Orange: towards an answer.</tspan> '
        "The larger a dot, the more the part tells others.</text>",
    ]
    for edge, score in found["strongest"].items():
        writer, _, reader = edge.partition("->")
        (x, y), colour = place(writer, layers, heads), FOR if score < 0 else AGAINST
        for part in readers(reader, heads):
            u, v = place(part, layers, heads)
            bend = f"M{x} {y} C{(x + u) / 2} {y} {(x + u) / 2} {v} {u} {v}"
            size = 0.6 + 5 * abs(score) / strong / len(readers(reader, heads)) ** 0.5
            parts.append(f'<path d="{bend}" fill="none" stroke="{colour}" stroke-width="{size:.1f}" opacity="0.55"/>')
    for name, weight in [*written.items(), ("logits", most)]:
        x, y = place(name, layers, heads)
        radius = 2 + 11 * (weight / most) ** 0.5
        parts.append(f'<circle cx="{x}" cy="{y}" r="{radius:.1f}" fill="{GREY}"><title>{name}</title></circle>')
    for row, label in enumerate([*(f"head {head}" for head in range(heads)), "MLP"]):
        parts.append(f'<text x="8" y="{TOP + ROW * row + 4}" fill="#444">{label}</text>')
    parts += [
        f'<text x="{LEFT + STEP * layer}" y="{height - 22}" text-anchor="middle" fill="#444">{layer}</text>'
        for layer in range(layers)
    ]
    parts.append(f'<text x="{LEFT}" y="{height - 6}" fill="#444">layer</text>')
    middle = TOP + ROW * (heads + 1) / 2
    parts.append(f'<text x="{LEFT - 62}" y="{middle + 28}">request</text>')
    parts.append(f'<text x="{LEFT + STEP * layers + 40}" y="{middle + 4}">first word</text></svg>')
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(drawn(json.loads(RESULTS.read_text(encoding="utf-8"))["refusal"]), encoding="utf-8")
