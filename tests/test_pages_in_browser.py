"""Every page in a browser: no errors, no requests, nothing axe objects to."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from axe_core_python.selenium import Axe
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import framework
from framework.sweeping import results, space
from framework.sweeping.ledger import Ledger
from framework.sweeping.space import Search
from framework.sweeping.sweep import Asked

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.page,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"
    ),
]

SCRIPT = "<script>alert(1)<|script>"
QUICK = [
    "classifier.backbone = @tiny_cnn",
    "classifier.image_size = 32",
    "classifier.freeze = 'none'",
    "train.feature_views = None",
    "train.epochs = 2",
    "train.batch_size = 16",
]


@pytest.fixture(scope="module")
def browser():
    options = Options()
    options.binary_location = CHROMIUM
    # In a container Chromium's sandbox can't be had.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


def folder(place, names, each, size=(60, 30)):
    rng = np.random.default_rng(0)
    for label, name in enumerate(names):
        (place / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
            pixels[:, :, label % 3] += np.uint8(190 * label // len(names))
            file = f"{number}.png" if number else 'it\'s "one"\nof <b>.png'
            (place / name / file).write_bytes(tf.io.encode_png(pixels).numpy())
    return place


def swept(place):
    """The page of a sweep whose trials are told, and not trained."""
    (place / "locks").mkdir(parents=True)
    search = Search(
        {
            "keras.Adam.learning_rate": space.log_uniform(1e-4, 1e-2),
            "softmax_head.hidden": space.choice([[], [64], ["$x$<b>"]]),
        },
        warmup_epochs=2,
    )
    ledger = Ledger(str(place), search, {})
    ledger.provide(12)
    for number in range(11):
        trial = ledger.take()
        figures = [0.5 + epoch * (number % 5) / 40 for epoch in range(4)]
        if number == 1:
            trial.fail(SCRIPT)
        elif all(trial.report(e, f) for e, f in enumerate(figures, 1)):
            trial.complete(figures[-1], 4, figures)
        else:
            trial.prune()
        trial.let_go()
    trial = ledger.take()
    trial.let_go()
    asked = Asked("gin/smoke.gin", (), (), str(place), search, {}, "")
    return results.write(asked, ledger)[0].page


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Of each kind a page, by name."""
    base = tmp_path_factory.mktemp("pages")
    # A folder's name can't have a slash.
    many = folder(base / "many", [SCRIPT, *map(str, range(29))], 6)
    two = folder(base / "two", ["cat & 'co'", "dog"], 16)
    root = "ImageFolder.root = {!r}".format
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        thirty = framework.run("gin/folder.gin", [*QUICK, root(str(many))])
        runs = [
            framework.run(
                "gin/folder.gin",
                [
                    *QUICK,
                    root(str(two)),
                    "classifier.head = @sigmoid_head",
                    f"train.seed = {seed}",
                ],
            )
            for seed in (0, 1)
        ]
        directories = [run.directory for run in runs]
        compared = framework.compare(directories)
        explained = framework.explain(directories[0], many / "3")
        shown = framework.run(
            "gin/folder.gin",
            [*QUICK, root(str(two)), "train.mixing = [@MixUp()]"],
            mode="show_batch",
        )
        sweep = swept(base / "sweep")
    return {
        "thirty": base / thirty.directory / "report.html",
        "two": base / directories[0] / "report.html",
        "compare": base / compared.page,
        "explain": base / explained.page,
        "show_batch": base / shown.page,
        "sweep": base / sweep,
    }


def opened(browser, page, width=1280):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {
            "width": width,
            "height": 900,
            "deviceScaleFactor": 1,
            "mobile": False,
        },
    )
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())
    return browser


@pytest.mark.parametrize(
    "name", ["thirty", "two", "compare", "explain", "show_batch", "sweep"]
)
def test_a_page_is_sound(browser, pages, name):
    for width in (1280, 390):
        opened(browser, pages[name], width)
        assert browser.get_log("browser") == []
        events = [
            json.loads(line["message"])["message"]
            for line in browser.get_log("performance")
        ]
        asked = {
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        }
        assert {url for url in asked if not url.startswith("data:")} <= {
            pages[name].as_uri()
        }
        # Nothing but what scrolls by itself is wider than the screen.
        wide = "return document.documentElement.scrollWidth"
        assert browser.execute_script(wide) <= width
        # Portraits stay in their cards.
        outside = """return [...document.querySelectorAll(".picture img")]
            .filter(image => image.getBoundingClientRect().bottom > 1 +
                image.closest(".picture").getBoundingClientRect().bottom)"""
        assert browser.execute_script(outside) == []
        for colours in ("light", "dark"):
            browser.execute_cdp_cmd(
                "Emulation.setEmulatedMedia",
                {
                    "features": [
                        {"name": "prefers-color-scheme", "value": colours}
                    ]
                },
            )
            found = Axe().run(browser)["violations"]
            assert [
                (v["id"], [n["html"][:200] for n in v["nodes"]][:3])
                for v in found
            ] == []


def test_hostile_names_are_text(browser, pages):
    opened(browser, pages["thirty"])
    text = browser.execute_script("return document.body.innerText")
    assert SCRIPT in text
    assert 'it\'s "one"\\nof <b>.png' in text
    scripts = browser.find_elements(By.TAG_NAME, "script")
    assert len(scripts) == 1


def test_tables_are_sorted(browser, pages):
    opened(browser, pages["thirty"])
    table = browser.find_element(
        By.CSS_SELECTOR, "section[aria-labelledby=quality] table.sortable"
    )
    head = table.find_elements(By.CSS_SELECTOR, "thead th")[4]

    def column():
        return browser.execute_script(
            "return [...arguments[0].tBodies[0].rows].map("
            "row => parseFloat(row.cells[4].textContent))",
            table,
        )

    assert head.text.startswith("F1")
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "descending"
    there = [value for value in column() if value is not None]
    assert len(set(there)) > 1 and there == sorted(there, reverse=True)
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "ascending"
    there = [value for value in column() if value is not None]
    assert there == sorted(there)


def test_pictures_are_enlarged_by_the_keyboard(browser, pages):
    opened(browser, pages["two"])
    button = browser.find_element(By.CSS_SELECTOR, "button.zoom")
    button.send_keys(Keys.ENTER)
    dialog = browser.find_element(By.CSS_SELECTOR, "dialog.large")
    assert dialog.get_attribute("open") is not None
    large, small = (
        part.find_element(By.TAG_NAME, "img") for part in (dialog, button)
    )
    assert large.get_attribute("src") == small.get_attribute("src")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert dialog.get_attribute("open") is None


def test_pages_are_whole_without_javascript(browser, pages):
    browser.execute_cdp_cmd(
        "Emulation.setScriptExecutionDisabled", {"value": True}
    )
    try:
        opened(browser, pages["two"])
        text = browser.find_element(By.TAG_NAME, "main").text
        for heading in ("How it learned", "Quality", "How it ran"):
            assert heading in text
        assert not browser.find_elements(By.CSS_SELECTOR, "button")
    finally:
        browser.execute_cdp_cmd(
            "Emulation.setScriptExecutionDisabled", {"value": False}
        )
