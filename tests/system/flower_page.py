"""Flower as a person sees it, in Debian's headless Chromium: the login, a worker, a finished task, and nothing to run.

``tests/system/run`` names this file; its own name keeps it out of ``make test``. It takes Debian's ``chromium`` and
``chromium-driver``. With ``SCREENSHOT=docs/flower.png`` in the environment it keeps what it saw.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests import processes
from tests.integration.driving import ended, submit, unique
from tests.processes import Stack, eventually

#: For a machine without a network, a display and a user of its own.
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,800"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with Flower."""
    # On a Redis of its own: workers of other tests would take its jobs.
    folder = tmp_path_factory.mktemp("stack")
    with processes.stack(folder, "--simulator-latency", "0.1", PROMPTQ_REDIS_URL="") as running:
        yield running


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A browser that has been nowhere yet."""
    options = webdriver.ChromeOptions()
    for option in (*OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    options.binary_location = "/usr/bin/chromium"
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        yield chrome
    finally:
        chrome.quit()


def text(browser: webdriver.Chrome) -> str:
    """What the page shows."""
    return browser.find_element(By.TAG_NAME, "body").text


@pytest.mark.timeout(180)
def test_flower_in_a_browser(stack: Stack, browser: webdriver.Chrome) -> None:
    """Without the login nothing is seen; with it the worker and each finished task by name and job id, never a prompt;
    and what would run or stop something is refused."""
    marker = unique("browsermarker").replace(" ", "-")
    with stack.client() as client:
        ids = [submit(client, prompt=f"{marker} {number}", model="sim")["id"] for number in range(5)]
        for job_id in ids:
            assert ended(client, job_id)["status"] == "completed"
    base = str(stack.flower)

    browser.get(f"{base}workers")
    assert "worker-1@" not in browser.page_source

    host = base.removeprefix("http://")
    browser.get(f"http://{stack.flower_login}@{host}workers")
    eventually(lambda: (browser.refresh(), text(browser))[1], lambda page: "worker-1@" in page, within=40)
    assert marker not in browser.page_source

    browser.get(f"{base}tasks")
    eventually(lambda: (browser.refresh(), text(browser))[1], lambda page: all(one in page for one in ids), within=40)
    assert text(browser).count("promptq.run_job") >= len(ids)
    assert "SUCCESS" in text(browser)
    assert marker not in browser.page_source
    kept = os.environ.get("SCREENSHOT")
    if kept:
        assert browser.save_screenshot(kept)
    assert len(browser.get_screenshot_as_png()) > 10_000

    browser.get(f"{base}task/{ids[0]}")
    page = text(browser)
    assert ids[0] in page
    assert "promptq.run_job" in page
    assert marker not in browser.page_source

    (worker,) = httpx2.get(
        f"{base}api/workers", params={"refresh": 1}, auth=tuple(str(stack.flower_login).split(":")), timeout=20
    ).json()
    for path in (f"worker/shutdown/{worker}", f"task/revoke/{ids[0]}", "task/apply/promptq.run_job"):
        script = "return fetch(arguments[0], {method: 'POST', body: '{}'}).then(answer => answer.status)"
        assert browser.execute_script(script, f"{base}api/{path}") == 403, path
