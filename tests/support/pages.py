"""Real stores for the tests of the HTML report, and an HTML page as its elements."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from accord.bench import experiments
from accord.bench.runner import run
from accord.bench.spec import Experiment, MethodSpec, RunKey
from accord.bench.store import Store
from accord.bench.writing import writing
from support import quadratic, small_problem

VOID = {"meta", "img", "br", "link", "input", "hr", "col", "source", "area", "base", "embed", "track", "wbr"}


def trained(folder: Path, name: str, methods: tuple[str, ...], seeds: tuple[int, ...] = (0,), preset: str = "smoke"):
    """A store of real runs, and their experiment: ``toy``, or one of ``support``."""
    own = {"quadratic": quadratic.EXPERIMENT, "small": small_problem.EXPERIMENT}
    experiment = own.get(name) or experiments.load(name)
    run(experiment, preset, methods, seeds, folder)
    return Store(folder), experiment


def put(store: Store, experiment: Experiment, method: str, seed: int, record: dict[str, Any], units: int = 3) -> None:
    """A finished run whose every unit is the same record, with its steps; for what no quick training gives."""
    written = store.run(RunKey(experiment.name, experiment.version, "smoke", MethodSpec.parse(method), seed))
    with writing(written) as writer:
        writer.begin({}, threads=1)
        for unit in range(1, units + 1):
            writer.append({"unit": unit, "steps": 10, "seconds": 0.1, **record})
        writer.finish({"metrics": record["metrics"]})


@dataclass
class Element:
    """One element: its name, attributes, text with that of its descendants, and the elements around it."""

    name: str
    attributes: dict[str, str | None]
    around: tuple[Element, ...]
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def get(self, attribute: str) -> str | None:
        return self.attributes.get(attribute)

    def inside(self, name: str) -> bool:
        return any(element.name == name for element in self.around)


class Page(HTMLParser):
    """A document as a list of elements in order; raises where they are not well nested."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {[element.name for element in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice: {tag} {attrs}"
        element = Element(tag, dict(attrs), tuple(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs), tuple(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].name == tag, f"</{tag}> within <{self._open[-1].name}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.pieces.append(data)

    def named(self, *names: str) -> list[Element]:
        return [element for element in self.elements if element.name in names]

    def classed(self, name: str) -> list[Element]:
        return [element for element in self.elements if name in (element.get("class") or "").split()]

    def within(self, outer: Element, *names: str) -> list[Element]:
        return [element for element in self.named(*names) if any(around is outer for around in element.around)]

    @property
    def text(self) -> str:
        return self.named("body")[0].text
