"""The page in a real browser: nothing is asked of a network, everything is reached by keyboard and can be read."""

import random
import shutil
import subprocess

import pytest

from tests.report_runs import METHODS, samples, summary, write_run
from trimtab.report.page.page import make_page
from trimtab.report.page.reading import read_report
from trimtab.report.page.saving import save_page

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)"),
]
SCHEMES = ("light", "dark")

CONTRASTS = """elements => {
  const luminance = text => {
    const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map(Number)
      .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return elements.map(element => {
    let ground = element;
    while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
    const pair = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor].map(luminance).sort();
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  });
}"""
"""The contrast of each element's text with the ground it stands on."""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The pages `one` and `both`, of made-up runs."""
    home = tmp_path_factory.mktemp("pages")
    second = summary(1, "Another run") | {"samples": samples(random.Random(2), prompts=1)}
    reports = [read_report(write_run(home / "a")), read_report(write_run(home / "b", second))]
    paths = {"one": home / "one.html", "both": home / "both.html"}
    save_page(make_page(reports[:1]).html, paths["one"])
    save_page(make_page(reports).html, paths["both"])
    return paths


@pytest.fixture
def visit(browser, files):
    """Opens a page and, when the test is over, checks that it asked for nothing and complained of nothing."""
    contexts, complaints, requests = [], [], []

    def call(name="one", *, width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(files[name].as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("width", [360, 390, 700, 830, 1119, 1280])
@pytest.mark.parametrize("name", ["one", "both"])
def test_the_page_never_scrolls_sideways(visit, name, width):
    page = visit(name, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    shown = page.locator("figure svg[role=img]:visible")
    boxes = shown.evaluate_all("all => all.map(e => [e.getBoundingClientRect().width, e.viewBox.baseVal.width])")
    assert len(boxes) == 3 * (2 if name == "both" else 1)
    for drawn, own in boxes:
        assert drawn == own <= width - 32 + 1e-6  # never shrunk, never cut


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("media", ["screen", "print"])
def test_every_text_stands_out_from_its_ground(visit, scheme, media):
    page = visit(color_scheme=scheme)
    page.emulate_media(media=media, color_scheme=scheme)
    for selector in (".tokens i", ".heat td", ".warning", ".missing b", ".note", ".interval", ".key", "dt", "tbody th"):
        contrasts = page.locator(selector).evaluate_all(CONTRASTS)
        assert len(contrasts) > 0, selector
        assert min(contrasts) >= 4.5, selector


def test_a_scheme_can_be_chosen_and_is_remembered(visit):
    page = visit(color_scheme="light")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_label("Colours").select_option("dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
    page.get_by_label("Colours").select_option("as the system")
    assert page.evaluate(ground) == light


def test_a_browser_that_stores_nothing_shows_the_page_all_the_same(visit):
    page = visit()
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('no') }})")
    page.reload()
    page.get_by_label("Colours").select_option("dark")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.locator("article:visible").count() > 0


def test_tab_reaches_every_control_and_shows_where_it_is(visit):
    page = visit()
    wanted = page.evaluate(
        """[...document.querySelectorAll("a[href], button, select, input, summary, [tabindex='0']")]
        .filter(e => e.checkVisibility()).length"""
    )
    reached = set()
    for _ in range(wanted + 60):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => { const e = document.activeElement; if (e === document.body) return null;
            const all = [...document.querySelectorAll("*")]; const s = getComputedStyle(e);
            return [all.indexOf(e), s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1,
                    e.matches("a[href], button, select, input, summary, [tabindex='0']")]; }"""
        )
        if found is not None:
            assert found[1], "no visible focus"
            if found[2]:
                reached.add(found[0])
    assert len(reached) == wanted > 30


def test_texts_are_chosen_by_keyboard(visit):
    page = visit()
    box = page.locator("[data-browser=samples]")
    assert box.locator(".group:visible").count() == 1
    assert box.locator("article:visible").count() == 8
    box.get_by_label("Concept").focus()
    page.keyboard.press("ArrowDown")
    assert box.locator(".group:visible").get_attribute("data-concept") == "sea"
    box.get_by_label("Direction").focus()
    page.keyboard.type("suppress")
    assert box.locator("article:visible").count() == 4
    assert {*box.locator("article:visible").evaluate_all("all => all.map(e => e.dataset.way)")} == {"suppress"}
    assert box.get_by_role("status").inner_text() == "4 prompts shown"
    box.get_by_label("das", exact=True).focus()
    page.keyboard.press("Space")
    labels = box.locator("article:visible section:visible").evaluate_all("all => all.map(e => e.dataset.label)")
    assert {*labels} == {*METHODS[:5], "unsteered"} - {"das"}


def test_a_probe_is_chosen_and_its_tokens_are_read_by_keyboard(visit):
    page = visit()
    box = page.locator("[data-browser=probes]")
    assert box.locator(".group:visible").count() == 1
    box.get_by_label("Vector").select_option("diffmean")
    group = box.locator(".group:visible")
    assert group.get_attribute("data-label") == "diffmean"
    text = group.locator(".tokens").first
    text.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    token = text.locator("i").nth(1)
    reading = group.locator(".reading").first.inner_text()
    assert reading == f"{token.inner_text().strip()}: {token.get_attribute('title')}"
    page.keyboard.press("End")
    assert group.locator(".reading").first.inner_text().startswith("end.:")


def test_a_heading_sorts_its_table(visit):
    page = visit()
    table = page.locator("main table").first
    labels = "rows => rows.map(row => row.cells[0].textContent)"
    before = table.locator("tbody tr").evaluate_all(labels)
    heading = table.get_by_role("button", name="KL on unrelated text")
    heading.focus()
    page.keyboard.press("Enter")
    values = table.locator("tbody tr").evaluate_all("rows => rows.map(row => Number(row.cells[3].dataset.value))")
    assert values == sorted(values)
    assert table.locator("th[aria-sort=ascending]").count() == 1
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert table.locator("tbody tr").evaluate_all(labels) == before


def test_without_scripts_it_is_a_long_list_that_opens(visit):
    page = visit(java_script_enabled=False)
    assert page.locator(".controls:visible").count() == 0
    assert page.locator("article:visible").count() == 0
    page.locator("[data-browser=samples] summary").nth(1).click()
    assert page.locator("article:visible").count() == 8


def test_it_is_printed_in_light_colours_without_controls(visit, tmp_path):
    page = visit(color_scheme="dark")
    page.get_by_label("Colours").select_option("dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".controls:visible, .contents:visible, #theme:visible").count() == 0
    assert page.locator("figure .wide:visible").count() == 3
    page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    if (reader := shutil.which("pdftotext")) is not None:
        text = subprocess.run([reader, tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True).stdout
        assert "Effect and side effects" in text
        assert "configuration hash" in text
