"""The page in a real browser: it renders, reacts, and loads nothing from outside."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from tfcompress.page import write_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
# What a recipe's author might call things.
EVIL = "<script>document.title='broken'</script>"


def chromium():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.access(MAC, os.X_OK):
        found = MAC
    # No skip: without a browser nobody knows whether the page works.
    assert found, "There is no Chromium: run pipelines/fetch_chromium.sh"
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=chromium(),
            headless=True,
            args=FLAGS,
            viewport={"width": 1280, "height": 900},
        )
        yield context
        context.close()


@pytest.fixture
def show(browser, tmp_path):
    """Opens the page of run folders; fails if it complains or asks for anything."""
    pages, complaints, requests = [], [], []

    def open_page(*folders, width=1280, **media):
        path = tmp_path / "report.html"
        write_page(folders, path)
        page = browser.new_page()
        # Five megabytes of script take long on a machine that has other work.
        page.set_default_timeout(180_000)
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))

        def answer(route):
            requests.append(route.request.url)
            if route.request.url == path.as_uri():
                route.continue_()
            else:
                route.abort()

        page.route("**/*", answer)
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(**media)
        page.goto(path.as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('.chart')].every("
            "c => c.querySelector('.main-svg'))"
        )
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []
    assert all(url == (tmp_path / "report.html").as_uri() for url in requests)
    assert len(requests) == len(pages)


def test_it_renders_whole(show, run_folder):
    page = show(run_folder())
    assert page.title() == "tfcompress: quickstart"
    # Files and rounds, each over MACs and over latency; two pairs of curves.
    assert page.locator(".chart .scatterlayer").count() == 6
    assert page.locator("figure img").count() == 2
    for image in page.locator("figure img").all():
        assert image.evaluate("i => i.complete && i.naturalWidth") == 8
    # Rolled back: drawn as a cross, and listed in the legend.
    names = page.locator(".legendtext").all_text_contents()
    assert names.count("rolled back") == 2
    widths = page.locator(".bar .before").evaluate_all(
        "bars => bars.map(b => b.getBoundingClientRect().width)"
    )
    assert max(widths) > 100 and min(widths) > 0


def test_the_parts_react(show, run_folder):
    page = show(run_folder())
    choice = page.locator(".choice[data-of] button")
    assert choice.all_inner_texts()[-1] == "compressed int8"
    assert page.locator(".cards:visible").count() == 1
    assert page.get_by_text("12.59x smaller").is_visible()
    choice.filter(has_text="compressed float32").click()
    assert not page.get_by_text("12.59x smaller").is_visible()
    assert page.get_by_text("6.01x smaller").is_visible()

    rows = page.locator("#run1-layers tbody tr:visible")
    every = rows.count()
    page.get_by_role("button", name="only the layers that changed").click()
    assert 0 < rows.count() < every
    assert all(row.get_attribute("data-changed") == "yes" for row in rows.all())
    page.get_by_role("button", name="only the layers that changed").click()
    assert rows.count() == every

    def column(index):
        values = "rows => rows.map(r => Number(r.cells[%d].dataset.value || -1))"
        return rows.evaluate_all(values % index)

    head = page.locator("#run1-layers thead th").nth(3)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(3) == sorted(column(3), reverse=True)
    head.locator("button").click()
    assert column(3) == sorted(column(3))

    # Plotly's own: a point tells its figures, a click in the legend hides a line.
    chart = page.locator(".chart").nth(2)
    chart.scroll_into_view_if_needed()
    point = chart.locator(".scatterlayer .point").first.bounding_box()
    page.mouse.move(point["x"] + 4, point["y"] + 4)
    chart.locator(".hoverlayer .hovertext").first.wait_for()
    lines = chart.locator(".scatterlayer .trace")
    before = lines.count()
    chart.locator(".legendtoggle").first.click()
    page.wait_for_function(
        "n => document.querySelectorAll('.chart')[2]"
        ".querySelectorAll('.scatterlayer .trace').length < n",
        arg=before,
    )
    page.get_by_text("SHA-256 of what the stages made").first.click()
    assert page.locator("code", has_text="2714d0df").is_visible()


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_screen(show, run_folder, width):
    page = show(run_folder("one"), run_folder("two"), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for chart in page.locator(".chart .main-svg:first-child").all():
        assert chart.bounding_box()["width"] <= width


def luminance(colour):
    red, green, blue = (int(x) for x in colour[4:-1].split(",")[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(show, run_folder, scheme):
    page = show(run_folder(), color_scheme=scheme)
    ground = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (ground < 0.2) == (scheme == "dark")
    for place, key in (("body", "color"), (".chart svg text.ytitle", "fill")):
        colour = page.locator(place).first.evaluate(f"e => getComputedStyle(e).{key}")
        assert abs(luminance(colour) - ground) > 0.6, place


def test_print(show, run_folder, tmp_path):
    page = show(run_folder(), color_scheme="dark")
    content = page.pdf(format="A4", print_background=True)
    assert content.startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert luminance(ground) > 0.99
    assert not page.locator(".choice").first.is_visible()
    assert page.locator("pre", has_text="function_matching").is_visible()
    widths = page.locator(".chart .main-svg:first-child").evaluate_all(
        "charts => charts.map(c => c.getBoundingClientRect().width)"
    )
    assert max(widths) <= 700
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")


def test_names_stay_names(show, run_folder):
    def rename(report):
        report["recipe"]["name"] = EVIL
        figures = {one["stage"]: one["figures"] for one in report["stages"]}
        for row in figures["evaluate"]["files"]:
            row["name"] = f"<b>{row['name']}</b> {EVIL}"

    page = show(run_folder(change=rename))
    assert page.title() == f"tfcompress: {EVIL}"
    assert EVIL in page.locator("h1").inner_text()


def test_an_old_run_folder_renders_too(show, old_folder):
    page = show(old_folder)
    assert page.get_by_text("This run kept no images").is_visible()
