"""Write the generated parts of docs/experiments/README.md: ``python docs/list_experiments.py``."""

from __future__ import annotations

import re
from pathlib import Path

from accord.bench import experiments, reproduce_list

PAGES = Path(__file__).parent / "experiments"
README = PAGES / "README.md"


def parts() -> dict[str, str]:
    """The text between each pair of marks, by their name."""
    return {"experiments": table(), "tables and figures": reproduce_list.markdown()}


def written(text: str) -> str:
    """The page with its generated parts as they are now."""
    for name, part in parts().items():
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise SystemExit(f"{README}: the marks {begin.strip()} and {end} must be there, once")
        text = pattern.sub(lambda _, whole=f"{begin}\n{part}\n{end}": whole, text)
    return text


def table() -> str:
    """The experiments: presets, tasks and what they are, with a link to the page of each."""
    lines = ["| experiment | presets | tasks | |", "|:--|:--|--:|:--|"]
    for name in experiments.names():
        experiment = experiments.load(name)
        presets = " ".join(f"`{preset}`" for preset in experiment.presets)
        lines.append(f"| {_link(name)} | {presets} | {len(experiment.tasks)} | {experiment.summary} |")
    return "\n".join(lines) + "\n"


def _link(name: str) -> str:
    """The name, linked to its own page or to the first that runs it."""
    pages = [PAGES / f"{name}.md", *sorted(PAGES.glob("*.md"))]
    for page in pages:
        if page != README and page.exists() and (page.stem == name or _runs(page, name)):
            return f"[`{name}`]({page.name})"
    return f"`{name}`"


def _runs(page: Path, name: str) -> bool:
    return re.search(rf"accord run {re.escape(name)}\b(?!-)", page.read_text(encoding="utf-8")) is not None


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
