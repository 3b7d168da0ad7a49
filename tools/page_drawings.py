"""The drawings of the pages, as SVG text: the strategies side by side, a push, the schedules of a pipeline."""

from __future__ import annotations

import html
from collections.abc import Sequence

from jaxdist.parallel import schedules

_INK, _PAPER, _PALE = "#1f2933", "#ffffff", "#eef1f4"
_LAYERS = ("#4e79a7", "#59a14f", "#edc948", "#e15759")  # one colour a layer
_FORWARD, _BACKWARD = "#4e79a7", "#f28e2b"


class Drawing:
    """Boxes, lines of text and arrows on white, in pixels from the upper left corner."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size, self._title, self._parts = (width, height), title, [""]
        self.box(0, 0, width, height, fill=_PAPER, line="none")

    def box(self, x: float, y: float, w: float, h: float, *, fill: str, line: str = _INK, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="2" fill="{fill}" stroke="{line}"{dash}/>'
        )

    def text(
        self, x: float, y: float, words: str, *, size: int = 13, bold: bool = False, anchor: str = "middle"
    ) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight}>{html.escape(words)}</text>'
        )

    def arrow(self, x1: float, y1: float, x2: float, y2: float, *, both: bool = False) -> None:
        start = ' marker-start="url(#back)"' if both else ""
        self._parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{_INK}" marker-end="url(#head)"{start}/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self._parts.append(f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{_INK}" opacity="0.4"/>')

    def svg(self) -> str:
        width, height = self._size
        path = f'<path d="M0,0 L8,4 L0,8 z" fill="{_INK}"/>'
        heads = "".join(
            f'<marker id="{name}" markerWidth="8" markerHeight="8" refX="8" refY="4" orient="{turn}">{path}</marker>'
            for name, turn in (("head", "auto"), ("back", "auto-start-reverse"))
        )
        begin = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="sans-serif" fill="{_INK}"><title>{html.escape(self._title)}</title><defs>{heads}</defs>'
        )
        return begin + "\n".join(self._parts) + "\n</svg>\n"


def _model(
    drawing: Drawing, x: float, y: float, w: float, held: Sequence[tuple[float, float]], pale: bool = False
) -> None:
    """Four layers one above the other; `held`: of each, where the held part of its width begins and ends."""
    for layer, (begin, end) in enumerate(held):
        top = y + 20 * layer
        drawing.box(x, top, w, 16, fill=_PALE, line="#b8c0c8", dashed=True)
        if end > begin:
            drawing.box(x + w * begin, top, w * (end - begin), 16, fill=_PALE if pale else _LAYERS[layer], line=_INK)


def strategies() -> str:
    """What each of two workers holds under each strategy, and what is sent."""
    drawing = Drawing(1000, 330, "The strategies side by side")
    whole, none, half = [(0.0, 1.0)] * 4, (0.0, 0.0), ([(0.0, 0.5)] * 4, [(0.5, 1.0)] * 4)
    columns = (
        ("single", "one worker, whole model", "nothing is sent"),
        ("allreduce", "whole model on each", "gradients, averaged"),
        ("parameter_server", "servers hold the model", "gradients and parameters"),
        ("pipeline", "some layers on each", "activations and gradients"),
        ("model_parallel", "a share of each layer", "activations or parameters"),
    )
    for column, (name, holds, sent) in enumerate(columns):
        x = 200 * column
        middle = x + 100
        drawing.text(middle, 24, name, size=15, bold=True)
        drawing.text(middle, 296, holds, size=12)
        drawing.text(middle, 314, "sent: " + sent if column else sent, size=12)
        if column:
            drawing.line(x, 40, x, 318)
        if name == "single":
            _worker(drawing, x + 60, 150, "worker 0", whole)
            continue
        parts = {
            "pipeline": ([*whole[:2], none, none], [none, none, *whole[2:]]),
            "model_parallel": half,
        }.get(name, (whole, whole))
        for number, held in enumerate(parts):
            _worker(drawing, x + 10 + 105 * number, 150, f"worker {number}", held, pale=name == "parameter_server")
        if name == "parameter_server":
            _model(drawing, x + 65, 44, 70, whole)
            drawing.text(x + 168, 84, "server", size=12)
            drawing.arrow(x + 45, 146, x + 75, 128, both=True)
            drawing.arrow(x + 155, 146, x + 125, 128, both=True)
        else:
            drawing.arrow(x + 88, 206, x + 112, 206, both=True)
    return drawing.svg()


def _worker(
    drawing: Drawing, x: float, y: float, name: str, held: Sequence[tuple[float, float]], pale: bool = False
) -> None:
    drawing.box(x - 4, y - 4, 86, 122, fill="none")
    drawing.text(x + 39, y + 110, name, size=12)
    _model(drawing, x + 4, y + 8, 70, held, pale)


def push() -> str:
    """One step of a worker with two servers."""
    drawing = Drawing(860, 470, "A push and the pull that follows it")
    lanes = {"worker": 130, "server 0": 430, "server 1": 730}
    for name, x in lanes.items():
        drawing.box(x - 65, 16, 130, 28, fill=_PALE)
        drawing.text(x, 35, name, bold=True)
        drawing.line(x, 44, x, 456)
    steps = (
        ("worker", "server 0", "Claim: which examples next?"),
        ("server 0", "worker", "claim 7: examples 84 to 95"),
        ("worker", "", "computes the gradient at version 40"),
        ("worker", "server 1", "Push, claim 7: its part of the gradient (kept, not applied)"),
        ("worker", "server 1", "Pull: answer when claim 7 is applied"),
        ("worker", "server 0", "PushPull, claim 7: its own part, and commit"),
        ("server 0", "", "accepts claim 7 as version 41"),
        ("server 0", "server 1", "Apply: version 41 is claim 7"),
        ("server 0", "worker", "part 0 of version 41"),
        ("server 1", "worker", "part 1 of version 41 or later"),
    )
    for row, (source, target, words) in enumerate(steps):
        y = 78 + 39 * row
        x1 = lanes[source]
        if not target:
            drawing.box(x1 - 118, y - 18, 236, 24, fill=_PALE)
            drawing.text(x1, y - 1, words, size=12)
            continue
        x2 = lanes[target]
        drawing.arrow(x1, y, x2, y)
        drawing.text((x1 + x2) / 2, y - 6, words, size=12)
    return drawing.svg()


def pipeline_schedules(stages: int = 3, microbatches: int = 6) -> str:
    """The two schedules, with a backward pass twice as long as a forward pass."""
    unit, height = 32, 26
    drawing = Drawing(900, 300, "Schedules of a pipeline")
    for number, name in enumerate(("gpipe", "1f1b")):
        top = 40 + 130 * number
        drawing.text(10, top - 10, name, size=14, bold=True, anchor="start")
        table = schedules.SCHEDULES[name](stages, microbatches)
        spans = schedules.simulate(table, [1.0] * stages, [2.0] * stages)
        for stage, row in enumerate(spans):
            drawing.text(10, top + height * stage + 17, f"stage {stage}", size=12, anchor="start")
            for span in row:
                x, w = 80 + unit * span.begin, unit * (span.end - span.begin)
                fill = _FORWARD if span.action.kind == "F" else _BACKWARD
                drawing.box(x, top + height * stage, w - 1, height - 4, fill=fill, line=_PAPER)
                drawing.text(x + w / 2, top + height * stage + 15, str(span.action), size=10)
    drawing.text(
        80, 288, "F3: forward pass of microbatch 3. B3: its backward pass. Blank: the stage waits.", anchor="start"
    )
    return drawing.svg()


def all_drawings() -> dict[str, str]:
    """{file: SVG}."""
    return {
        "jaxdist/strategies/strategies.svg": strategies(),
        "jaxdist/ps/push.svg": push(),
        "jaxdist/strategies/pipeline/schedules.svg": pipeline_schedules(),
    }
