"""The HTML report in a real browser: it loads, sorts, changes its colours, fits a phone, and reads without a script."""

import json

import pytest

from accord.bench.html import page as make
from support.browser import browser
from support.pages import put, trained


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """``{name: file}``: a page of real runs with a blank and a failure, and one of the toy problem."""
    folder = tmp_path_factory.mktemp("pages")
    store, experiment = trained(folder / "runs", "quadratic", ("stl", "ls", "mgda", "nash-mtl"), (0, 1))
    metrics = {"left/distance": float("nan"), "right/distance": 1.5}
    put(store, experiment, "uw", 0, {"weights": [1.0, 2.0], "metrics": metrics})
    toy = trained(folder / "runs", "toy", ("ls", "nash-mtl"))
    found = {}
    for name, made in {"quadratic": (store, experiment), "toy": toy}.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(make(*made, "smoke"))
    return found


@pytest.fixture(scope="module")
def window():
    with browser() as opened:
        yield opened


@pytest.fixture
def quadratic(window, pages):
    """The page of real runs, opened anew."""
    window.open(pages["quadratic"])
    window.ask("localStorage.clear()")
    window.open(pages["quadratic"])
    return window


def column(window, number):
    """The rows' names, and the numbers behind one column; None where there is none."""
    rows = "[...document.querySelectorAll('.comparison tbody tr')]"
    names = window.ask(f"{rows}.map(row => row.cells[0].textContent)")
    values = window.ask(f"{rows}.map(row => row.cells[{number}].dataset.v ?? null)")
    return names, [None if value is None else float(value) for value in values]


def heading(number):
    return f".comparison thead th:nth-child({number + 1}) button"


def test_pages_load_without_a_word_on_the_console_and_ask_for_nothing(window, pages):
    for name, path in pages.items():
        window.open(path)
        assert window.ask("document.querySelectorAll('figure svg').length") > 5
        loaded = window.ask("performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [address for address in loaded if not address.startswith("data:")] == []
        assert window.log() == []
        picture = window.shoot(f"report-{name}")
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 20_000


def test_the_policy_stops_what_the_page_does_not_bring(quadratic):
    quadratic.ask("document.body.append(Object.assign(new Image(), {src: 'https://example.invalid/x.png'}))")
    assert any("Content Security Policy" in entry["message"] for entry in quadratic.log())
    quadratic.ask(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = true'}))"
    )
    assert quadratic.ask("window.ran ?? false") is False
    quadratic.log()


@pytest.mark.parametrize("number", range(1, 9))
def test_a_click_sorts_by_number_with_blanks_last_and_another_turns_it_round(quadratic, number):
    before = column(quadratic, number)[0]
    head = f"document.querySelectorAll('.comparison thead th')[{number}]"
    first = quadratic.ask(f"{head}.dataset.first")
    for order in (first, "descending" if first == "ascending" else "ascending"):
        quadratic.click(heading(number))
        names, values = column(quadratic, number)
        numbers = [value for value in values if value is not None]
        assert numbers == sorted(numbers, reverse=order == "descending")
        assert values == numbers + [None] * (len(values) - len(numbers))
        assert sorted(names) == sorted(before)
        assert quadratic.ask(f"{head}.getAttribute('aria-sort')") == order
        assert quadratic.ask("document.querySelectorAll('[aria-sort]').length") == 1
        assert quadratic.ask("document.getElementById('said').textContent").endswith(order)
    assert quadratic.log() == []


def test_methods_sort_by_letter(quadratic):
    quadratic.click(heading(0))
    assert column(quadratic, 0)[0] == ["ls", "mgda", "nash-mtl", "stl", "uw"]
    quadratic.click(heading(0))
    assert column(quadratic, 0)[0] == ["uw", "stl", "nash-mtl", "mgda", "ls"]


@pytest.mark.parametrize("key", ["\ue007", " "], ids=["enter", "space"])
def test_the_keyboard_alone_reaches_the_table_and_sorts(quadratic, key):
    quadratic.press("\ue004")  # tab
    assert quadratic.ask("document.activeElement.textContent") == "Skip to the table"
    quadratic.press("\ue007")
    quadratic.press("\ue004")
    assert quadratic.ask("document.activeElement.getAttribute('role')") == "region"  # scrolls by arrows
    for _ in range(3):
        quadratic.press("\ue004")
    assert quadratic.ask("document.activeElement.closest('th').cellIndex") == 2
    quadratic.press(key)
    values = [value for value in column(quadratic, 2)[1] if value is not None]
    assert len(values) == 3
    assert values == sorted(values)
    assert quadratic.ask("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"


def test_dark_is_what_the_system_asks_for_and_what_the_reader_chose_is_remembered(quadratic, pages):
    ground = "getComputedStyle(document.body).backgroundColor"
    line = "getComputedStyle(document.querySelector('.series path, .series use')).stroke"
    light, drawn = quadratic.ask(ground), quadratic.ask(line)
    quadratic.open(pages["quadratic"], scheme="dark")
    dark = quadratic.ask(ground)
    assert dark != light
    assert quadratic.ask(line) != drawn
    quadratic.shoot("report-quadratic-dark")
    quadratic.click("#theme")
    assert quadratic.ask(ground) == light
    quadratic.open(pages["quadratic"], scheme="dark")
    assert quadratic.ask(ground) == light
    assert quadratic.ask("document.getElementById('theme').textContent") == "Dark page"
    quadratic.click("#theme")
    assert quadratic.ask(ground) == dark
    assert quadratic.log() == []


@pytest.mark.parametrize("width", [320, 360, 768, 1280, 2000])
@pytest.mark.parametrize("name", ["quadratic", "toy"])
def test_no_page_scrolls_sideways_but_a_wide_table_does(window, pages, name, width):
    window.open(pages[name], width)
    assert window.ask("document.documentElement.scrollWidth") <= width
    window.ask("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert window.ask("document.documentElement.scrollWidth") <= width
    if width == 360:
        window.shoot(f"report-{name}-phone")
        region = "document.querySelector('.scroll')"
        assert window.ask(f"{region}.scrollWidth > {region}.clientWidth")
        window.ask(f"{region}.scrollLeft = 500")
        first = window.ask("document.querySelector('.comparison tbody th').getBoundingClientRect().left")
        assert first >= 0  # the method stays in sight


def test_text_in_figures_is_legible_on_a_phone(window, pages):
    window.open(pages["quadratic"], 360)
    sizes = window.ask(
        "[...document.querySelectorAll('.plot text')].map(text => text.getBoundingClientRect())"
        ".filter(box => box.width > box.height).map(box => box.height)"
    )
    assert len(sizes) > 50
    assert min(sizes) >= 9  # CSS pixels of a line


def test_a_name_in_a_legend_singles_out_its_series(quadratic):
    entry = ".legend button[data-key=m1]"
    shown = "[...document.querySelectorAll('.series:not(.dim)')].map(series => series.dataset.key)"
    every = set(quadratic.ask(shown))
    quadratic.click(entry)
    tasks = {key for key in every if key.startswith("t")}
    assert set(quadratic.ask(shown)) == {"m1"} | tasks
    assert quadratic.ask(f"document.querySelector('{entry}').getAttribute('aria-pressed')") == "true"
    assert quadratic.ask("document.querySelector('.picked th').textContent") == "mgda"
    quadratic.click(entry)
    assert set(quadratic.ask(shown)) == every
    assert quadratic.ask("document.querySelectorAll('.picked, [aria-pressed=true]').length") == 0


def test_without_a_script_everything_reads(window, pages):
    window.open(pages["quadratic"], script=False)
    shown = window.driver.find_element("tag name", "body").text
    window.open(pages["quadratic"])
    assert "nash-mtl" in shown
    assert "Conflict over training" in shown
    assert "Dark page" not in shown  # a button that could do nothing
    assert "buttons" not in shown
    assert window.log() == []


def test_the_accessibility_tree_has_headings_sortable_columns_and_described_pictures(quadratic):
    quadratic.click(heading(2))
    nodes = quadratic.command("Accessibility.getFullAXTree", {})["nodes"]
    seen = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")]
    roles = [role for role, _ in seen]
    assert all(name for role, name in seen if role in ("button", "image", "img", "link", "heading", "region")), seen
    assert roles.count("heading") > 8
    assert ("main" in roles, "navigation" in roles, "banner" in roles) == (True, True, True)
    heads = [name for role, name in seen if role == "columnheader"]
    assert any(name.startswith("Δm") and "lower is better" in name for name in heads), json.dumps(heads)
    pictures = [name for role, name in seen if role in ("image", "img")]
    assert any(name.startswith("Conflict over training of 3 methods") for name in pictures), pictures
