"""`bitq compare` as a user meets it: the table, the page, going on after a stop, and mistakes."""

import json
import signal
import sqlite3
import time
from dataclasses import replace

import pytest

from bitq.cli.compare import seeds_of
from bitq.errors import BitqError
from bitq.files import RunFolder
from bitq.report.comparison import render_comparison, write_comparison
from bitq.store import Store
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.compare import Comparison, Contest, OfSeed, Reached, Refused, Spread
from bitq.tradeoff.records import Measurement, Row
from bitq.tradeoff.rules import RULES, rules_of
from bitq.tradeoff.settings import Settings
from test_cli_search import NETWORK, fill, process
from test_report import browser, complaints, marks, opened, requests

__all__ = ["browser"]

RAN = ["uniform", "flexblock", "fast", "int-mixed", "bitq"]
RULES_OPTION = ["--rules", ",".join(RAN)]
FEW = ["--data", "data.npz", "--checkpoint", "net.safetensors", "--device", "tiny.toml", "--limit", 400]
WORDS = ["compare", NETWORK, *FEW, "--steps", 3, "--plans", 2, "--seeds", "0,7", "--formats", "8:e3..e5:b16"]


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A user's folder."""
    folder = tmp_path_factory.mktemp("user")
    fill(folder)
    return folder


@pytest.fixture(scope="module")
def finished(user):
    """What a comparison printed as JSON, into `user`/run."""
    started = process(user, *WORDS, *RULES_OPTION, "--run", "run", "--json")
    out, err = started.communicate()
    assert started.returncode == 0, err
    return json.loads(out)


def kept(folder):
    """All evaluations of all seeds: what was done, and when it was finished."""
    found = {}
    for path in sorted(folder.rglob("results.sqlite")):
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'evaluations'").fetchone():
                continue  # the store is being made
            for key, kind, result, finished in database.execute("SELECT key, kind, result, finished FROM evaluations"):
                found[path.parent.name, kind, key] = (result, finished)
    return found


def without_times(found):
    return {key: result for key, (result, _) in found.items()}


def test_every_rule_is_measured_alike_with_every_seed(user, finished):
    assert [line["label"] for line in finished["rules"]] == RAN
    assert [seed["seed"] for seed in finished["seeds"]] == [0, 7]
    assert [line["label"] for line in finished["untuned"]] == ["float32", "float16", "int8", "int4", "mxint8", "mxfp4"]
    for place, line in enumerate(finished["rules"]):
        assert not line["reason"]
        each = [seed["results"][place] for seed in finished["seeds"]]
        for name, key in (("accuracy", "accuracy"), ("energy_pj", "energy_pj"), ("objective", "objective")):
            values = [one[key] for one in each]
            assert line[name]["mean"] == pytest.approx(sum(values) / 2)
            assert line[name]["deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        for one, seed in zip(each, finished["seeds"], strict=True):
            share = one["movement_bits"] / seed["movement_bits_max"]
            assert one["objective"] == pytest.approx(1 - one["accuracy"] + 0.2 * share)
            assert 1 <= one["tuned"] <= 2
    for seed in (0, 7):
        with Store(user / "run" / f"seed-{seed}" / "results.sqlite", read_only=True) as store:
            tuned = [each.config["training"] for each in store.evaluations("finetune")]
            assert {each["seed"] for each in tuned if each} == {seed}
            assert {each["steps"] for each in tuned if each} == {3}


def test_the_plan_of_least_objective_on_validation_data_counts(user, finished):
    seed = finished["seeds"][1]
    with Store(user / "run" / "seed-7" / "results.sqlite", read_only=True) as store:
        every = [each.result for each in store.evaluations("finetune")]
    measured = [each for each in every if each["label"].startswith("int-mixed")]

    def objective(each):
        return 1 - each["validation"] + 0.2 * each["movement_bits"] / seed["movement_bits_max"]

    best = min(measured, key=objective)
    reported = next(each for each in seed["results"] if each["rule"] == "int-mixed")
    assert (reported["validation"], reported["accuracy"]) == (best["validation"], best["test"])


def test_the_same_command_adds_nothing_and_says_the_same(user, finished):
    before = kept(user / "run")
    page = (user / "run" / "compare.html").read_bytes()
    started = process(user, *WORDS, *RULES_OPTION, "--run", "run", "--json")
    out, err = started.communicate()
    assert started.returncode == 0, err
    assert json.loads(out) == finished
    assert kept(user / "run") == before
    assert (user / "run" / "compare.html").read_bytes() == page


def test_another_rule_is_added_to_what_is_there(user, finished):
    before = kept(user / "run")
    more = process(user, *WORDS, "--rules", "int-mixed,random", "--run", "run", "--json")
    out, err = more.communicate()
    assert more.returncode == 0, err
    document = json.loads(out)
    assert document["rules"][0] == finished["rules"][RAN.index("int-mixed")]
    after = kept(user / "run")
    assert before.items() <= after.items()
    assert {kind for _, kind, _ in after.keys() - before.keys()} == {"proposal", "finetune"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_comparison_that_was_stopped_goes_on(user, tmp_path, finished, number):
    run = user / f"stopped-{number}"
    words = [*WORDS, *RULES_OPTION, "--run", run, "--json"]
    started = process(user, *words)
    deadline = time.monotonic() + 120
    while not any(kind == "finetune" for _, kind, _ in kept(run)) and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(number)
    out, err = started.communicate()
    assert started.returncode in (130, -number), err
    assert out == ""
    if number == signal.SIGINT:
        assert err.endswith("Error: interrupted before the end; the same command continues where it stopped\n")
    before = kept(run)
    assert any(kind == "finetune" for _, kind, _ in before)
    again = process(user, *words)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert before.items() <= kept(run).items()
    measured = {key: value for key, value in without_times(kept(run)).items() if key[1] == "finetune"}
    whole = {key: value for key, value in without_times(kept(user / "run")).items() if key in measured}
    assert measured == whole
    own, other = json.loads(out)["seeds"], finished["seeds"]
    for seed, same in zip(own, other, strict=True):
        for one, two in zip(seed["results"], same["results"], strict=True):
            assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_a_rule_that_cannot_run_is_told_and_the_rest_goes_on(user):
    words = ["compare", NETWORK, *FEW, "--steps", 1, "--plans", 2, "--seeds", "0"]
    apart = [*words, "--weights", "int4", "--activations", "mxfp4"]
    started = process(user, *apart, "--rules", "uniform,hessian,random", "--run", "apart")
    out, err = started.communicate()
    assert started.returncode == 0, err
    lines = out.splitlines()
    assert any(line.startswith("uniform cannot run: no format is offered to weights and activations") for line in lines)
    assert any(line.startswith("hessian cannot run: ") for line in lines)
    assert any(line.startswith("│ random ") for line in lines)
    assert "cannot run: no format" in (user / "apart" / "compare.html").read_text()
    alone = process(user, *apart, "--rules", "uniform", "--run", "alone")
    out, err = alone.communicate()
    assert (alone.returncode, out) == (2, "")
    assert err.splitlines()[-1].startswith("Error: no format is offered to weights and activations alike")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--rules", "slow"], "rule 'slow' is unknown; rules are bitq, gradient"),
        (["--rules", ","], "no rule is named"),
        (["--seeds", "0,x"], "--seeds is '0,x'; it must be whole numbers from 0"),
        (["--seeds", "1,1"], "--seeds is '1,1'; give each seed once"),
        (["--plans", "1"], "--plans"),
        (["--steps", "0"], "steps is 0; it must be 1 or more"),
        (["--within", "-1"], "--within is -1.0; it must be a number of points"),
        (["--alpha", "-1"], "alpha is -1.0"),
        (["--max-accuracy-loss", "-1"], "the limit of accuracy_loss is -1.0; it must be a finite number"),
        (["--formats", "8:e3"], "8:e3"),
        (["--device", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_told(mistake, tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    assert told in mistake("compare", "demo", *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("network", "given", "loss"),
    [
        ("demo", [], 0.005),
        ("demo", ["--max-accuracy-loss", 0.02], 0.02),
        ("demo", ["--max-accuracy-loss", 1], None),
        (NETWORK, [], None),
    ],
)
def test_the_demo_loses_little_unless_more_is_asked_for(mistake, monkeypatch, tmp_path, network, given, loss):
    def asked(subject, device, offered, settings, *others, **named):
        raise BitqError(f"asked for {settings.budgets}")

    monkeypatch.setattr("bitq.tradeoff.compare.compare", asked)
    assert f"asked for {Budgets(loss)}" in mistake("compare", network, *given, "--run", tmp_path / "run")


def test_what_is_plain_and_what_misses_the_limit_is_told():
    found = made(labels=("bitq", "fast", "hbfp:plain"))
    missed = tuple(
        replace(seed, results=tuple(replace(e, keeps=False) if e.label == "fast" else e for e in seed.results))
        for seed in found.seeds
    )
    bound = replace(found, seeds=missed, settings=replace(found.settings, budgets=Budgets(0.01)))
    plain, near = bound.remarks
    assert plain.startswith("plain: activations have a sign, ")
    assert near == "fast: no plan keeps accuracy_loss at most 0.01 with 2 of 2 seeds; the nearest counts"
    page = render_comparison(bound)
    assert near in page
    assert "that loses at most 1 points there" in page
    assert made(labels=("bitq",)).remarks == ()


@pytest.mark.parametrize("text", ["", "-1", "1.5", "0,", "٣", "9" * 30])
def test_other_seeds_are_refused(text):
    with pytest.raises(BitqError, match="--seeds"):
        seeds_of(text)


# --- the page


def made(network="net", labels=("bitq", "fast", "hbfp:activations=blocks"), seeds=(0, 1), reason="no such formats"):
    """A comparison with made-up numbers; one rule could not run."""
    rules = (*rules_of(",".join(labels)), rules_of("bsfp")[0])

    def row(name, role, place, seed):
        amount = 1e6 * (place + 1) + 1e4 * seed
        costs = {"movement_bits": amount, "dram_bits": amount / 2, "on_chip_bits": amount / 2, "energy_pj": 2 * amount}
        accuracy = 0.93 - 0.01 * place - 0.002 * seed
        return Row(
            name=name, role=role, accuracy=accuracy, objective=1 - accuracy + amount / 1e8, model_bytes=4096, **costs
        )

    def reached(label, place, seed):
        own = row(f"{label} 1", "baseline", place, seed)
        measured = Measurement(label=own.name, loss=0.1, validation=own.accuracy, test=own.accuracy, **own.figures())
        return Reached(label, own, measured, measured if place else None, 2, 16, 75.0)

    found = [
        OfSeed(
            seed,
            1e7,
            row("float32", "float32", 20, seed),
            (row("int8", "alternative", 3, seed), row("mxfp4", "alternative", 2, seed)),
            (*(reached(each.label, place, seed) for place, each in enumerate(rules[:-1])), Refused("bsfp", reason)),
        )
        for seed in seeds
    ]
    return Comparison(network, "tiny", Contest(rules, 2), Settings(), tuple(found), "bitq compare", {"bitq": "1"})


def test_the_page_shows_every_rule_and_seed(browser, tmp_path):
    found = made()
    page = write_comparison(RunFolder(tmp_path), found)
    assert page == tmp_path / "compare.html"
    ask = opened(browser, page)
    assert complaints(browser) == []
    assert requests(browser) == {page.as_uri()}
    assert marks(ask, "rules-landscape", "symbol") == 3 * 2 + 3 + 2  # points, means, formats that people know
    assert marks(ask, "rules-landscape", "rule") == 0  # it is a line, not a path
    table = ask("return [...document.querySelectorAll('#rules tbody tr')].map(r => r.innerText.split('\\t'))")
    assert [line[0] for line in table] == ["bitq", "fast", "hbfp:activations=blocks", "bsfp"]
    assert table[3][1] == "cannot run: no such formats"
    first = found.rules[0]
    assert table[0][1].startswith(f"{first.objective.mean:.4f} ± {first.objective.deviation:.4f}")
    assert [line[7] for line in table[:3]] == ["–", *(each.fewest_bits.text(2, 1e6) + ", "
            + each.fewest_accuracy.text(2, 0.01) for each in found.rules[1:3])]  # fmt: skip
    assert "The least O has bitq with" in ask("return document.getElementById('verdict').innerText")
    assert len(ask("return [...document.querySelectorAll('#untuned tbody tr')]")) == 3
    assert len(ask("return [...document.querySelectorAll('#plans tbody tr')]")) == 6
    assert ask("return document.documentElement.scrollWidth <= window.innerWidth")
    assert ask("return document.querySelector('#rules-landscape [role]').getAttribute('aria-label')")


def test_a_page_of_one_seed_tells_no_spread(browser, tmp_path):
    ask = opened(browser, write_comparison(RunFolder(tmp_path), made(seeds=(3,))))
    assert complaints(browser) == []
    assert "±" not in ask("return document.querySelector('main').innerText")


def test_hostile_names_stay_names_on_the_page(browser, tmp_path):
    name = "</script><script>window.pwned=1</script>{{ 7 * 7 }}<img src=x onerror=window.pwned=1>"
    ask = opened(browser, write_comparison(RunFolder(tmp_path), made(network=name, reason=name)))
    assert complaints(browser) == []
    assert ask("return [window.pwned, document.scripts.length, document.images.length]") == [None, 2, 0]
    assert ask("return document.querySelector('h1').textContent") == name
    assert name in ask("return document.querySelector('#rules').textContent")


def test_amounts_are_told_in_units_that_fit():
    found = made()
    assert found.unit("movement_bits").name == "Mbit"
    assert found.unit("energy_pj").name == "µJ"
    assert found.unit("model_bytes").name == "KiB"
    assert Spread.of([1.0]).text(2) == "1.00"
    assert Spread.of([1.0, 3.0]).text(1, 0.01) == "200.0 ± 141.4"


def test_a_comparison_without_a_rule_that_ran_has_a_page():
    only = made()
    results = tuple(replace(seed, results=(Refused("bsfp", "why"),)) for seed in only.seeds)
    page = render_comparison(replace(only, seeds=results, contest=Contest(rules_of("bsfp"), 2)))
    assert "cannot run: why" in page


def test_the_usual_rules_are_all_but_those_near_float32():
    from bitq.cli.compare import USUAL_RULES

    assert USUAL_RULES.split(",") == [name for name in RULES if not name.endswith("-within")]
