"""The pages in a real Chromium, from an empty database to a finished tuning."""

import json
import time
import urllib.request

import pytest

from autotune.service.jobs import JobDatabase
from autotune.service.keys import create_key
from tests.autotune.service.browser import chromium, complaints, dark, requests, resize, serving
from tests.conftest import LLAMA

selenium = pytest.importorskip("selenium")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.duration(120)]

LIMIT_S = 600


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    data = tmp_path_factory.mktemp("service") / "data"
    models = ("--models", LLAMA.parent)
    with serving(data, "--db", data.parent / "latency.sqlite", *models) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        found.set_script_timeout(60)
        yield found


@pytest.fixture(autouse=True)
def nothing_foreign_and_no_complaint(server, browser):
    """Whatever a test does: its console is empty, and every request went to the server."""
    requests(browser)
    complaints(browser)
    yield
    assert complaints(browser) == []
    own = (server.address, "data:", "blob:", "chrome:", "about:")
    assert [url for url in requests(browser) if not url.startswith(own)] == []


def fill(browser, name, value):
    field = browser.find_element(By.ID, name)
    field.clear()
    field.send_keys(value)


def wait(browser, condition, seconds=120):
    """A page that was left takes its elements with it; the next look is at the new ones."""
    patience = WebDriverWait(
        browser, seconds, poll_frequency=0.2, ignored_exceptions=(StaleElementReferenceException,)
    )
    return patience.until(condition)


def plots(browser, count):
    """Every plot has been drawn."""
    return wait(
        browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, ".plot svg.main-svg")) >= count
    )


@pytest.fixture(scope="module")
def finished(server, browser):
    """The address of a finished tuning, made through the form."""
    browser.get(server.address)
    assert "No jobs yet." in browser.find_element(By.ID, "counts").text
    default = browser.find_element(By.ID, "model").get_attribute("placeholder")
    assert "all-MiniLM-L6-v2" in default
    fill(browser, "model", LLAMA.name)
    fill(browser, "latency", "0.97")
    fill(browser, "batch_size", "1")
    fill(browser, "isl", "64")
    browser.find_element(By.TAG_NAME, "summary").click()
    for name, value in [
        ("trials", "0"),
        ("rounds", "1"),
        ("sensitivity_rounds", "0"),
        ("calibration_samples", "8"),
        ("calibration", f"{LLAMA.name}/heldout.txt"),
    ]:
        fill(browser, name, value)
    browser.find_element(By.CSS_SELECTOR, "#tune button").click()
    wait(browser, lambda b: "/jobs/" in b.current_url)
    address = browser.current_url
    wait(
        browser,
        lambda b: (
            b.find_elements(By.ID, "stage")
            and b.find_element(By.ID, "stage").text not in ("", "waiting")
        ),
    )
    seen = browser.find_element(By.ID, "stage").text
    wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".verdict"), LIMIT_S)
    assert seen
    return address


def test_from_the_form_to_the_result(server, browser, finished):
    browser.get(finished)
    assert browser.find_element(By.ID, "state").text == "succeeded"
    assert "budget" in browser.find_element(By.CSS_SELECTOR, ".verdict").text
    plots(browser, 6)
    words = browser.find_element(By.ID, "figure-pareto").text
    for word in ("budget 0.97x", "uniform keep ratio", "chosen, measured"):
        assert word in words
    events = [item.text for item in browser.find_elements(By.CSS_SELECTOR, "#events li")]
    assert "queued" in events[0]
    assert "succeeded" in events[-1]
    assert any("stage measure layers" in event for event in events)
    links = browser.find_elements(By.CSS_SELECTOR, ".files a")
    assert {"report.html", "model.onnx", "model/model.safetensors"} <= {a.text for a in links}
    browser.get(server.address)
    row = browser.find_element(By.CSS_SELECTOR, "#jobs tbody tr")
    assert LLAMA.name in row.text
    assert "latency 0.97x" in row.text


def test_the_report_opens_without_scripts(browser, finished):
    browser.get(finished)
    browser.find_element(By.LINK_TEXT, "report.html").click()
    wait(browser, lambda b: b.find_elements(By.TAG_NAME, "svg"))


def test_what_is_wrong_is_said_beside_the_form(server, browser):
    browser.get(server.address)
    fill(browser, "latency", "fast")
    browser.find_element(By.CSS_SELECTOR, "#tune button").click()
    error = browser.find_element(By.CSS_SELECTOR, "#tune .error")
    wait(browser, lambda _: error.is_displayed())
    assert "is not a limit on the latency" in error.text
    # A refused request is a line on the console, which is the browser's own and no mistake here.
    assert all("422" in line for line in complaints(browser))


def test_a_running_job_is_cancelled_from_its_page(server, browser):
    browser.get(server.address)
    browser.find_element(By.CSS_SELECTOR, "#tune button").click()
    wait(browser, lambda b: "/jobs/" in b.current_url)
    wait(browser, lambda b: b.find_element(By.ID, "state").text == "running")
    browser.find_element(By.ID, "cancel").click()
    wait(browser, lambda b: b.find_element(By.ID, "state").text == "cancelled")
    assert not browser.find_elements(By.ID, "cancel")


def test_a_job_and_an_upload_are_deleted_after_a_question(server, browser):
    put = urllib.request.Request(f"{server.address}/v1/models/gone/vocab.txt", b"a\n", method="PUT")
    urllib.request.urlopen(put).close()
    browser.get(server.address)
    browser.find_element(By.CSS_SELECTOR, "#tune button").click()
    wait(browser, lambda b: "/jobs/" in b.current_url)
    job = browser.current_url
    browser.find_element(By.ID, "cancel").click()
    wait(browser, lambda b: b.find_element(By.ID, "state").text == "cancelled")
    browser.get(job)
    browser.find_element(By.ID, "delete").click()
    assert "cannot be undone" in browser.switch_to.alert.text
    browser.switch_to.alert.dismiss()
    assert browser.current_url == job
    browser.find_element(By.ID, "delete").click()
    browser.switch_to.alert.accept()
    wait(browser, lambda b: b.current_url == f"{server.address}/")
    assert not browser.find_elements(By.CSS_SELECTOR, f"a[href$='{job.rpartition('/')[2]}']")
    browser.find_element(By.CSS_SELECTOR, ".delete-upload").click()
    browser.switch_to.alert.accept()
    wait(browser, lambda b: not b.find_elements(By.CSS_SELECTOR, ".delete-upload"))


def test_a_device_answers_what_a_layer_would_cost(server, browser):
    browser.get(f"{server.address}/devices")
    browser.find_element(By.LINK_TEXT, "h200-sxm").click()
    browser.find_element(By.CSS_SELECTOR, "#predict button").click()
    plots(browser, 1)
    table = browser.find_element(By.ID, "estimates")
    forms = [row.split()[0] for row in table.text.splitlines()[1:]]
    assert forms[0] == "dense"
    assert all(form.startswith("rank=") for form in forms[1:])
    assert len(table.find_elements(By.TAG_NAME, "tr")) > 20
    assert "H200" in browser.find_element(By.ID, "sources").text
    assert "source" in browser.find_element(By.CSS_SELECTOR, "#sheet ~ pre").text


def test_the_database_of_this_device_is_shown(server, browser, finished):
    browser.get(f"{server.address}/devices/cpu")
    row = browser.find_element(By.CSS_SELECTOR, "#coverage ~ .scroll tbody tr").text
    assert "onnxruntime-cpu" in row
    assert "fp32" in row
    assert "not checked" in browser.find_element(By.CLASS_NAME, "checks").text


def test_a_device_is_checked_for_drift(server, browser, finished):
    browser.get(f"{server.address}/devices/cpu")
    browser.find_element(By.CSS_SELECTOR, ".check-drift").click()
    wait(browser, lambda b: "/jobs/" in b.current_url)
    wait(browser, lambda b: b.find_element(By.ID, "state").text == "succeeded", LIMIT_S)
    verdict = json.loads(browser.find_element(By.CSS_SELECTOR, "#result ~ pre").text)["verdict"]
    browser.get(f"{server.address}/devices/cpu")
    found = browser.find_element(By.CLASS_NAME, "checks").text
    assert verdict.lower() in found
    assert "moved" in found


def test_results_are_compared(server, browser, finished):
    browser.get(finished)
    browser.find_element(By.LINK_TEXT, "Compare with other tunings").click()
    plots(browser, 1)
    assert browser.find_element(By.CSS_SELECTOR, "main tbody tr").text


def test_the_keyboard_is_enough(server, browser):
    """From the top of the page: skip link, brand, three links, then the form, field by field."""
    browser.get(server.address)
    body = browser.find_element(By.TAG_NAME, "body")
    found = []
    for _ in range(7):
        body.send_keys(Keys.TAB) if not found else browser.switch_to.active_element.send_keys(
            Keys.TAB
        )
        active = browser.switch_to.active_element
        found.append(active.get_attribute("id") or active.text)
    assert found == ["Skip to content", "autotune", "Jobs", "Devices", "Compare", "model", "device"]
    Select(browser.switch_to.active_element).select_by_value("cpu")
    style = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(style) == "solid"


def test_every_field_has_a_label(server, browser, finished):
    unlabelled = """
      return [...document.querySelectorAll('input, select, textarea, progress')]
        .filter((e) => !e.labels?.length && !e.getAttribute('aria-label')).map((e) => e.outerHTML)
    """
    for path in ("", "/devices/cpu", "/compare"):
        browser.get(server.address + path)
        assert browser.execute_script(unlabelled) == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("night", [False, True])
def test_nothing_is_cut_off_or_too_pale(server, browser, finished, width, night):
    resize(browser, width, 900)
    dark(browser, night)
    try:
        for path in (
            "",
            "/devices",
            "/devices/cpu",
            "/compare",
            finished.removeprefix(server.address),
        ):
            browser.get(server.address + path)
            time.sleep(0.3)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, path
            assert contrast(browser) >= 4.5, path
    finally:
        dark(browser, False)
        resize(browser, 1280, 900)


def contrast(browser):
    """The least contrast of text and ground among paragraphs, links, labels and cells (WCAG)."""
    return browser.execute_script("""
      const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
      const light = (c) => rgb(c).slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const ground = (e) => {
        for (; e; e = e.parentElement) {
          const c = getComputedStyle(e).backgroundColor;
          if ((rgb(c)[3] ?? 1) > 0.5) return c;
        }
        return 'rgb(255, 255, 255)';
      };
      const seen = [...document.querySelectorAll('p, a, label, td, th, h1, h2, button, .state')]
        .filter((e) => e.offsetParent && e.innerText && !e.disabled && !e.closest('.skip'));
      return Math.min(...seen.map((e) => {
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
      }));
    """)


def test_a_key_opens_the_pages(tmp_path, browser):
    data = tmp_path / "data"
    with JobDatabase(data / "jobs.sqlite") as database:
        _, token = create_key(database, "alice")
    with serving(data, "--db", tmp_path / "latency.sqlite") as locked:
        browser.get(f"{locked.address}/devices")
        assert "/login" in browser.current_url
        fill(browser, "key", "wrong")
        browser.find_element(By.CSS_SELECTOR, "#login button").click()
        error = browser.find_element(By.CSS_SELECTOR, "#login .error")
        wait(browser, lambda _: error.is_displayed())
        assert "invalid or revoked API key" in error.text
        assert all("401" in line for line in complaints(browser))
        fill(browser, "key", token)
        browser.find_element(By.CSS_SELECTOR, "#login button").click()
        wait(browser, lambda b: b.current_url == f"{locked.address}/devices")
        assert token not in browser.execute_script("return document.cookie")
        assert [u for u in requests(browser) if not u.startswith((locked.address, "data:"))] == []
        browser.find_element(By.CSS_SELECTOR, ".sign-out button").click()
        wait(browser, lambda b: b.current_url == f"{locked.address}/login")
        browser.get(f"{locked.address}/login?next=/%09/127.0.0.1:1/x")
        fill(browser, "key", token)
        browser.find_element(By.CSS_SELECTOR, "#login button").click()
        wait(browser, lambda b: b.current_url == f"{locked.address}/")
        browser.delete_all_cookies()
        assert [u for u in requests(browser) if not u.startswith((locked.address, "data:"))] == []
