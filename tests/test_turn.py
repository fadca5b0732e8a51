"""The pictures to turn: what they compute is the library's, and they work from disk, by mouse, touch and keyboard."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import OfflineTab

import turn
from superposition.linear import capacity, overlap, rules
from superposition.linear.memory import LinearMemory
from superposition.stats.response import LogLogistic
from superposition.studies.toy_memory import squared_among_stored
from superposition.toys.memory import feedback_law

STATIC = Path(__file__).parents[1] / "book" / "_static"
KINDS = ("keys", "law", "memory")
ALTERNATIVE = "Two keys, a law and a memory, in words."
LIMIT = 32_000
#: What the theme gives a page, as far as the pictures use it.
THEME = """:root{--pst-color-text-base:#222832;--pst-color-text-muted:#48566b;--pst-color-background:#fff;
--pst-color-border:#d1d5da} html[data-theme=dark]{--pst-color-text-base:#ced6dd;--pst-color-text-muted:#9ca4af;
--pst-color-background:#14181e;--pst-color-border:#48566b} *{box-sizing:border-box}
body{margin:16px;font:16px system-ui;color:var(--pst-color-text-base);background:var(--pst-color-background)}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("turn") / "page.html"
    text = (STATIC / "custom.css").read_text(encoding="utf8")
    divs = "".join(f'<h2>{kind}</h2><div class="turn" data-turn="{kind}"><p>{ALTERNATIVE}</p></div>' for kind in KINDS)
    out.write_text(
        '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Turn</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{text}{THEME}</style><link rel="stylesheet" href="{(STATIC / "turn" / "turn.css").as_uri()}"></head>'
        f"<body><main><h1>Turn</h1>{divs}</main>"
        f'<script src="{(STATIC / "turn" / "turn.js").as_uri()}"></script></body></html>',
        encoding="utf8",
    )
    return out


class Tab(OfflineTab):
    """The page, and what a reader sees and does."""

    def __init__(self, browser, path: Path, **options):
        super().__init__(browser, height=1000, **options)
        self.path = path

    def open(self):
        self.page.set_viewport_size({"width": 1280, "height": 1000})
        self.page.goto(self.path.as_uri())
        self.page.wait_for_function("document.querySelectorAll('.turn[data-ready] svg[viewBox]').length === 5")
        return self

    def ask(self, call: str, *arguments):
        return self.page.evaluate(f"a => window.turn.{call}(...a)", list(arguments))

    def said(self, kind: str) -> str:
        return self.page.inner_text(f"[data-turn={kind}] [role=status]")

    def slider(self, kind: str, name: str):
        return self.page.locator(f"[data-turn={kind}]").get_by_label(re.compile(name))

    def set(self, kind: str, name: str, value: float) -> None:
        self.slider(kind, name).fill(str(value))

    def labels(self, kind: str) -> list[str]:
        pictures = self.page.locator(f"[data-turn={kind}] svg")
        return [pictures.nth(i).get_attribute("aria-label") for i in range(pictures.count())]


@pytest.fixture(scope="module")
def tab(browser, page_file):
    made = Tab(browser, page_file, reduced_motion="reduce")
    yield made.open()
    made.context.close()


@pytest.fixture
def fresh(tab):
    yield tab.open()
    assert tab.errors + tab.outside == []


def numbers(sentence: str) -> list[float]:
    return [float(x.replace("−", "-").replace(",", "")) for x in re.findall(r"−?\d[\d,]*\.?\d*", sentence)]


# The formulas


def test_overlap_is_the_librarys(tab):
    rng = np.random.default_rng(0)
    for d_m in (2, 5, 12):
        K = rng.normal(size=(d_m, 3 * d_m))
        C = K @ K.T
        P = overlap.superposition_matrix(K[:, :4], C)
        for i, j in ((0, 1), (1, 0), (2, 3)):
            assert tab.ask("overlap", K[:, i].tolist(), K[:, j].tolist(), C.tolist()) == pytest.approx(
                P[i, j], rel=1e-9
            )


@pytest.mark.parametrize(("degrees", "ratio"), [(0, 1), (37, 0.5), (60, 1.5), (90, 2), (135, 2.25), (180, 0.7)])
def test_both_shares_of_two_keys_are_what_an_edit_does(tab, degrees, ratio):
    turned = np.radians(degrees)
    K = np.array([[1, 0], [ratio * np.cos(turned), ratio * np.sin(turned)]]).T
    told = tab.ask("shares", degrees, ratio)
    for (i, j), share in zip(((0, 1), (1, 0)), told, strict=True):
        memory = LinearMemory(np.ones((3, 2)), np.eye(2))
        memory.edit(K[:, i], np.array([1.0, -2.0, 3.0]))
        moved = memory.measured_interference(K[:, j])
        np.testing.assert_allclose(moved, share * memory.residuals[:, 0], atol=1e-12)


def test_orthogonal_keys_share_exactly_nothing(tab):
    assert tab.ask("shares", 90, 1.7) == [0, 0]


@pytest.mark.parametrize("arm", ["anchored", "beforehand", "moving"])
def test_drift_and_loss_are_the_librarys(tab, arm):
    for n, c, q in ((1, 0.5, 0.05), (30, 2.4, 0.004), (200, 3.5, 0.02), (1000, 1, 0.0005)):
        R = float(np.sqrt(q) * feedback_law(arm, n, c, q))  # over the answer: a = 1
        assert tab.ask("drift", arm, n, c, q) == pytest.approx(R, rel=1e-9)
        for R_0, b in ((0.2, 1.74), (2, 1.5)):
            assert tab.ask("lost", R, R_0, b) == pytest.approx(LogLogistic(R_0, b).share(R), rel=1e-9)


def test_one_edit_drifts_by_c_squared_q_for_all_targets(tab):
    for arm in ("anchored", "beforehand", "moving"):
        assert tab.ask("drift", arm, 1, 2, 0.01) ** 2 == pytest.approx(0.04)


@pytest.mark.parametrize("arm", ["anchored", "beforehand", "moving"])
def test_after_a_lifetime_the_share_is_lost(tab, arm):
    c, q, R_0, b = 2.4, 0.004, 2, 1.5
    for share in (0.1, 0.25, 0.5):
        n = tab.ask("lifetime", arm, share, c, q, R_0, b)
        assert LogLogistic(R_0, b).share(np.sqrt(q) * feedback_law(arm, n, c, q)) == pytest.approx(share, rel=1e-9)
        if arm == "anchored":
            assert n == pytest.approx(LogLogistic(R_0, b).dose(share) ** 2 / (c**2 * q))


def test_what_targets_found_beforehand_never_reach_has_no_lifetime(tab):
    c, q = 1, 0.01
    assert tab.page.evaluate(f"turn.lifetime('beforehand', 0.5, {c}, {q}, 1.01, 1.5) === Infinity")
    assert tab.ask("lifetime", "beforehand", 0.5, c, q, 0.99, 1.5) > 100


def drawn(tab, seed, N, d):
    facts = tab.page.evaluate(f"(({{K, V}}) => [K, V].map(x => x.map(c => [...c])))(turn.draw({seed}, {N}, {d}))")
    return tuple(np.array(columns).T for columns in facts)


@pytest.mark.parametrize(("N", "d"), [(2, 16), (16, 16), (17, 16), (60, 64), (90, 64), (256, 128)])
def test_the_memory_is_the_librarys_on_the_same_facts(tab, N, d):
    K, V = drawn(tab, 3, N, d)
    found = tab.page.evaluate(f"(() => {{ const m = turn.memory(3, {N}, {d}); return {{...m, p: [...m.p]}}; }})()")
    units = K / np.linalg.norm(K, axis=0)
    assert found["outer"] == pytest.approx(np.sum((V @ units.T @ units - V) ** 2) / np.sum(V**2), rel=1e-9)
    W = rules.least_squares(K, V) if N > d else V @ np.linalg.pinv(K)
    assert found["fitted"] == pytest.approx(np.sum((W @ K - V) ** 2) / np.sum(V**2), rel=1e-6, abs=1e-9)
    p = np.array(found["p"])
    if N <= d:
        assert (p == 0).all()
        assert capacity.leverages(K) == pytest.approx(np.ones(N))
    else:
        P = overlap.superposition_matrix(K, K @ K.T)
        np.testing.assert_allclose(p, P[~np.eye(N, dtype=bool)], rtol=1e-6, atol=1e-8)


def test_the_draws_are_normal_and_facts_are_added_not_replaced(tab):
    K, V = drawn(tab, 1, 256, 128)
    for x in (K, V):
        assert abs(x.mean()) < 4 / np.sqrt(x.size)
        assert abs(x.std() - 1) < 4 / np.sqrt(2 * x.size)
        assert abs(np.mean(x**4) - 3) < 4 * np.sqrt(96 / x.size)
    correlation = np.corrcoef(K.T)[np.triu_indices(256, 1)]
    assert np.sqrt(np.mean(correlation**2)) == pytest.approx(1 / np.sqrt(128), rel=0.05)
    fewer, _ = drawn(tab, 1, 100, 64)
    np.testing.assert_array_equal(fewer, K[:64, :100])


@pytest.mark.parametrize(("N", "d"), [(24, 16), (40, 64), (96, 64), (200, 64), (256, 128)])
def test_what_is_measured_comes_near_what_is_expected(tab, N, d):
    mean = tab.page.evaluate(
        f"""(() => {{ const runs = [...Array(12).keys()].map(s => turn.memory(s + 1, {N}, {d}));
        const mean = f => runs.reduce((sum, r) => sum + f(r), 0) / runs.length;
        return [mean(r => r.outer), mean(r => r.fitted), mean(r => r.p.reduce((s, x) => s + x * x, 0) / r.p.length)];
        }})()"""
    )
    expected = [tab.ask(name, N, d) for name in ("noise", "missing", "spread")]
    assert expected[:2] == pytest.approx([(N - 1) / d, max(0, 1 - d / N)])
    assert expected[2] ** 2 == pytest.approx(squared_among_stored(d, N) / d if N > d else 0)
    assert mean == pytest.approx([*expected[:2], expected[2] ** 2], rel=0.12, abs=1e-9)


# The page


def test_page_and_script_know_the_same_pictures():
    script = (STATIC / "turn" / "turn.js").read_text(encoding="utf8")
    (listed,) = re.findall(r"^const KINDS = \{(.*)\};$", script, re.MULTILINE)
    assert tuple(re.findall(r"(\w+): \[", listed)) == turn.KINDS == tuple(KINDS)


def test_the_files_are_small_and_stand_alone():
    files = [STATIC / "turn" / name for name in ("turn.js", "turn.css")]
    assert sum(file.stat().st_size for file in files) < LIMIT
    for file in files:
        text = file.read_text(encoding="utf8")
        assert not re.search(r"@import|url\(|fetch\(|XMLHttp|import\s|https?://", text)


def test_all_three_mount_and_say_what_they_show(fresh):
    keys, law, memory = map(fresh.said, KINDS)
    assert numbers(keys)[:3] == [60, 2, 1.5]
    assert "adds 0.75 of its residual to the answer of fact 2" in keys
    assert "adds 0.33 of its own to the answer of fact 1" in keys
    share = LogLogistic(2, 1.5).share(np.sqrt(30 * 2.4**2 * 0.004))
    assert f"{share:.0%}".replace("%", " %") in law
    assert numbers(memory)[:2] == [96, 64]
    assert [len(fresh.labels(kind)) for kind in KINDS] == [2, 1, 2]


def test_a_picture_mounts_once(fresh):
    fresh.page.evaluate("document.dispatchEvent(new Event('DOMContentLoaded'))")
    fresh.page.add_script_tag(path=STATIC / "turn" / "turn.js")
    assert fresh.page.locator(".turn svg").count() == 5


def test_the_start_can_be_set_in_the_page(browser, page_file, tmp_path):
    path = tmp_path / "page.html"
    text = page_file.read_text(encoding="utf8")
    path.write_text(text.replace('data-turn="keys"', 'data-turn="keys" data-angle="90"'), encoding="utf8")
    tab = Tab(browser, path).open()
    assert "orthogonal" in tab.said("keys")
    tab.context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_keyboard_changes_sentence_and_picture(fresh, kind):
    sliders = fresh.page.locator(f"[data-turn={kind}] input[type=range]")
    for i in range(sliders.count()):
        before = fresh.said(kind), fresh.labels(kind), sliders.nth(i).get_attribute("aria-valuetext")
        sliders.nth(i).focus()
        for _ in range(5):
            fresh.page.keyboard.press("ArrowRight")
        after = fresh.said(kind), fresh.labels(kind), sliders.nth(i).get_attribute("aria-valuetext")
        assert all(a != b for a, b in zip(before, after, strict=True))


def test_targets_are_chosen_by_keyboard(fresh):
    said = [fresh.said("law")]
    fresh.page.get_by_role("radio", name="anchored").focus()
    for _ in range(2):
        fresh.page.keyboard.press("ArrowRight")
        said.append(fresh.said("law"))
    assert "beforehand" in said[1]
    assert "moving ball" in said[2]
    drifts = [numbers(sentence)[1] for sentence in said]
    assert drifts[1] < drifts[0] < drifts[2]


def test_the_overlap_of_keys_is_asymmetric_unless_they_are_equally_long(fresh):
    page = fresh.page
    page.get_by_role("button", name="Equally long").click()
    assert "same both ways" in fresh.said("keys")
    fresh.set("keys", "Length", 40)
    assert "shorter whitened key, k̃1," in fresh.said("keys").replace("\n", "")
    page.get_by_role("button", name="Swap").click()
    assert "shorter whitened key, k̃2," in fresh.said("keys").replace("\n", "")
    page.get_by_role("button", name="Right angle").click()
    assert "both overlaps are 0" in fresh.said("keys")


def pull(tab, degrees, ratio):
    """Drag the tip of the second key to an angle and a length."""
    tab.page.locator(".turn .handle").scroll_into_view_if_needed()
    from_x, from_y, unit = tab.page.evaluate(
        """() => { const svg = document.querySelector("[data-turn=keys] svg"), box = svg.getBoundingClientRect();
        const unit = (box.width - 32) / 4.5; return [box.x + box.width / 2, box.y + unit * 2.25 + 26, unit]; }"""
    )
    handle = tab.page.locator(".turn .handle").bounding_box()
    tab.page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    tab.page.mouse.down()
    turned = np.radians(degrees)
    goal = from_x + unit * ratio * np.cos(turned), from_y - unit * ratio * np.sin(turned)
    tab.page.mouse.move(*goal, steps=5)
    tab.page.mouse.up()


@pytest.mark.parametrize(("degrees", "ratio"), [(30, 1), (120, 2), (75, 0.6)])
def test_the_tip_can_be_dragged(fresh, degrees, ratio):
    pull(fresh, degrees, ratio)
    assert float(fresh.slider("keys", "Angle").input_value()) == pytest.approx(degrees, abs=1)
    length = 2.25 ** (float(fresh.slider("keys", "Length").input_value()) / 40)
    assert length == pytest.approx(ratio, rel=0.03)
    there, back = fresh.ask("shares", float(fresh.slider("keys", "Angle").input_value()), length)
    assert [f"{there:.2f}", f"{back:.2f}"] == [f"{x:.2f}" for x in numbers(fresh.labels("keys")[1])[2:8:3]]
    fresh.page.mouse.move(10, 10)
    still = fresh.said("keys")
    fresh.page.mouse.move(600, 300)
    assert fresh.said("keys") == still, "it follows after the button is up"


def test_facts_are_added_by_the_button(fresh):
    for _ in range(2):
        fresh.page.get_by_role("button", name="Add 16").click()
    assert numbers(fresh.said("memory"))[0] == 128
    first = fresh.said("memory")
    fresh.page.get_by_role("button", name="Draw other").click()
    assert fresh.said("memory") != first
    fresh.set("memory", "Facts", 64)
    assert "each can be edited alone" in fresh.said("memory")


def test_adding_moves_where_motion_is_welcome_and_ends_at_the_same(browser, page_file):
    tab = Tab(browser, page_file, reduced_motion="no-preference").open()
    tab.page.get_by_role("button", name="Add 16").click()
    tab.page.wait_for_function(
        "document.querySelector('[data-turn=memory] [role=status]').textContent.startsWith('112 ')"
    )
    assert tab.page.locator("[data-turn=memory] .trail.one").count() == 17
    assert tab.errors + tab.outside == []
    tab.context.close()


def test_it_fits_a_phone_at_every_setting(fresh):
    fresh.page.set_viewport_size({"width": 360, "height": 800})
    for angle, length in ((0, -40), (60, 20), (150, 40), (180, 40)):
        fresh.set("keys", "Angle", angle)
        fresh.set("keys", "Length", length)
        fresh.page.wait_for_function("document.documentElement.scrollWidth <= 360")
    for d in (16, 128):
        fresh.set("memory", "Width", d)
        fresh.set("memory", "Facts", 256)
    outside = fresh.page.evaluate(
        """() => [...document.querySelectorAll(".turn svg text")].filter(e => { const box = e.getBoundingClientRect(),
        own = e.closest(".turn").getBoundingClientRect(); return box.left < own.left || box.right > own.right; })
        .map(e => e.textContent)"""
    )
    assert outside == []


OVERLAPPING = """() => {
  const wrong = [], shared = (a, b, low, high) => Math.min(a[high], b[high]) - Math.max(a[low], b[low]);
  for (const svg of document.querySelectorAll(".turn svg")) {
    const texts = [...svg.querySelectorAll("text")].filter(e => e.textContent).map(e => [e, e.getBoundingClientRect()]);
    for (const [i, [e, a]] of texts.entries()) for (const [f, b] of texts.slice(i + 1))
      if (shared(a, b, "left", "right") > 2 && shared(a, b, "top", "bottom") > 5)
        wrong.push(e.textContent + " / " + f.textContent);
  }
  return wrong;
}"""


@pytest.mark.parametrize("width", [360, 1280])
def test_no_label_lies_on_another(fresh, width):
    fresh.page.set_viewport_size({"width": width, "height": 1000})
    found = []
    for angle in range(0, 181, 15):
        for length in (-40, -20, 0, 20, 40):
            fresh.set("keys", "Angle", angle)
            fresh.set("keys", "Length", length)
            found += [f"{angle}, {length}: {fault}" for fault in fresh.page.evaluate(OVERLAPPING)]
    for d, N in ((16, 2), (16, 256), (64, 96), (128, 130), (128, 256)):
        fresh.set("memory", "Width", d)
        fresh.set("memory", "Facts", N)
        found += fresh.page.evaluate(OVERLAPPING)
    for name, value in (("Edits", 120), ("Size", 4), ("Mean", 100), ("Drift", 0.2), ("Size", 0.5), ("Edits", 0)):
        fresh.set("law", name, value)
        found += fresh.page.evaluate(OVERLAPPING)
    assert found == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_assistive_software_finds_no_fault(fresh, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    fresh.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    faults = axe.run(fresh.page, options={"preload": False, "resultTypes": ["violations"]}).response["violations"]
    assert [(fault["id"], node["html"][:100]) for fault in faults for node in fault["nodes"]] == []


CONTRAST = """() => {
  const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const light = colour => { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0); };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...[...document.querySelectorAll(".turn svg text")].map(e => light(getComputedStyle(e).fill))
    .map(v => (Math.max(v, ground) + 0.05) / (Math.min(v, ground) + 0.05)));
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_in_the_pictures_stand_out(fresh, theme):
    fresh.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    assert fresh.page.evaluate(CONTRAST) >= 4.5


def test_without_javascript_the_words_stay(browser, page_file):
    context = browser.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    words = page.locator(".turn p")
    assert words.all_inner_texts() == [ALTERNATIVE] * 3
    assert all(words.nth(i).bounding_box()["height"] > 10 for i in range(3))
    context.close()


def test_mounted_the_words_are_kept_for_those_who_hear(fresh):
    assert fresh.page.locator(".turn-words").all_text_contents() == [ALTERNATIVE] * 3
    assert all(fresh.page.locator(".turn-words").nth(i).bounding_box()["height"] <= 1 for i in range(3))
