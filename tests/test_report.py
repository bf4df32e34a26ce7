"""The report as a real browser shows it: its numbers, its marks, and names that try to break it."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from bitq.devices import load_device
from bitq.errors import BitqError
from bitq.formats import grid
from bitq.report import text, write_report
from bitq.report.alphas import answers
from bitq.report.evidence import load_evidence
from bitq.report.figures import figures, front
from bitq.report.sweep import verdicts
from bitq.store import Store
from bitq.tradeoff.naming import measure
from bitq.tradeoff.plan import Plan
from bitq.tradeoff.records import Measurement
from report_example import KEY, demo_layers, make_run, many_layers

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)
HOSTILE = (
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "\"'`${window.pwned=1}\\",
    "{{ 7 * 7 }}{% raw %}",
    "\u2028\u2029\u202e]]><!-- -->&lt;&amp;",
    "datum.x || window.pwned",
    "a" * 300,
    "]; window.pwned=1; [",
    "__proto__",
    "constructor",
)
KINDS = (
    *("float", "front", "sensitivity", "finetune", "sweep", "outcome", "offers", "references", "ablation", "baseline"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    folder = tmp_path_factory.mktemp("run")
    plan = make_run(folder, demo_layers(), predicted=200)
    write_report(folder)
    return folder, plan


def opened(browser: webdriver.Chrome, page: Path) -> Any:
    """Open the page; wait until its charts are drawn; give the function that asks it."""
    browser.get_log("browser"), browser.get_log("performance")  # type: ignore[no-untyped-call]
    browser.get(page.as_uri())
    drawn = "return document.documentElement.dataset.charts"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(drawn) == "done")
    return browser.execute_script


def requests(browser: webdriver.Chrome) -> set[str]:
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))  # type: ignore[no-untyped-call]
    urls = (e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent")
    own = ("chrome://", "chrome-untrusted://", "data:")  # the browser's own first page may still be loading
    return {url for url in urls if not url.startswith(own)}


def complaints(browser: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]  # type: ignore[no-untyped-call]


def marks(ask: Any, chart: str, kind: str) -> int:
    return int(ask(f"return document.querySelectorAll('#{chart} .mark-{kind}.role-mark path').length"))


def test_every_mark_is_drawn_without_a_network(browser: webdriver.Chrome, run: tuple[Path, Plan]) -> None:
    folder, plan = run
    ask = opened(browser, folder / "report.html")
    assert complaints(browser) == []
    assert requests(browser) == {(folder / "report.html").as_uri()}
    tensors, levels = 3 * len(plan.layers), sum(len(layer.levels) for layer in plan.layers)
    with Store(folder / "results.sqlite") as store:
        tuned = len(store.evaluations("finetune"))
    assert marks(ask, "allocation", "rect") == tensors
    assert marks(ask, "movement", "rect") == marks(ask, "energy", "rect") == levels
    assert marks(ask, "over-bound", "symbol") == levels
    assert marks(ask, "landscape", "symbol") == 200 + tuned
    assert tuned <= marks(ask, "closer", "symbol") < 200 + tuned
    assert marks(ask, "closer", "line") == 1
    assert marks(ask, "course", "line") == 1
    assert marks(ask, "course", "symbol") >= tuned
    assert marks(ask, "sensitivity", "rect") == tensors * len(grid(8))
    assert marks(ask, "sensitivity", "symbol") == tensors
    found = load_evidence(folder).sweep
    assert found is not None
    for chart in ("buffer-traffic", "buffer-energy"):
        assert marks(ask, chart, "line") == len(found.series) == 3
        assert marks(ask, chart, "symbol") >= 3 * len(found.sizes_bytes)
    assert verdicts(found)[1] in ask("return document.body.innerText")
    shown = ask(
        "return [...document.querySelectorAll('#allocation .mark-text.role-mark text')]"
        ".map(t => t.textContent)"
    )
    formats = [
        f
        for layer in plan.layers
        for f in (layer.formats.input, layer.formats.weight, layer.formats.output)
        if f
    ]
    assert shown == [f"m{f.bits - f.exponent_bits} e{f.exponent_bits} b{f.block_size}" for f in formats]


def test_every_chart_is_one_of_vega_lite(run: tuple[Path, Plan]) -> None:
    """The page writes charts without checking them: that takes longer than all else of it."""
    specs = figures(load_evidence(run[0]))
    assert len(specs) > 5
    for each in specs.values():
        bare = {key: value for key, value in each.items() if key != "datasets"}
        kind = next((k for k in ("hconcat", "vconcat", "layer") if k in bare), None)
        known = {None: altair.Chart, "hconcat": altair.HConcatChart, "vconcat": altair.VConcatChart}
        known.get(kind, altair.LayerChart).from_dict(bare).to_dict()
        with pytest.raises(jsonschema.ValidationError):
            altair.Chart.from_dict({**bare, "height": "tall"}).to_dict()


def test_the_numbers_stand_in_the_page(browser: webdriver.Chrome, run: tuple[Path, Plan]) -> None:
    folder, plan = run
    ask = opened(browser, folder / "report.html")
    totals, content = plan.totals, ask("return document.body.innerText")
    lost = 100 * (totals.accuracy_float - totals.accuracy)
    verdict = ask("return document.getElementById('verdict').innerText")
    assert verdict.startswith(f"The plan is {lost:.2f}\u00a0points less accurate than float32, moves")
    assert f"{totals.movement_bits_float / totals.movement_bits:.1f}× fewer bits" in verdict
    assert f"{totals.energy_pj_float / totals.energy_pj:.1f}× less energy" in verdict
    assert f"{totals.model_bytes_float / totals.model_bytes:.1f}× smaller" in verdict
    assert "It is 0.19\u00a0points more accurate than the best uniform 8:e3:b16" in verdict
    for expected in (
        f"{totals.movement_bits / 1e6:.2f} Mbit",
        f"{totals.energy_pj / 1e6:.2f} µJ",
        "bitq search --network demo",
    ):
        assert expected in content
    for layer in plan.layers:
        assert layer.name in content


def test_the_best_of_every_column_is_marked(browser: webdriver.Chrome, run: tuple[Path, Plan]) -> None:
    ask = opened(browser, run[0] / "report.html")
    table = ask(
        "return [...document.querySelectorAll('#all tbody tr')].map("
        "r => [...r.querySelectorAll('td')].map(c => [c.innerText, c.classList.contains('best')]))"
    )
    assert len(table) == 3
    for index, column in enumerate(zip(*table, strict=True)):
        values = [float(shown.replace(",", "")) for shown, _ in column]
        best = max(values) if index == 0 else min(values)
        assert [value == best for value in values] == [marked for _, marked in column]


def test_tooltips_tell_what_a_mark_is(browser: webdriver.Chrome, run: tuple[Path, Plan]) -> None:
    folder, plan = run
    ask = opened(browser, folder / "report.html")
    for chart, expected in (
        ("movement", "bits moved"),
        ("allocation", "exponent of code 0"),
        ("closer", "accuracy"),
        ("sensitivity", "loss (points)"),
    ):
        ask(
            f"const mark = document.querySelector('#{chart} .role-mark path');"
            "const box = mark.getBoundingClientRect();"
            "const at = {bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2};"
            "const send = name => mark.dispatchEvent(new PointerEvent(name, at));"
            "send('pointerover'); send('pointermove');"
        )
        tip = WebDriverWait(browser, 5).until(
            lambda _: ask("return document.querySelector('#vg-tooltip-element.visible')?.innerText")
        )
        assert expected in tip
        if chart in ("movement", "allocation"):
            assert any(layer.name in tip for layer in plan.layers)
        ask(
            f"document.querySelector('#{chart} .role-mark path')"
            ".dispatchEvent(new PointerEvent('pointerout', {bubbles: true}))"
        )


def test_charts_and_tables_have_names_for_those_who_cannot_see(
    browser: webdriver.Chrome, run: tuple[Path, Plan]
) -> None:
    ask = opened(browser, run[0] / "report.html")
    labels = ask(
        "return [...document.querySelectorAll('.chart')]"
        ".map(c => c.querySelector('[role]').getAttribute('aria-label'))"
    )
    assert len(labels) == 11
    assert all(labels)
    assert len(set(labels)) == len(labels)
    assert ask(
        "return [...document.querySelectorAll('section')]"
        ".every(s => document.getElementById(s.getAttribute('aria-labelledby')))"
    )
    assert ask("return document.querySelectorAll('th:not([scope])').length") == 0


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_the_page_fits_every_screen(browser: webdriver.Chrome, run: tuple[Path, Plan], width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        ask = opened(browser, run[0] / "report.html")
        assert ask("return document.documentElement.scrollWidth") <= width
        widths = ask(
            "return [...document.querySelectorAll('.chart svg.marks')]"
            ".map(s => s.getBoundingClientRect().width)"
        )
        scrolls = ask("return [...document.querySelectorAll('.chart')].map(c => c.id == 'sensitivity')")
        assert all(drawn <= width or scrolled for drawn, scrolled in zip(widths, scrolls, strict=True))
        assert min(widths) > 200
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_text_is_legible_in_the_dark(browser: webdriver.Chrome, run: tuple[Path, Plan]) -> None:
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        ask = opened(browser, run[0] / "report.html")
        paper = ask("return getComputedStyle(document.documentElement).backgroundColor")
        inks = ask(
            "return [...document.querySelectorAll('h2, td, .role-axis-label text, .role-legend-label text')]"
            ".map(e => e.closest('svg') ? getComputedStyle(e).fill : getComputedStyle(e).color)"
        )
        assert _brightness(paper) < 40
        assert len(inks) > 50
        assert all(_brightness(ink) > 140 for ink in inks)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def _brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_hostile_names_stay_names(browser: webdriver.Chrome, tmp_path: Path) -> None:
    layers = [
        replace(layer, name=name, module=name) for layer, name in zip(demo_layers(), HOSTILE, strict=True)
    ]
    plan = make_run(tmp_path, layers, network=HOSTILE[0], predicted=20)
    ask = opened(browser, write_report(tmp_path))
    assert complaints(browser) == []
    assert ask("return [window.pwned, document.scripts.length, document.images.length]") == [None, 2, 0]
    assert ask("return document.querySelector('h1').textContent") == HOSTILE[0]
    named = ask("return [...document.querySelectorAll('th[scope=rowgroup]')].map(e => e.textContent)")
    assert named == [layer.name for layer in plan.layers]
    labels = ask(
        "return [...document.querySelectorAll('#allocation .role-axis-label text')].map(e => e.textContent)"
    )
    assert HOSTILE[1] in labels or any(label.startswith("<img src=x") for label in labels)
    assert marks(ask, "movement", "rect") == sum(len(layer.levels) for layer in plan.layers)
    assert marks(ask, "sensitivity", "rect") == 3 * len(layers) * len(grid(8))


def test_the_page_may_not_reach_out(browser: webdriver.Chrome, run: tuple[Path, Plan]) -> None:
    opened(browser, run[0] / "report.html")
    browser.set_script_timeout(10)
    forbidden = browser.execute_async_script(
        "const done = arguments[0], seen = [];"
        "document.addEventListener('securitypolicyviolation', e => {"
        " seen.push(e.effectiveDirective); if (seen.length === 4) done(seen.sort()); });"
        "new Image().src = 'http://localhost:9/x.png'; fetch('http://localhost:9/y').catch(() => {});"
        "for (const set of [s => s.src = 'http://localhost:9/z.js', s => s.text = 'window.pwned = 1']) {"
        " const script = document.createElement('script'); set(script); document.body.append(script); }"
    )
    assert forbidden == ["connect-src", "img-src", "script-src-elem", "script-src-elem"]
    assert browser.execute_script("return window.pwned") is None


@pytest.mark.parametrize("missing", [*KINDS, "all"])
def test_an_interrupted_search_has_a_report(browser: webdriver.Chrome, tmp_path: Path, missing: str) -> None:
    only = () if missing == "all" else tuple(kind for kind in KINDS if kind != missing)
    make_run(tmp_path, demo_layers(), predicted=5, only=only)
    ask = opened(browser, write_report(tmp_path))
    assert complaints(browser) == []
    content = ask("return document.body.innerText")
    for kind, sentence in {
        "front": "The front of all plans was not predicted",
        "sensitivity": "The sensitivity of the tensors was not estimated",
        "finetune": "Nothing was fine-tuned",
        "outcome": "The search did not finish",
        "sweep": "Other sizes of the memory were not tried",
        "offers": "No answers were kept",
    }.items():
        nothing_at_all = missing == "all" and kind in ("front", "finetune")
        assert (sentence in content) == (missing in (kind, "all") and not nothing_at_all)
    assert ("Nothing was evaluated" in content) == (missing == "all")
    ablated, answered = missing not in ("ablation", "outcome", "all"), missing not in ("front", "finetune", "all")
    assert ask("return document.querySelectorAll('#ablations tbody tr').length") == 4 * ablated
    other_rules = missing not in ("baseline", "outcome", "all")
    assert ask("return document.querySelectorAll('#baselines tbody tr').length") == 3 * other_rules
    assert ask("return document.querySelectorAll('#alphas tbody tr').length") == 7 * answered
    assert ("the dashed line float32" in content) == (missing not in ("float", "all"))


def test_a_plan_alone_has_a_report_and_no_results_are_made_up(tmp_path: Path) -> None:
    make_run(tmp_path, demo_layers(), predicted=0, only=())
    for file in tmp_path.glob("results.sqlite*"):
        file.unlink()
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "only the plan" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "report.html"]


def test_what_is_not_a_number_is_left_out(browser: webdriver.Chrome, tmp_path: Path) -> None:
    make_run(tmp_path, demo_layers(), only=("float", "outcome"))
    with Store(tmp_path / "results.sqlite") as store:
        points = [{"accuracy": a, "movement_bits": 1e6} for a in (0.8, math.nan, math.inf, 0.9)]
        store.get_or_run("front", {"outcome": KEY}, lambda: {"points": points})
        diverged = Measurement(
            label="plan",
            proposer="plan",
            loss=math.nan,
            validation=math.nan,
            test=0.1,
            movement_bits=1e6,
            dram_bits=1e6,
            on_chip_bits=0.0,
            energy_pj=1.0,
            model_bytes=1,
        )
        store.get_or_run("finetune", {}, diverged.model_dump)
        scores = {"0": {"input": {"8:e3:b16": math.nan, "8:e3:b8": 0.1}}}
        store.get_or_run("sensitivity", {"outcome": KEY}, lambda: {"scores": scores})
    ask = opened(browser, write_report(tmp_path))
    assert complaints(browser) == []
    assert marks(ask, "landscape", "symbol") == 2
    assert marks(ask, "sensitivity", "rect") == 1


def test_a_tensor_left_as_float_says_so(browser: webdriver.Chrome, tmp_path: Path) -> None:
    plan = make_run(tmp_path, demo_layers(), predicted=0, only=())
    first = plan.layers[0].model_copy(update={"input": None, "output": None})
    plan.model_copy(update={"layers": (first, *plan.layers[1:])}).save(tmp_path / "plan.json")
    ask = opened(browser, write_report(tmp_path))
    cells = ask(
        "return [...document.querySelectorAll('#allocation .mark-text.role-mark text')]"
        ".map(t => t.textContent)"
    )
    assert complaints(browser) == []
    assert [index for index, shown in enumerate(cells) if shown == "float32"] == [0, 2]


def test_a_large_run_stays_small_and_whole(tmp_path: Path) -> None:
    make_run(tmp_path, many_layers(150), device="i7-10700f", bits=16, predicted=1000)
    page = write_report(tmp_path)
    assert page.stat().st_size < 3 << 20
    assert page.read_text(encoding="utf-8").count('<th scope="rowgroup"') == 150


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(BitqError, match="no plan"):
        write_report(tmp_path)
    make_run(tmp_path, demo_layers(), predicted=0, only=("float",))
    with Store(tmp_path / "results.sqlite") as store:
        broken = {"settings": "", "rows": [{"name": "plan", "role": "plan"}]}
        store.get_or_run("outcome", {"outcome": KEY}, lambda: broken)
    with pytest.raises(BitqError, match=r"kind 'outcome'.*rows\.0\.movement_bits"):
        write_report(tmp_path)
    (tmp_path / "results.sqlite").unlink()
    for file in tmp_path.glob("results.sqlite-*"):
        file.unlink()
    (tmp_path / "results.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(BitqError, match="not a results store"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_outcome_that_led_to_the_plan_counts(tmp_path: Path) -> None:
    make_run(tmp_path, demo_layers(), predicted=0)
    own = load_evidence(tmp_path).outcome
    assert own is not None
    with Store(tmp_path / "results.sqlite") as store:  # of another plan, with the same rows
        other = own.model_copy(update={"command": "bitq search something else"})
        store.get_or_run("outcome", {"outcome": "another"}, other.model_dump)
    assert load_evidence(tmp_path).outcome == own
    assert "something else" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_device_is_shown_as_it_was_searched(tmp_path: Path) -> None:
    """Whatever a shipped device of the same name looks like, and wherever its file is now."""
    shipped = load_device("stm32h743")
    memories = [replace(memory, capacity_bits=memory.capacity_bits / 3, note="mine") for memory in shipped.memories]
    make_run(tmp_path, demo_layers(), device=replace(shipped, title="My board", memories=tuple(memories)))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "My board" in page
    assert shipped.title not in page
    for memory in memories[:-1]:
        assert f"<td>{text.amount_bytes(memory.capacity_bits / 8)}</td>" in page
    assert page.count('<td class="text">mine</td>') == len(memories)
    assert "<td>unbounded</td>" in page


@given(st.lists(st.floats(0, 5), min_size=1, max_size=4))
def test_no_plan_is_better_than_the_answer_for_a_weight(run: tuple[Path, Plan], alphas: list[float]) -> None:
    stored, most = load_evidence(run[0]), run[1].totals.movement_bits_max
    found = answers(stored, alphas)
    assert [each.alpha for each in found] == sorted({*alphas, run[1].alpha})
    for each in found:
        assert each.measured in stored.measured
        best = 1 - each.measured.validation + each.alpha * each.measured.movement_bits / most
        assert all(1 - one.validation + each.alpha * one.movement_bits / most >= best for one in stored.measured)
        likely = 1 - each.predicted.accuracy + each.alpha * each.predicted.movement_bits / most
        assert all(
            1 - one.accuracy + each.alpha * one.movement_bits / most >= likely for one in stored.front.points
        )
        assert each.objective == pytest.approx(best + each.measured.validation - each.measured.test)


@pytest.mark.parametrize("alpha", [-0.1, 1e308, math.inf, math.nan])
def test_weights_out_of_range_are_told(run: tuple[Path, Plan], alpha: float) -> None:
    before = (run[0] / "report.html").read_bytes()
    with pytest.raises(BitqError, match=r"alpha is .*at least 0"):
        write_report(run[0], [0.1, alpha])
    assert (run[0] / "report.html").read_bytes() == before


points_ = st.tuples(st.integers(0, 6), st.integers(0, 6))


@given(st.lists(points_, max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    found = front({"movement": x, "accuracy": y} for x, y in points)
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert [(p["movement"], p["accuracy"]) for p in found] == sorted(set(points) - beaten)


@given(st.floats(1e-9, 1e18))
def test_numbers_keep_their_leading_digits(value: float) -> None:
    assert float(text.number(value).replace(",", "")) == pytest.approx(value, rel=5.1e-4)
    amount, unit = text.amount_bits(value).split()
    scale = {"bit": 1, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9, "Tbit": 1e12}[unit]
    assert scale * float(amount.replace(",", "")) == pytest.approx(value, rel=5.1e-3)


@given(st.floats(1e-3, 1e9), st.floats(1e-3, 1e9))
def test_comparisons_say_the_same_both_ways(new: float, old: float) -> None:
    words = ("less", "more", "equal")
    there, back = text.compare(new, old, *words), text.compare(old, new, *words)
    said = {there.split()[-1], back.split()[-1]}
    assert said == ({"equal"} if there == "equal" else {"less", "more"})
    if there != "equal":
        assert there.endswith("less") == (new < old)


@pytest.mark.parametrize(
    ("new", "old", "said"),
    [
        (1, 1, "equal"),
        (1, 4, "4.0× less"),
        (4, 1, "4.0× more"),
        (96, 100, "4.0\u00a0% less"),
        (0, 0, "equal"),
        (1, 0, "1 against 0"),
    ],
)
def test_comparison_words(new: float, old: float, said: str) -> None:
    assert text.compare(new, old, "less", "more", "equal").replace("1.000", "1") == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.01, "< 0.1 s"),
        (2.34, "2.3 s"),
        (59.6, "60 s"),
        (61, "1 min 1 s"),
        (3599.9, "1 h 0 min"),
        (7260, "2 h 1 min"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert text.duration(seconds) == said


def test_a_plan_that_keeps_no_bounds_shows_none(run: tuple[Path, Plan], tmp_path: Path) -> None:
    document = json.loads((run[0] / "plan.json").read_text())
    for layer in document["layers"]:
        for level in layer["levels"]:
            assert level["lower_bound_bits"] <= sum(level["traffic_bits"].values()) * (1 + 1e-12)
            del level["lower_bound_bits"]
    (tmp_path / "plan.json").write_text(json.dumps(document))
    pages = [write_report(folder).read_text() for folder in (run[0], tmp_path)]
    assert ['id="over-bound"' in page for page in pages] == [True, False]


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (None, "accuracy"),
        ("bitq.accuracy.evaluate.top1", "accuracy"),
        ("bitq.tasks.detect.box_ap50", "box-ap50"),
        ("nets.f1_score 0123456789abcdef", "f1_score"),
        ("nets.lost (unidentified 0123456789ab)", "lost"),
        ("bitq.accuracy.agreement.agreement_with_float32", "agreement with float32"),
    ],
)
def test_a_metric_is_called_as_its_task_calls_it(identity, name):
    assert measure(identity) == name
