"""`report` and `serve` in a real Chromium."""

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
import uvicorn
from click.testing import CliRunner
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from db import gallery
from db.store import Store
from scheduler import cli
from scheduler.serve import LOCAL_NAMES, application, is_local
from tests.browser import add_video, chromium, write_clip
from tests.database import missing, requested
from tests.servers import ServerMissing

HOSTILE = "x</script><script>document.title='harm'</script><img src=x onerror=\"document.title='harm'\">.webm"
PATIENCE_S = 60


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    try:
        with chromium(tmp_path_factory.mktemp("profile")) as driver:
            yield driver
    except ServerMissing as reason:
        missing(str(reason))
        raise


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "drawn.webm")


def moodreel(*arguments):
    """Exit status of a command, and what it said."""
    runner = CliRunner()
    with runner.isolation() as (_, err, _):
        status = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code or 0
        return status, err.getvalue().decode()


def wait(browser, condition):
    return WebDriverWait(browser, PATIENCE_S).until(condition)


def opened(browser, url):
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(url)
    wait(browser, lambda b: b.execute_script("return document.documentElement.dataset.ready") == "yes")


def requests_of(browser):
    """URLs of all that was asked for, but for the page."""
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "file:", "about:"))]


def number(browser, script):
    return float(browser.execute_script(f"return {script}"))


def click_at(browser, share):
    """Click the chart at a share of its width."""
    browser.execute_script(
        "const c = document.getElementById('chart'), r = c.getBoundingClientRect(), a = c._fullLayout.xaxis;"
        "c.dispatchEvent(new MouseEvent(arguments[1], {clientX: r.left + a._offset + arguments[0] * a._length,"
        " clientY: r.top + 100, bubbles: true}))",
        *share,
    )


@pytest.fixture
def one_report(store, migrated_url, clip, tmp_path):
    add_video(store, str(clip))
    out = tmp_path / "report.html"
    assert moodreel("report", clip, "--db", migrated_url, "-o", out)[0] == 0
    return out


def test_a_report_seeks_follows_and_tells_numbers_and_asks_for_nothing(browser, one_report, clip):
    opened(browser, one_report.as_uri())
    wait(browser, lambda b: number(b, "document.getElementById('video').readyState") >= 1)
    click_at(browser, (0.5, "click"))
    wait(browser, lambda b: abs(number(b, "document.getElementById('video').currentTime") - 10) < 0.5)
    click_at(browser, (0.3, "mousemove"))
    said = browser.find_element(By.ID, "numbers").text
    assert "(6.0 s)" in said
    assert "voice: no speech" in said
    assert re.search(r"face: \w+ [\d.]+ %", said)
    before = number(browser, "document.getElementById('chart')._fullLayout.shapes[0].x0")
    browser.find_element(By.ID, "chart").send_keys(Keys.SPACE)
    wait(browser, lambda b: number(b, "document.getElementById('chart')._fullLayout.shapes[0].x0") > before + 0.3)
    browser.find_element(By.ID, "chart").send_keys(Keys.SPACE)
    wait(browser, lambda b: b.execute_script("return document.getElementById('video').paused"))
    browser.find_element(By.ID, "chart").send_keys(Keys.HOME)
    browser.find_element(By.ID, "chart").send_keys(Keys.ARROW_RIGHT)
    wait(browser, lambda b: b.find_element(By.ID, "chart").get_attribute("aria-valuenow") == "1.0")
    states = browser.find_element(By.ID, "states").text
    assert all(state in states for state in ("no speech", "no face", "unreadable"))
    assert requests_of(browser) == []
    assert [line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def test_dark_and_light(browser, one_report):
    opened(browser, one_report.as_uri())
    paper = "return getComputedStyle(document.body).backgroundColor"
    assert browser.execute_script(paper) == "rgb(255, 255, 255)"
    browser.find_element(By.ID, "theme").click()
    assert browser.execute_script(paper) == "rgb(21, 23, 26)"
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    opened(browser, one_report.as_uri())
    assert browser.execute_script(paper) == "rgb(21, 23, 26)"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_an_embedded_video_plays_without_its_file_and_a_lost_one_is_said_to_be(browser, store, migrated_url, tmp_path):
    clip = write_clip(tmp_path / "short.webm", 5)
    add_video(store, str(clip), 5)
    for name, options in {"whole.html": ["--embed"], "apart.html": []}.items():
        assert moodreel("report", clip, "--db", migrated_url, "-o", tmp_path / name, *options)[0] == 0
    clip.unlink()
    opened(browser, (tmp_path / "whole.html").as_uri())
    wait(browser, lambda b: number(b, "document.getElementById('video').readyState") >= 1)
    opened(browser, (tmp_path / "apart.html").as_uri())
    wait(browser, lambda b: "cannot load the video" in b.find_element(By.ID, "warning").text)


def test_names_do_no_harm(browser, store, migrated_url, tmp_path):
    add_video(store, f"/clips/{HOSTILE}")
    add_video(store, "/clips/b.webm", seed=1)
    assert moodreel("report", "--all", "--db", migrated_url, "-o", tmp_path / "all.html")[0] == 0
    opened(browser, (tmp_path / "all.html").as_uri())
    assert browser.title == "moodreel"
    link = browser.find_element(By.CSS_SELECTOR, ".card a[title*=harm]")
    assert link.text.startswith("/clips/x</script>")
    link.click()
    wait(browser, lambda b: b.find_element(By.ID, "name").text == f"/clips/{HOSTILE}")
    assert browser.title == "moodreel"


def test_an_overview_of_a_thousand_draws_only_what_is_near(browser, tmp_path):
    with Store(str(tmp_path / "many.db")) as store:
        for n in range(1000):
            add_video(store, f"/archive/{n:04}.webm", seed=n)
    began = time.monotonic()
    assert moodreel("report", "--all", "--db", tmp_path / "many.db", "-o", tmp_path / "all.html")[0] == 0
    written_s = time.monotonic() - began
    began = time.monotonic()
    opened(browser, (tmp_path / "all.html").as_uri())
    size = (tmp_path / "all.html").stat().st_size
    print(f"1000 videos: written in {written_s:.1f} s, {size / 1e6:.1f} MB, ready in {time.monotonic() - began:.1f} s")
    assert len(browser.find_elements(By.CLASS_NAME, "card")) == 1000
    drawn = wait(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, ".strip.js-plotly-plot")))
    assert 3 <= drawn < 100
    assert size < 20e6
    browser.find_element(By.NAME, "text").send_keys("099")
    wait(browser, lambda b: b.find_element(By.ID, "count").text == "11 videos")  # 0099 and 0990 to 0999


@contextmanager
def serving(store):
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(store, LOCAL_NAMES), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def answer(url, method="GET", **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers)) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_serve_shows_a_database_with_search_and_filters(browser, store, clip):
    gallery.read_only(store)
    writable = Store(store.engine.url.render_as_string(hide_password=False))
    with writable:
        clip_id = add_video(writable, str(clip))
        add_video(writable, f"/clips/{HOSTILE}", seed=1)
        for n in range(70):
            writable.observe(f"/more/{n:03}.mp4", "1", 10)
    with serving(store) as url:
        opened(browser, url)
        count = lambda text: wait(browser, lambda b: b.find_element(By.ID, "count").text == text)  # noqa: E731
        count("72 videos")
        assert len(browser.find_elements(By.CLASS_NAME, "card")) == 60
        browser.find_element(By.ID, "next").click()
        wait(browser, lambda b: b.find_element(By.ID, "page").text == "61 to 72 of 72")
        browser.find_element(By.CSS_SELECTOR, "[name=state] [value=unreadable]").click()
        count("2 videos")
        browser.find_element(By.NAME, "text").send_keys("DRAWN")
        count("1 video")
        browser.find_element(By.CSS_SELECTOR, ".card a").click()
        wait(browser, lambda b: number(b, "document.getElementById('video').readyState") >= 1)
        click_at(browser, (0.75, "click"))
        wait(browser, lambda b: abs(number(b, "document.getElementById('video').currentTime") - 15) < 0.5)
        assert browser.title == "moodreel"
        assert all(request.startswith(url) for request in requests_of(browser))

        whole = clip.read_bytes()
        status, headers, body = answer(f"{url}/media/{clip_id}", Range="bytes=10-19")
        assert (status, headers["content-range"], body) == (206, f"bytes 10-19/{len(whole)}", whole[10:20])
        assert answer(f"{url}/media/999999")[0] == 404
        assert answer(f"{url}/media/../../etc/passwd")[0] == 404
        assert answer(f"{url}/api/videos", "POST")[0] == 405
        assert answer(f"{url}/api/videos", Host="evil.example")[0] == 400
        assert answer(f"{url}/api/videos?emotion=bored")[0] == 400
        found = json.loads(answer(f"{url}/api/videos?since=2021-01-01&until=2021-12-31")[2])
        assert [video["uri"] for video in found["videos"]] == [f"/clips/{HOSTILE}"]


def test_the_database_refuses_writes_itself(store):
    gallery.read_only(store)
    with pytest.raises(Exception, match=r"(?i)read.?only"):
        store.observe("a.mp4", "1", 1)


def test_only_this_machine_is_local():
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")] == [True] * 3 + [
        False
    ] * 2


def test_bad_input_is_one_sentence(store, migrated_url, tmp_path):
    db = ("--db", migrated_url)
    assert "has no timeline yet" in moodreel("report", "--all", *db)[1]
    assert "is not in this database" in moodreel("report", "nowhere.mp4", *db)[1]
    requested(store, str(tmp_path / "begun.mp4"))
    assert "has no timeline yet" in moodreel("report", tmp_path / "begun.mp4", *db)[1]
    assert "name videos, or give --all" in moodreel("report", *db)[1]
    add_video(store, "/a.webm")
    assert "cannot be written" in moodreel("report", "--all", *db, "-o", tmp_path / "no" / "x.html")[1]
    assert "cannot be written" in moodreel("report", "--all", *db, "-o", tmp_path)[1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Nothing can listen" in moodreel("serve", *db, "--port", taken.getsockname()[1])[1]


def test_a_missing_package_is_named(store, migrated_url, tmp_path, monkeypatch):
    add_video(store, "/a.webm")
    monkeypatch.setattr("scheduler.pages.find_spec", lambda _: None)
    said = moodreel("report", "--all", "--db", migrated_url, "-o", tmp_path / "x.html")[1]
    assert "plotly is not installed" in said
    assert "moodreel[report]" in said
