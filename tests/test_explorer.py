"""The explorer: its data agree with the records, and the page works from disk, by mouse and by keyboard."""

import base64
import gzip
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import OfflineTab

import explorer_data as explorer
from superposition import records
from superposition.data import facts
from superposition.errors import UserError
from superposition.io import paths

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
STATIC = BOOK / "_static" / "explorer"
LIMIT = 1_200_000


def expand(codes):
    """Back from ``compand``, as the page does it: ``(q / 127)²`` with the sign of ``q``."""
    scaled = codes.astype(np.float64) / explorer.STEPS
    return np.sign(scaled) * scaled**2


def read(text):
    """What the page reads from the script: the header, and a model's ``P`` (layers, m, m), cosines, lengths, orders."""
    header, packed = (json.loads(line.split(" = ", 1)[1].removesuffix(";")) for line in text.splitlines()[1:3])
    raw, m, models = io.BytesIO(gzip.decompress(base64.b64decode(packed))), len(header["facts"]), []
    upper = np.triu_indices(m, 1)
    for entry in header["models"]:
        layers = len(entry["layers"])
        codes = np.frombuffer(raw.read(layers * m * (m - 1) // 2), np.int8).reshape(layers, -1)
        lengths = np.frombuffer(raw.read(4 * layers * m), "<f4").reshape(layers, m).astype(np.float64)
        orders = np.frombuffer(raw.read(layers * m), np.uint8).reshape(layers, m)
        cosine = np.tile(np.eye(m), (layers, 1, 1))
        cosine[:, *upper] = cosine[:, upper[1], upper[0]] = expand(codes)
        P = cosine * lengths[:, None, :] / lengths[:, :, None]
        models.append({"P": P, "cosine": cosine, "lengths": lengths, "orders": orders})
    assert not raw.read()
    return header, models


@pytest.fixture(scope="module")
def shipped():
    return read((STATIC / "data.js").read_text(encoding="utf8"))


# The data


def test_companding_is_near_everywhere_and_nearest_at_zero():
    values = np.linspace(-1, 1, 20_001)
    back = expand(explorer.compand(values))
    # half a step of the root, at most: (√c + 1/254)² − c
    assert (np.abs(back - values) <= (np.sqrt(np.abs(values)) + 0.5 / 127) ** 2 - np.abs(values) + 1e-12).all()
    assert np.abs(back - values).max() < 0.0079
    assert expand(explorer.compand(np.array([-1.0, 0.0, 1.0]))).tolist() == [-1, 0, 1]


def test_shipped_data_agree_with_the_records(shipped):
    header, models = shipped
    listed = facts.load("book", limit=len(header["facts"]))
    relations = facts.relations("book")
    for (subject, prompt, target, place), fact in zip(header["facts"], listed, strict=True):
        assert (subject, prompt, target) == (fact.subject, fact.prompt, fact.target_true)
        assert header["relations"][place] == relations[fact.relation].name
    m = len(listed)
    assert [entry["record"] for entry in header["models"]] == list(explorer.RECORDS)
    for entry, found in zip(header["models"], models, strict=True):
        record = records.load(entry["record"])
        assert entry["layers"] == record["layers"]
        assert entry["first"] == [i for i, place in enumerate(record["token_positions"][:m]) if place == 0]
        tokens = np.array(record["token_ids"][:m])
        assert np.array_equal(np.equal.outer(entry["tokens"], entry["tokens"]), np.equal.outer(tokens, tokens))
        for row, layer in enumerate(record["layers"]):
            overlaps = record.overlaps(layer)
            lengths = overlaps.norm_whitened[:m]
            assert np.allclose(found["lengths"][row], lengths, rtol=1e-6)
            assert np.abs(found["cosine"][row] - overlaps.cosine_whitened[:m, :m]).max() < 0.0079
            allowed = 0.0079 * lengths[None, :] / lengths[:, None]
            assert (np.abs(found["P"][row] - overlaps.P[:m, :m]) <= allowed).all()
            assert sorted(found["orders"][row]) == list(range(m))


def test_the_command_makes_the_data_that_are_shipped(shipped):
    """Only the first layers are compared bit by bit: an order of a clustering may hang on the last digit."""
    header, models = shipped
    again, fresh = read(explorer.build([explorer.RECORDS[0]], count=len(header["facts"])))
    assert again["facts"] == header["facts"]
    assert again["models"][0] == header["models"][0]
    assert np.array_equal(fresh[0]["cosine"], models[0]["cosine"])
    assert np.array_equal(fresh[0]["lengths"], models[0]["lengths"])
    same = (fresh[0]["orders"] == models[0]["orders"]).all(axis=1)
    assert same.mean() > 0.9


def test_neighbours_in_a_cluster_order_are_alike():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 40)
    keys = np.eye(4)[:, group] + 0.1 * rng.standard_normal((4, 40))
    keys /= np.linalg.norm(keys, axis=0)
    order = explorer.cluster_order(keys.T @ keys)
    assert sorted(order) == list(range(40))
    assert (np.diff(group[order]) != 0).sum() == 3


def test_data_that_cannot_be_made_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="3 to 255"):
        explorer.build(["smollm2-128"], count=256)
    with pytest.raises(UserError, match="first 150 facts"):
        explorer.build(["smollm2-128"], count=150)
    with pytest.raises(SystemExit) as stopped:
        explorer.main(["no-such-record", "--out", str(tmp_path / "data.js")])
    assert stopped.value.code == 2
    assert "no record no-such-record" in capsys.readouterr().err
    assert not (tmp_path / "data.js").exists()


def test_the_command_writes_a_script(tmp_path):
    out = tmp_path / "data.js"
    assert explorer.main(["smollm2-128", "--facts", "12", "--out", str(out)]) == 0
    header, [model] = read(out.read_text(encoding="utf8"))
    assert len(header["facts"]) == 12
    assert model["P"].shape == (30, 12, 12)


def test_the_page_is_light():
    weight = sum(path.stat().st_size for path in STATIC.iterdir()) + (BOOK / "explorer.md").stat().st_size
    assert weight < LIMIT


def test_d3_comes_with_its_licence():
    assert "Mike Bostock" in (STATIC / "d3-LICENSE.txt").read_text(encoding="utf8")
    assert (STATIC / "d3.min.js").read_text(encoding="utf8").startswith("// https://d3js.org v7")


# The page


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """The explorer's own parts, without the theme: what ``book/explorer.md`` holds as raw HTML, where it will stand."""
    folder = tmp_path_factory.mktemp("explorer")
    (folder / "book").mkdir()
    shutil.copytree(STATIC, folder / "_static" / "explorer")
    text = (BOOK / "explorer.md").read_text(encoding="utf8")
    raw = "\n".join(re.findall(r"^```\{raw\} html\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    style = (BOOK / "_static" / "custom.css").read_text(encoding="utf8")
    colours = ":root{--pst-color-text-base:#111;--pst-color-background:#fff;--pst-color-border:#888}"
    colours += "html[data-theme=dark]{--pst-color-text-base:#eee;--pst-color-background:#111}"
    hidden = ".visually-hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}"
    out = folder / "book" / "explorer.html"
    out.write_text(
        '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Explorer</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}{colours}{hidden}*{{box-sizing:border-box}}body{{margin:8px;color:var(--pst-color-text-base)}}"
        f'</style></head><body><main class="bd-article">{raw}</main></body></html>',
        encoding="utf8",
    )
    return out


class Tab(OfflineTab):
    """The page, and what a reader sees and does."""

    def __init__(self, browser, path: Path):
        super().__init__(browser, height=1600)
        self.path = path

    def open(self, address: str = ""):
        self.page.goto("about:blank")
        self.page.set_viewport_size({"width": 1280, "height": 1600})
        self.page.goto(self.path.as_uri() + address)
        self.page.wait_for_selector("#overlap-explorer[data-ready]", timeout=60_000)
        return self

    def value(self, name: str) -> float:
        return float(self.page.get_attribute(f"[data-of={name}]", "data-value"))

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def choose(self, name: str, value: str) -> None:
        self.page.select_option(f"#explorer-{name}", value)

    def layer(self, row: int) -> None:
        self.page.fill("#explorer-layer", str(row))

    def cell(self, row: int, column: int, rows: int, m: int) -> tuple[float, float]:
        box = self.page.locator("canvas").bounding_box()
        inside = self.page.evaluate(
            "() => (c => [c.clientWidth, c.clientHeight, c.clientLeft])(document.querySelector('canvas'))"
        )
        x = box["x"] + inside[2] + (column + 0.5) * inside[0] / m
        return x, box["y"] + inside[2] + (row + 0.5) * inside[1] / rows

    def hover(self, row: int, column: int, rows: int, m: int) -> None:
        self.page.locator("canvas").scroll_into_view_if_needed()
        self.page.mouse.move(*self.cell(row, column, rows, m))

    def shown(self) -> tuple[str, str]:
        return self.text(".explorer-fact.edit b"), self.text(".explorer-fact.read b")


@pytest.fixture(scope="module")
def tab(browser, page_file):
    made = Tab(browser, page_file)
    yield made
    made.context.close()


@pytest.fixture(scope="module")
def by_relation(shipped):
    return sorted(range(len(shipped[0]["facts"])), key=lambda i: (shipped[0]["facts"][i][3], i))


def test_every_cell_reads_as_the_record_has_it(tab, shipped, by_relation):
    header, models = shipped
    m, subjects = len(by_relation), [fact[0] for fact in header["facts"]]
    tab.open()
    rng = np.random.default_rng(0)
    for which, entry in enumerate(header["models"]):
        tab.choose("model", str(which))
        record = records.load(entry["record"])
        for row in {0, len(entry["layers"]) // 2, len(entry["layers"]) - 1}:
            tab.layer(row)
            P = record.overlaps(entry["layers"][row]).P
            lengths = models[which]["lengths"][row]
            for y, x in rng.integers(0, m, (4, 2)):
                tab.hover(int(y), int(x), m, m)
                i, j = by_relation[y], by_relation[x]
                if i == j:
                    continue
                assert tab.shown() == (subjects[i], subjects[j])
                assert tab.value("there") == pytest.approx(P[i, j], abs=0.008 * lengths[j] / lengths[i])
                assert tab.value("back") == pytest.approx(P[j, i], abs=0.008 * lengths[i] / lengths[j])
                assert tab.value("there") == pytest.approx(
                    models[which]["P"][row, i, j], abs=1e-5 * lengths[j] / lengths[i]
                )
                assert tab.text("[data-of=there]").replace("−", "-") == f"{tab.value('there'):.2f}".replace(
                    "-0.00", "0.00"
                )
    assert tab.errors + tab.outside == []


def test_the_order_is_the_one_chosen(tab, shipped):
    header, models = shipped
    m, subjects = len(header["facts"]), [fact[0] for fact in header["facts"]]
    tab.open("#model=smollm2&layer=9")
    expected = {
        "clusters": list(models[0]["orders"][9]),
        "length": list(np.argsort(-models[0]["lengths"][9], kind="stable")),
        "name": sorted(range(m), key=lambda i: subjects[i].lower()),
    }
    for order, facts_in_order in expected.items():
        tab.choose("order", order)
        for y, x in ((0, 1), (m - 1, 0), (m // 2, m // 3)):
            tab.hover(y, x, m, m)
            assert tab.shown() == (subjects[facts_in_order[y]], subjects[facts_in_order[x]])
    assert tab.errors + tab.outside == []


def test_the_filter_keeps_rows_by_name(tab, shipped, by_relation):
    header, _ = shipped
    m, subjects = len(by_relation), [fact[0] for fact in header["facts"]]
    tab.open()
    tab.page.fill("#explorer-filter", "croatia")
    hits = [i for i in by_relation if any("croatia" in word.lower() for word in (subjects[i], header["facts"][i][2]))]
    assert len(hits) >= 2
    assert tab.text(".explorer-matches").startswith(f"{len(hits)} of {m}")
    tab.hover(len(hits) - 1, 5, len(hits), m)
    assert tab.shown() == (subjects[hits[-1]], subjects[by_relation[5]])
    strongest = tab.page.locator(".explorer-strongest tbody tr").all_inner_texts()
    assert strongest
    assert all(any(subjects[i] in line for i in hits) for line in strongest)
    tab.page.fill("#explorer-filter", "no such fact at all")
    assert tab.text(".explorer-matches").startswith(f"0 of {m}")
    tab.page.fill("#explorer-filter", "")
    assert tab.errors + tab.outside == []


def test_a_pair_has_an_address(tab, shipped):
    names = "&edit=Vladimir+Mayakovsky&read=Vladimir+Bukovsky"
    for sign in "#?":
        tab.open(f"{sign}model=smollm2&layer=12&order=clusters&show=cosine{names}")
        assert tab.shown() == ("Vladimir Mayakovsky", "Vladimir Bukovsky")
        assert tab.page.input_value("#explorer-layer") == "12"
        assert tab.page.input_value("#explorer-order") == "clusters"
        assert tab.page.input_value("#explorer-show") == "cosine"
    tab.layer(3)
    address = tab.page.url
    assert "layer=3" in address
    assert "edit=Vladimir+Mayakovsky" in address
    value = tab.value("there")
    tab.open("#" + address.split("#")[1])
    assert tab.value("there") == value
    tab.open("#model=none&layer=999&order=nonsense&edit=Nobody&show=%3Cb%3E")
    assert tab.shown()[0] == shipped[0]["facts"][0][0]
    assert tab.errors + tab.outside == []


def test_a_click_holds_a_pair_and_leaving_returns_to_it(tab, by_relation):
    m = len(by_relation)
    tab.open()
    tab.hover(4, 9, m, m)
    tab.page.mouse.click(*tab.cell(4, 9, m, m))
    held = tab.shown()
    tab.hover(20, 30, m, m)
    assert tab.shown() != held
    tab.page.mouse.move(2, 2)
    assert tab.shown() == held
    assert f"edit={held[0].replace(' ', '+')}" in tab.page.url
    assert tab.errors + tab.outside == []


def test_the_lists_name_the_strongest(tab, shipped):
    header, models = shipped
    subjects = [fact[0] for fact in header["facts"]]
    tab.open("#model=smollm2&layer=0&edit=France&read=Germany")
    P = models[0]["P"][0].copy()
    np.fill_diagonal(P, -np.inf)
    i, j = np.unravel_index(P.argmax(), P.shape)
    first = tab.page.locator(".explorer-strongest tbody tr").first.locator("td").all_inner_texts()
    assert first[:2] == [subjects[i], subjects[j]]
    assert float(first[2].replace("−", "-")) == pytest.approx(P[i, j], abs=0.005)
    assert float(first[3].replace("−", "-")) == pytest.approx(P[j, i], abs=0.005)
    k = subjects.index("France")
    partner = tab.page.locator(".explorer-partners tbody tr").first.locator("td").all_inner_texts()
    assert partner[:2] == ["France", subjects[P[k].argmax()]]
    tab.page.locator(".explorer-strongest tbody button").first.click()
    assert tab.shown() == (subjects[i], subjects[j])
    assert tab.text("[data-of=rank]").startswith("1st of")


def test_the_keyboard_does_what_the_mouse_does(tab, shipped, by_relation):
    header, _ = shipped
    m, subjects = len(by_relation), [fact[0] for fact in header["facts"]]
    first = f"#edit={subjects[by_relation[0]]}&read={subjects[by_relation[0]]}"
    tab.open(first.replace(" ", "+"))
    for _ in range(20):
        tab.page.keyboard.press("Tab")
        if tab.page.evaluate("document.activeElement.tagName") == "CANVAS":
            break
    else:
        pytest.fail("Tab does not reach the map")
    assert tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "PageDown", "ArrowUp"):
        tab.page.keyboard.press(key)
    assert tab.shown() == (subjects[by_relation[11]], subjects[by_relation[1]])
    tab.page.keyboard.press("End")
    assert tab.shown()[1] == subjects[by_relation[m - 1]]
    said = tab.text("[role=status]")
    assert subjects[by_relation[11]] in said
    assert subjects[by_relation[m - 1]] in said
    assert re.search(r"p −?\d+\.\d\d, back −?\d+\.\d\d", said)
    assert tab.errors + tab.outside == []


COLOUR = """([x, y]) => { const c = document.querySelector("canvas"), s = devicePixelRatio;
  return [...c.getContext("2d").getImageData(Math.round(x * s), Math.round(y * s), 1, 1).data]; }"""


def test_colours_follow_the_sign_and_the_scheme(tab, shipped, by_relation):
    m = len(by_relation)
    tab.open("#edit=France&read=France")
    found = {}
    for theme in ("light", "dark"):
        tab.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        tab.page.wait_for_timeout(50)
        width = tab.page.evaluate("document.querySelector('canvas').clientWidth") / m
        P = shipped[1][0]["P"][0][np.ix_(by_relation, by_relation)]
        away = [np.abs(P + off).argmin() for off in (0.5, 0, -0.5)]
        places = [np.unravel_index(k, P.shape) for k in away]
        found[theme] = [
            tab.page.evaluate(COLOUR, [float((x + 0.5) * width), float((y + 0.5) * width)]) for y, x in places
        ]
        (below, zero, above) = found[theme]
        assert below[2] > below[0], "not blue below zero"
        assert above[0] > above[2], "not red above zero"
        assert max(zero[:3]) - min(zero[:3]) < 30
    assert min(found["light"][1][:3]) > 220
    assert max(found["dark"][1][:3]) < 60
    tab.page.evaluate("document.documentElement.dataset.theme = 'light'")


def test_it_fits_a_phone(tab):
    tab.open()
    tab.page.set_viewport_size({"width": 360, "height": 800})
    tab.page.wait_for_function("document.documentElement.scrollWidth <= 360")
    assert tab.page.locator("canvas").bounding_box()["width"] <= 360
    assert tab.page.evaluate("document.querySelector('canvas').clientWidth") > 280


ACCESSIBLE = """() => {
  const wrong = [];
  const name = e => e.getAttribute("aria-label") || (e.labels && [...e.labels].map(l => l.textContent.trim()).join(" "))
    || (e.getAttribute("aria-labelledby") && document.getElementById(e.getAttribute("aria-labelledby"))?.textContent)
    || e.textContent.trim();
  for (const e of document.querySelectorAll("main :is(select, input, button, canvas, [role=img], form, section)"))
    if (!name(e)) wrong.push("no name: " + e.outerHTML.slice(0, 80));
  for (const e of document.querySelectorAll("main canvas"))
    if (!e.getAttribute("role") || e.tabIndex < 0) wrong.push("a canvas without a role or out of reach");
  for (const a of ["aria-describedby", "for"]) for (const e of document.querySelectorAll(`main [${a}]`))
    if (!document.getElementById(e.getAttribute(a))) wrong.push(a + " leads nowhere: " + e.getAttribute(a));
  for (const e of document.querySelectorAll("main table"))
    if (!e.caption?.textContent || !e.querySelector("th") || e.querySelector("th:not([scope])"))
      wrong.push("a table without a caption or scopes");
  for (const e of document.querySelectorAll("main [tabindex]")) if (e.tabIndex > 0) wrong.push("tabindex above 0");
  const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
  if (new Set(ids).size !== ids.length) wrong.push("an id twice");
  if (!document.querySelector("main [role=status]")) wrong.push("nothing announces a change");
  return wrong;
}"""


def test_whoever_cannot_see_it_can_use_it(tab):
    tab.open()
    assert tab.page.evaluate(ACCESSIBLE) == []
    assert tab.page.get_attribute(".explorer-depth", "aria-label").startswith("p of this pair by layer")
    tab.page.evaluate("document.querySelector('canvas').removeAttribute('aria-label')")
    tab.page.evaluate("document.querySelector('caption').remove()")
    assert len(tab.page.evaluate(ACCESSIBLE)) == 2


def test_starting_points_lead_to_what_they_say(tab):
    tab.open()
    starts = tab.page.locator("button[data-explorer]")
    assert starts.count() >= 3
    for place in range(starts.count()):
        starts.nth(place).click()
        wanted = starts.nth(place).get_attribute("data-explorer")
        tab.page.wait_for_function("wanted => location.hash.includes(wanted)", arg=re.search(r"layer=\d+", wanted)[0])
    tab.page.wait_for_function("document.querySelector('#explorer-order').value === 'length'")
    assert tab.errors + tab.outside == []


def test_an_old_browser_is_told(browser, page_file):
    context = browser.new_context(offline=True)
    context.add_init_script("delete window.DecompressionStream")
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.wait_for_function("document.querySelector('[role=status]').textContent.includes('cannot unpack')")
    assert page.locator("[role=status]").bounding_box()["width"] > 100, "only a screen reader hears of it"
    context.close()


def test_the_header_is_json_a_browser_reads():
    line = (STATIC / "data.js").read_text(encoding="utf8").splitlines()[1]
    header = json.loads(line.split(" = ", 1)[1].removesuffix(";"))
    assert header["steps"] == explorer.STEPS
    assert paths.data_dir() == BOOK / "data"
