"""How fast does the HTML report open, and how large is it?

    python -m benchmarks.html_report [EXPERIMENT --preset PRESET --store FOLDER] [--loads 9]

Without an experiment the store is made up: random numbers in the shape of QM9's published protocol, 13 methods and
single-task learning on 11 tasks over 300 epochs with three seeds, which no smooth curve makes easy. Chromium opens the
file without a window; each load is a fresh one, and the first, in which the browser itself warms up, is left out. Times
are the page's own, from the start of the navigation: to the first text on the screen (first contentful paint), to a
page that can be used (the end of DOMContentLoaded: sorting works), and to the end of loading. Then the same on a screen
as narrow as a phone's, with the processor slowed down four times. The processor time of a load, of all of the browser's
processes together, is what a busy machine does not lengthen.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from accord.bench import experiments
from accord.bench.html import write_page
from accord.bench.methods import METHODS
from accord.bench.spec import Experiment, MethodSpec, Metric, RunKey, TaskSpec
from accord.bench.store import Store
from accord.bench.writing import writing

TIMES = {"first text": "paint", "usable": "usable", "loaded": "loaded"}


def made_up(folder: Path, epochs: int = 300, seeds: int = 3) -> tuple[Store, Experiment, str]:
    """A store in the shape of QM9's published protocol, its runs through the real writer."""
    draw = np.random.default_rng(0)
    tasks = tuple(TaskSpec(f"target-{k}", (Metric("mae", unit="meV"),)) for k in range(11))
    shape = replace(experiments.load("toy"), name="shape", tasks=tasks, figures=None, baseline=True)
    store = Store(folder, create=True)
    for method in (*METHODS[1:], *(f"stl:task={task.name}" for task in tasks)):
        spec = MethodSpec.parse(method)
        own = [task.name for task in tasks if spec.options.get("task") in (None, task.name)]
        for seed in range(seeds):
            with writing(store.run(RunKey("shape", 1, "smoke", spec, seed))) as writer:
                writer.begin({}, threads=1)
                for unit in range(1, epochs + 1):
                    metrics = {f"{name}/mae": 1 + float(draw.random()) for name in own}
                    record: dict[str, Any] = {"unit": unit, "steps": 900, "seconds": 1.0, "metrics": metrics}
                    if spec.name != "stl":
                        record |= {"weights": draw.random(11).tolist(), "conflict": float(draw.random())}
                        record["cosines"] = draw.uniform(-1, 1, 55).round(5).tolist()
                    writer.append(record)
                writer.finish({"metrics": metrics})
    return store, shape, "smoke"


def processor_time(root: int) -> float:
    """Milliseconds that a process and its descendants, dead ones included, have run; NaN where /proc does not tell."""
    if not Path("/proc/self/stat").exists():
        return math.nan
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        pid = int(stat.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return 1000 * sum(ticks.get(pid, 0) for pid in family) / os.sysconf("SC_CLK_TCK")


def opened(path: Path, loads: int, slower: int, width: int) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of each load, and of processor time a load."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    service = Service(shutil.which("chromedriver"))
    driver = Chrome(options=options, service=service)
    found: dict[str, list[float]] = {name: [] for name in TIMES}
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.execute_cdp_cmd("Emulation.setCPUThrottlingRate", {"rate": slower})
        start = 0.0
        for load in range(loads + 1):
            if load == 1:
                start = processor_time(service.process.pid)
            driver.get("about:blank")
            driver.get(path.resolve().as_uri())
            driver.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 50))")
            times = driver.execute_script(
                "const entry = performance.getEntriesByType('navigation')[0];"
                "const paint = performance.getEntriesByName('first-contentful-paint')[0];"
                "return {paint: paint ? paint.startTime : NaN, usable: entry.domContentLoadedEventEnd,"
                " loaded: entry.loadEventEnd}"
            )
            if load:
                for name, key in TIMES.items():
                    found[name].append(times[key])
        return found, (processor_time(service.process.pid) - start) / loads
    finally:
        driver.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?")
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--store", type=Path, default=Path("runs"))
    parser.add_argument("--loads", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.experiment:
            source = Store(options.store), experiments.load(options.experiment), options.preset
        else:
            source = made_up(Path(folder) / "runs")
        start = time.perf_counter()
        path = write_page(Path(folder) / "page.html", *source)
        took, size = time.perf_counter() - start, path.stat().st_size
        print(f"{source[1].name}, preset {source[2]}: {size / 1e6:.2f} MB, written in {took:.1f} s\n")
        print(f"| screen | {' | '.join(TIMES)} | processor time |\n|:--|{'--:|' * (len(TIMES) + 1)}")
        for screen, slower, width in (("desk", 1, 1280), ("phone, processor 4 times slower", 4, 360)):
            times, processor = opened(path, options.loads, slower, width)
            cells = [f"{statistics.median(each):.0f} ms (worst {max(each):.0f})" for each in times.values()]
            print(f"| {screen} | {' | '.join(cells)} | {processor:.0f} ms |")
        print(f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
