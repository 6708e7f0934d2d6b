"""The Space as people use it: in real headless Chromium, with a mouse, with keys alone, with a camera, on a phone."""

import functools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pysubs2
import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    ElementHandle,
    Locator,
    Page,
    Playwright,
    Request,
    expect,
    sync_playwright,
)
from playwright.sync_api import TimeoutError as BrowserTimeoutError
from space_app import TEXTS, Space, assert_they_say, bad_files, clips, long_video, space_in_this_process
from tiny_corpus import trained_model
from transformers import pipeline

ENGLISH, GERMAN = TEXTS["en"], TEXTS["de"]
SCREENSHOTS_VARIABLE = "FLALLM_SCREENSHOTS"
WAIT_IN_MILLISECONDS = 30_000
WIDTHS_IN_PIXELS = {"desktop": 1280, "phone": 390}
MOST_TABS = 80
LEAST_TO_NAME = 15
CAMERA_WIDTH_IN_PIXELS, CAMERA_HEIGHT_IN_PIXELS = 640, 480
SECONDS_OF_RECORDING = 3
SECONDS_TO_SETTLE = 3
MOST_ATTEMPTS = 5
# What the browser says when it asks for the first byte of an empty video.
NO_FIRST_BYTE = "416 (Requested Range Not Satisfiable)"

# How an element and its surroundings are outlined.
FOCUS_LOOK = """(element) => {
  const parts = [element, element.closest("label"), element.parentElement].filter(Boolean);
  return parts.map((part) => {
    const style = getComputedStyle(part);
    const hasOutline = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
    return (hasOutline ? `${style.outlineStyle} ${style.outlineWidth} ${style.outlineColor}` : "") + style.boxShadow;
  });
}"""
# Each visible text with the contrast ratio to its background, as WCAG 2 computes it.
CONTRASTS = """() => {
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = context.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = ([r, g, b, alpha], below) => [r, g, b].map((value, i) => alpha * value + (1 - alpha) * below[i]);
  const chain = (element) => element ? [...chain(element.parentElement), element] : [];
  const behind = (element) => chain(element)
    .reduce((below, part) => over(rgba(getComputedStyle(part).backgroundColor), below), [255, 255, 255]);
  const luminance = (colour) => {
    const [r, g, b] = colour.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const isShown = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true })
    && element.getBoundingClientRect().width > 1 && !element.closest(":disabled, [aria-disabled=true]");
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !isShown(element)) continue;
    const background = behind(element), colour = rgba(getComputedStyle(element).color);
    colour[3] *= chain(element).reduce((all, part) => all * Number(getComputedStyle(part).opacity), 1);
    const [low, high] = [over(colour, background), background].map(luminance).sort((a, b) => a - b);
    found.push([text, (high + 0.05) / (low + 0.05)]);
  }
  return found;
}"""
SHOWN_CAPTIONS = """(video) => [...video.textTracks].filter((track) => track.mode === "showing")
  .flatMap((track) => [...track.cues ?? []].map((cue) => cue.text))"""
ALL_TEXTS = """() => {
  const texts = [document.title];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!["SCRIPT", "STYLE"].includes(element.tagName)) texts.push(walker.currentNode.textContent);
  }
  for (const element of document.body.querySelectorAll("*"))
    for (const name of ["aria-label", "title", "placeholder", "alt"])
      if (element.hasAttribute(name)) texts.push(element.getAttribute(name));
  return texts.map((text) => text.trim()).filter(Boolean);
}"""


@pytest.fixture(scope="module")
def space(tmp_path_factory, forked_workers) -> Iterator[Space]:
    with space_in_this_process(tmp_path_factory.mktemp("space")) as running:
        yield running


@pytest.fixture(scope="module")
def translate_alone(space) -> Callable[..., dict[str, Any]]:
    """What the pipeline says, without the page."""
    translator = pipeline("sign-language-translation", str(trained_model()))
    return functools.cache(lambda path, start=None: translator(str(path), start=start, return_timestamps=True))


@pytest.fixture(scope="module")
def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"There is none of the browsers {', '.join(names)}. On Debian: apt install chromium")
    return path


@pytest.fixture(scope="module")
def playwright(chromium, space, translate_alone) -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright, chromium) -> Iterator[Browser]:
    with launched(playwright, chromium) as running:
        yield running


def launched(playwright: Playwright, chromium: str, *flags: str) -> Browser:
    return playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *flags])


@pytest.fixture
def visit(browser, space) -> Iterator[Callable[..., Page]]:
    """Opens the page. At the end there must be no hidden errors and no requests to other machines."""
    complaints: list[str] = []

    def open_page(forgiven: str | None = None, **options: Any) -> Page:
        page = browser.new_context(**{"locale": "en-GB", **options}).new_page()
        page.set_default_timeout(WAIT_IN_MILLISECONDS)
        listen(page, space.address, complaints, forgiven)
        page.goto(space.address)
        shown = button(page, "translate_button").or_(button(page, "translate_button", GERMAN))
        expect(shown).to_be_visible(timeout=WAIT_IN_MILLISECONDS)
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert complaints == []


def listen(page: Page, address: str, complaints: list[str], forgiven: str | None) -> None:
    def asked(request: Request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            complaints.append(f"asked another host: {request.url}")

    def said(message: ConsoleMessage) -> None:
        if message.type == "error" and not (forgiven and forgiven in message.text):
            complaints.append(message.text)

    page.on("request", asked)
    page.on("console", said)
    page.on("pageerror", lambda error: complaints.append(str(error)))


@pytest.fixture
def clip(translate_alone) -> Path:
    """A clip for which the model writes words, not just punctuation."""
    with_words = [clip for clip in clips() if translate_alone(clip)["words"]]
    return with_words[np.random.randint(len(with_words))]


def button(page: Page, name: str, texts: dict[str, str] = ENGLISH) -> Locator:
    return page.get_by_role("button", name=texts[name], exact=True)


def upload(page: Page, path: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(path)


def clip_of(page: Page) -> Locator:
    """The video that is shown."""
    return page.locator("video:visible").first


def wait_until_looked_at(page: Page, texts: dict[str, str] = ENGLISH) -> None:
    """The sliders have the length of the video."""
    sliders = page.get_by_role("slider", name=re.compile(re.escape(texts["end_label"])))
    expect(sliders.first).to_be_enabled(timeout=WAIT_IN_MILLISECONDS)
    page.wait_for_function("() => [...document.querySelectorAll('video')].some((video) => video.readyState > 0)")


def timeline(page: Page, texts: dict[str, str] = ENGLISH) -> Locator:
    return page.get_by_role("region", name=texts["timeline_heading"])


def translate(page: Page, path: Path, texts: dict[str, str] = ENGLISH) -> None:
    upload(page, path)
    wait_until_looked_at(page, texts)
    button(page, "translate_button", texts).click()
    expect(timeline(page, texts)).to_be_visible(timeout=WAIT_IN_MILLISECONDS)


def word_buttons(page: Page, texts: dict[str, str] = ENGLISH) -> Locator:
    end = texts["timeline_word"].rsplit("{peak}", 1)[1]
    return timeline(page, texts).get_by_role("button", name=re.compile(re.escape(end) + "$"))


def expect_second(page: Page, seconds: float) -> None:
    page.wait_for_function(
        "(seconds) => [...document.querySelectorAll('video')].some(v => Math.abs(v.currentTime - seconds) < 0.05)",
        arg=seconds,
    )


@pytest.mark.slow
def test_an_upload_is_translated(visit, clip, translate_alone):
    page = visit()
    translate(page, clip)
    expect(page.get_by_text(translate_alone(clip)["translation_text"], exact=True).first).to_be_visible()


@pytest.mark.slow
def test_everything_about_a_clip(visit, clip, translate_alone):
    page = visit()
    translate(page, clip)
    expected = translate_alone(clip)
    for name in ("sureness_unknown", "alternatives_heading"):
        expect(page.get_by_text(ENGLISH[name])).to_be_visible()
    expect(word_buttons(page)).to_have_count(len(expected["words"]))
    for index in np.random.permutation(len(expected["words"]))[:3]:
        word_buttons(page).nth(index).click()
        expect_second(page, expected["words"][index]["peak"])


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (1280, 560), (910, 560), (890, 560), (390, 844)])
def test_the_signer_is_seen_beside_the_sentence_and_the_words(visit, translate_alone, width, height):
    clip = max(clips(), key=lambda clip: len(translate_alone(clip)["words"]))
    page = visit(viewport={"width": width, "height": height})
    translate(page, clip)
    sentence = page.locator("#result .sentence")
    expect(sentence).to_have_text(translate_alone(clip)["translation_text"])
    page.wait_for_timeout(500)  # scrolling
    for part in (clip_of(page), sentence):
        expect(part).to_be_in_viewport(ratio=0.9)
    word_buttons(page).last.click()
    page.wait_for_timeout(1000)
    expect(clip_of(page)).to_be_in_viewport(ratio=0.5)
    expect(word_buttons(page).last).to_be_in_viewport()


def style_of(locator: Locator, name: str) -> float:
    return locator.evaluate("(element, name) => parseFloat(getComputedStyle(element)[name])", name)


@pytest.mark.slow
def test_the_speed_of_the_playback_stays_for_the_next_clip(visit, clip):
    page = visit()
    upload(page, clip)
    wait_until_looked_at(page)
    page.get_by_role("radio", name=ENGLISH["speed_25"], exact=True).check()
    page.wait_for_function("() => document.querySelector('#signed-video video').playbackRate === 0.25")
    page.get_by_role("button", name="Clear").click()
    upload(page, next(other for other in clips() if other != clip))
    wait_until_looked_at(page)
    page.wait_for_function("() => document.querySelector('#signed-video video').playbackRate === 0.25")
    page.get_by_role("radio", name=ENGLISH["speed_100"], exact=True).check()
    page.wait_for_function("() => document.querySelector('#signed-video video').playbackRate === 1")


@pytest.mark.slow
def test_a_chosen_word_is_repeated(visit, clip):
    page = visit()
    translate(page, clip)
    page.get_by_role("checkbox", name=ENGLISH["repeat_label"]).check()
    word = page.locator(".words button").first
    word.click()
    page.evaluate("""() => {
        const video = document.querySelector("#signed-video video");
        window.backwards = 0;
        let last = 0;
        video.addEventListener("timeupdate", () => {
            if (video.currentTime < last - 0.1) window.backwards += 1;
            last = video.currentTime;
        });
    }""")
    page.wait_for_function("() => window.backwards >= 2")
    page.get_by_role("checkbox", name=ENGLISH["repeat_label"]).uncheck()
    page.wait_for_function("() => document.querySelector('#signed-video video').ended")


@pytest.mark.slow
def test_the_browser_remembers_large_text(visit, clip):
    page = visit()
    translate(page, clip)
    sentence = page.locator("#result .sentence")
    before = style_of(sentence, "fontSize")
    page.get_by_role("checkbox", name=ENGLISH["large_text_label"]).check()
    expect(page.locator(".gradio-container.large-text")).to_be_attached()
    assert style_of(sentence, "fontSize") > 1.4 * before
    page.reload()
    expect(page.get_by_role("checkbox", name=ENGLISH["large_text_label"])).to_be_checked(timeout=WAIT_IN_MILLISECONDS)
    expect(page.locator(".gradio-container.large-text")).to_be_attached()
    page.get_by_role("checkbox", name=ENGLISH["large_text_label"]).uncheck()
    expect(page.locator(".gradio-container.large-text")).not_to_be_attached()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["shares", "copies", "may not"])
def test_a_sentence_is_passed_on_without_its_video(visit, clip, translate_alone, way):
    page = visit(permissions=[] if way == "may not" else ["clipboard-read", "clipboard-write"])
    share = button(page, "share_button")
    expect(share).to_be_disabled()
    translate(page, clip)
    page.evaluate(
        "(way) => { if (way === 'shares') navigator.share = async (what) => { window.shared = what; };"
        " if (way === 'may not') navigator.clipboard.writeText = async () => { throw new Error('no'); }; }",
        way,
    )
    share.click()
    expected = f"{translate_alone(clip)['translation_text']}\n{ENGLISH['share_limit']}"
    if way == "shares":
        page.wait_for_function("() => window.shared")
        assert page.evaluate("window.shared") == {"title": ENGLISH["title"], "text": expected}
        return
    said = ENGLISH["share_copied" if way == "copies" else "share_failed"]
    expect(page.get_by_text(said)).to_be_visible()
    if way == "copies":
        assert page.evaluate("navigator.clipboard.readText()") == expected


@pytest.mark.slow
def test_an_introduction_in_pictures_that_rests_for_who_wants_no_motion(visit):
    for motion, names in (("no-preference", ["left", "right"]), ("reduce", ["none", "none"])):
        page = visit(reduced_motion=motion)
        expect(page.get_by_role("img", name=ENGLISH["pictures_label"])).to_be_visible()
        hands = page.locator("#introduction .left-hand, #introduction .right-hand")
        assert hands.evaluate_all("(hands) => hands.map((hand) => getComputedStyle(hand).animationName)") == names


@pytest.mark.slow
def test_a_phone_can_install_it(visit, space):
    page = visit()
    page.wait_for_function("() => document.querySelector('link[rel=manifest]')")
    manifest = page.request.get(f"{space.address}/manifest.json").json()
    assert manifest["name"] == ENGLISH["title"] and manifest["display"] == "standalone"
    (icon,) = manifest["icons"]
    answer = page.request.get(icon["src"] if "://" in icon["src"] else f"{space.address}{icon['src']}")
    assert answer.ok and "svg" in answer.headers["content-type"]


@pytest.mark.slow
def test_captions_are_on_the_clip_and_can_be_saved(visit, clip, translate_alone):
    page = visit()
    translate(page, clip)
    sentence = translate_alone(clip)["translation_text"]
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].some(v => [...v.textTracks].some(t => t.cues?.length))"
    )
    assert_they_say(clip_of(page).evaluate(SHOWN_CAPTIONS), sentence)
    word_buttons(page).first.click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].some(v => [...v.textTracks].some(t => t.activeCues?.length))"
    )
    for suffix in ("srt", "vtt"):
        with page.expect_download() as download:
            button(page, f"download_{suffix}").click()
        assert download.value.suggested_filename == f"{clip.stem}.{suffix}"
        captions = pysubs2.load(str(download.value.path()), format_=suffix)
        assert_they_say((event.plaintext for event in captions), sentence)
        times = [time for event in captions for time in (event.start, event.end)]
        assert times == sorted(times) and times[-1] > 0


@pytest.mark.slow
def test_several_translations_are_side_by_side_and_on_a_phone_below_each_other(visit, clip):
    answers = pipeline("sign-language-translation", str(trained_model()))(
        str(clip), num_return_sequences=3, num_beams=3
    )
    sentences = list(dict.fromkeys(answer["translation_text"] or ENGLISH["translation_empty"] for answer in answers))
    page = visit(viewport={"width": WIDTHS_IN_PIXELS["desktop"], "height": 844})
    numbers = page.get_by_role("group", name=ENGLISH["translations_label"])
    expect(numbers.get_by_role("radio", name="1", exact=True)).to_be_checked()
    numbers.get_by_role("radio", name="3", exact=True).check()
    translate(page, clip)
    cards = page.locator("#result").get_by_role("listitem")
    expect(cards.locator(".sentence")).to_have_text(sentences)
    names = [ENGLISH["translations_number"].format(number=n + 1, total=len(sentences)) for n in range(len(sentences))]
    expect(cards.get_by_role("heading", level=3)).to_have_text(names)
    expect_names(page)
    for device, width in WIDTHS_IN_PIXELS.items():
        page.set_viewport_size({"width": width, "height": 844})
        assert faint_texts(page) == []
        take_screenshot(page, f"{device}_several_translations")
        assert page.evaluate("document.scrollingElement.scrollWidth <= document.scrollingElement.clientWidth")
        tops = [card.bounding_box()["y"] for card in cards.all()]
        num_rows = len(set(tops))
        assert num_rows == len(sentences) if device == "phone" else num_rows < len(sentences) or len(sentences) == 1


@pytest.mark.slow
def test_a_part_of_a_clip(visit, clip, translate_alone):
    page = visit()
    upload(page, clip)
    wait_until_looked_at(page)
    start = page.get_by_role("spinbutton", name=re.compile(re.escape(ENGLISH["start_label"])))
    start.fill("0.5")
    start.press("Tab")
    button(page, "translate_button").click()
    sentence = translate_alone(clip, start=0.5)["translation_text"]
    expect(page.get_by_text(sentence, exact=True).first).to_be_visible(timeout=WAIT_IN_MILLISECONDS)
    expect(button(page, "download_srt")).to_be_enabled(timeout=WAIT_IN_MILLISECONDS)
    with page.expect_download() as download:
        button(page, "download_srt").click()
    assert pysubs2.load(str(download.value.path()), format_="srt")[0].start == 500


@pytest.mark.slow
def test_another_clip_takes_the_results_of_the_last_one_away(visit, clip, translate_alone):
    page = visit()
    translate(page, clip)
    page.get_by_role("button", name="Clear").click()
    upload(page, clips()[0])
    wait_until_looked_at(page)
    expect(timeline(page)).to_have_count(0)
    expect(page.get_by_text(translate_alone(clip)["translation_text"], exact=True)).to_have_count(0)
    for name in ("download_srt", "download_vtt"):
        expect(button(page, name)).to_be_disabled()
    assert clip_of(page).evaluate(SHOWN_CAPTIONS) == []


@pytest.mark.slow
def test_a_long_video_becomes_several_captions(visit, tmp_path):
    path = long_video(tmp_path / "talk.mp4")
    translator = pipeline("sign-language-translation", str(trained_model()))
    expected = [piece for piece in translator.translate_long(str(path)) if piece["translation_text"]]
    assert len(expected) > 1
    page = visit()
    upload(page, path)
    wait_until_looked_at(page)
    expect(page.get_by_role("checkbox", name=re.compile(re.escape(ENGLISH["long_label"])))).to_be_checked()
    button(page, "translate_button").click()
    expect(timeline(page)).to_be_visible(timeout=WAIT_IN_MILLISECONDS)
    end = ENGLISH["timeline_piece"].rsplit("{end}", 1)[1]
    pieces = timeline(page).get_by_role("button", name=re.compile(re.escape(end) + "$"))
    expect(pieces).to_have_count(len(expected))
    index = np.random.randint(len(expected))
    pieces.nth(index).click()
    expect_second(page, expected[index]["start"])
    with page.expect_download() as download:
        button(page, "download_srt").click()
    captions = pysubs2.load(str(download.value.path()), format_="srt")
    times = [time for event in captions for time in (event.start, event.end)]
    assert times == sorted(times)
    said = " ".join(piece["translation_text"] for piece in expected)
    assert_they_say((event.plaintext for event in captions), said)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["error_no_video_file", "error_empty_file", "error_no_picture", "error_damaged"])
def test_a_wrong_file_gets_a_sentence_and_the_next_one_its_translation(visit, clip, tmp_path, name):
    page = visit(forgiven=NO_FIRST_BYTE if name == "error_empty_file" else None)
    upload(page, bad_files(tmp_path)[name])
    expect(page.get_by_role("alert").filter(has_text=ENGLISH[name])).to_be_visible(timeout=WAIT_IN_MILLISECONDS)
    button(page, "translate_button").click()
    expect(page.get_by_role("alert").filter(has_text=ENGLISH[name])).to_be_visible(timeout=WAIT_IN_MILLISECONDS)
    assert "Traceback" not in page.content()
    page.get_by_role("button", name="Clear").click()
    translate(page, clip)
    expect(page.get_by_text(ENGLISH[name])).to_have_count(0)


@pytest.mark.slow
def test_without_a_video(visit):
    page = visit()
    button(page, "translate_button").click()
    expect(page.get_by_role("alert").filter(has_text=ENGLISH["error_no_video"])).to_be_visible()


def write_camera_film(path: Path, clip: Path) -> Path:
    """The clip as seen by a camera with a dark left half, so that left and right can be told apart."""
    with av.open(str(clip)) as source, av.open(str(path), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=20)
        stream.width, stream.height = CAMERA_WIDTH_IN_PIXELS, CAMERA_HEIGHT_IN_PIXELS
        stream.pix_fmt = "yuvj420p"
        for frame in source.decode(video=0):
            picture = frame.to_ndarray(format="rgb24", width=CAMERA_WIDTH_IN_PIXELS, height=CAMERA_HEIGHT_IN_PIXELS)
            picture[:, : CAMERA_WIDTH_IN_PIXELS // 2] //= 4
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def camera_page(playwright, chromium, space, clip, tmp_path) -> Iterator[Page]:
    """The page in a browser whose camera shows a film of the clip."""
    film = write_camera_film(tmp_path / "camera.mjpeg", clip)
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    complaints: list[str] = []
    with launched(playwright, chromium, *flags, f"--use-file-for-fake-video-capture={film}") as browser:
        page = browser.new_context(locale="en-GB").new_page()
        listen(page, space.address, complaints, None)
        page.goto(space.address)
        yield page
    assert complaints == []


@pytest.mark.slow
def test_the_camera_is_not_a_mirror(camera_page, space):
    page, before = camera_page, set(space.sent.rglob("*.webm"))
    page.get_by_role("button", name="Capture from camera").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    record = page.get_by_role("button", name="start recording")
    preview = page.get_by_test_id("webcam-video")
    expect(preview).to_be_visible()
    assert preview.evaluate("(video) => getComputedStyle(video).transform") == "matrix(-1, 0, 0, 1, 0, 0)"
    countdown = page.locator(".countdown")
    record.click()
    expect(countdown).to_have_text("2")
    record.click()  # not yet ready
    expect(countdown).to_have_count(0)
    record.click()
    expect(countdown).to_have_text("3")
    expect(record.get_by_title("stop recording")).to_be_visible()
    expect(countdown).to_have_count(0)
    page.wait_for_timeout(SECONDS_OF_RECORDING * 1000)
    record.click()  # "Stop" by now; Gradio leaves the name as it was
    wait_until_looked_at(page)
    assert clip_of(page).evaluate("(video) => getComputedStyle(video).transform") == "none"
    button(page, "translate_button").click()
    expect(timeline(page)).to_be_visible(timeout=WAIT_IN_MILLISECONDS)
    expect(page.get_by_text(ENGLISH["sureness_unknown"])).to_be_visible()
    recordings = set(space.sent.rglob("*.webm")) - before
    assert recordings
    for recording in recordings:
        with av.open(str(recording)) as container:
            frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        assert frames  # how many depends on how busy the machine is
        left, right = np.split(np.mean(frames, axis=0), 2, axis=1)
        assert 2 * left.mean() < right.mean()


@pytest.mark.slow
def test_captions_while_a_person_signs(camera_page, space):
    page, before = camera_page, set(space.sent.rglob("*"))
    page.get_by_role("button", name=ENGLISH["live_heading"]).click()
    saves = [button(page, f"download_{name}").first for name in ("txt", "srt", "vtt")]
    for save in saves:
        expect(save).to_be_disabled()
    button(page, "live_start").click()
    picture = page.locator("#live video")
    expect(page.get_by_text(ENGLISH["live_running"])).to_be_visible(timeout=WAIT_IN_MILLISECONDS)
    assert picture.evaluate("(video) => getComputedStyle(video).transform") == "matrix(-1, 0, 0, 1, 0, 0)"
    expect(page.locator("#live .live-caption")).not_to_have_text("", timeout=WAIT_IN_MILLISECONDS)
    page.wait_for_timeout(SECONDS_OF_RECORDING * 1000)
    button(page, "live_stop").click()
    expect(page.get_by_text(ENGLISH["live_ended"])).to_be_visible(timeout=WAIT_IN_MILLISECONDS)
    said = page.locator("#live .live-sentences li.final").all_inner_texts()
    assert said and picture.is_hidden()
    for save in saves:
        expect(save).to_be_enabled()
    with page.expect_download() as saved:
        saves[0].click()
    assert saved.value.suggested_filename == "captions.txt"
    assert Path(saved.value.path()).read_text(encoding="utf-8").splitlines() == said
    assert set(space.sent.rglob("*")) <= before  # pictures are nowhere but in memory


@pytest.mark.slow
def test_without_a_camera_there_is_a_sentence(visit):
    page = visit()
    page.get_by_role("button", name=ENGLISH["live_heading"]).click()
    button(page, "live_start").click()
    expect(page.get_by_text(ENGLISH["live_error_camera"])).to_be_visible()


def looks(element: ElementHandle) -> list[str]:
    return element.evaluate(FOCUS_LOOK)


def press_until(page: Page, key: str, wanted: Locator) -> None:
    """Press Tab or the like until that element has the focus; what has the focus looks different on the way."""
    for _ in range(MOST_TABS):
        before = page.evaluate_handle("document.activeElement").as_element()
        page.keyboard.press(key)
        focused = page.evaluate_handle("document.activeElement").as_element()
        if focused.evaluate("(element) => element === document.body"):
            continue  # past the end of the page and the browser's own buttons
        look = looks(focused)
        focused.evaluate("(element) => element.blur()")
        assert look != looks(focused), f"the focus cannot be seen: {focused.evaluate('e => e.outerHTML')[:300]}"
        focused.evaluate("(element) => element.focus({ focusVisible: true })")
        if wanted.count() and wanted.first.evaluate("(element) => element === document.activeElement"):
            return
        assert before != focused
    pytest.fail(f"no way to {wanted} with {key}")


def choose_with_the_keyboard(page: Page, clip: Path) -> None:
    """While it starts, the page takes the focus away, and Enter may go nowhere: then one goes there again."""
    for _ in range(MOST_ATTEMPTS):
        press_until(page, "Tab", page.get_by_role("button", name="Drop a video file here to upload"))
        try:
            with page.expect_file_chooser(timeout=SECONDS_TO_SETTLE * 1000) as chooser:
                page.keyboard.press("Enter")
        except BrowserTimeoutError:
            continue
        chooser.value.set_files(clip)
        return
    pytest.fail(f"Enter opened no choice of files {MOST_ATTEMPTS} times")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["upload", "example"])
def test_with_the_keyboard_alone(visit, clip, translate_alone, way):
    page = visit()
    if way == "upload":
        choose_with_the_keyboard(page, clip)
    else:
        number, clip = next(pair for pair in enumerate(clips(), start=1) if translate_alone(pair[1])["words"])
        press_until(page, "Tab", page.get_by_role("button", name=f"{ENGLISH['examples_label']}: {number}"))
        page.keyboard.press("Enter")
    wait_until_looked_at(page)
    press_until(page, "Tab", button(page, "translate_button"))
    page.keyboard.press("Space")
    expect(timeline(page)).to_be_visible(timeout=WAIT_IN_MILLISECONDS)
    expected = translate_alone(clip)
    word = np.random.randint(len(expected["words"]))
    press_until(page, "Tab", word_buttons(page).nth(word))
    page.keyboard.press("Enter")
    expect_second(page, expected["words"][word]["peak"])
    press_until(page, "Shift+Tab", page.get_by_role("slider", name=re.compile(ENGLISH["start_label"])))
    page.keyboard.press("ArrowRight")
    expect_second(page, 0.1)


NEEDS_A_NAME = {
    "button",
    "link",
    "checkbox",
    "radio",
    "radiogroup",
    "slider",
    "spinbutton",
    "textbox",
    "Video",
    "region",
}


def nameless(page: Page) -> list[str]:
    """Roles of elements that a screen reader can reach but that have no name; buttons name their content."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    tree = {node["nodeId"]: node for node in nodes}
    found = [node for node in nodes if not node["ignored"] and role_of(node) in NEEDS_A_NAME]
    found = [node for node in found if "button" not in roles_above(node, tree)]
    if len(found) < LEAST_TO_NAME:
        return [f"only {len(found)} things to name"]
    return [role_of(node) for node in found if not node.get("name", {}).get("value", "").strip()]


def expect_names(page: Page) -> None:
    """Immediately or, on a busy machine, soon."""
    for _ in range(20):
        without = nameless(page)
        if not without:
            return
        page.wait_for_timeout(250)
    pytest.fail(f"without a name: {without}")


def role_of(node: dict[str, Any]) -> str | None:
    return node.get("role", {}).get("value")


def roles_above(node: dict[str, Any], tree: dict[str, dict[str, Any]]) -> Iterator[str | None]:
    while node := tree.get(node.get("parentId")):
        yield role_of(node)


@pytest.mark.slow
def test_a_screen_reader_has_a_name_for_everything(visit, clip):
    page = visit()
    expect_names(page)
    translate(page, clip)
    expect_names(page)


@pytest.mark.slow
def test_a_screen_reader_is_told_what_comes(visit, clip, tmp_path, translate_alone):
    """Live regions must exist before something is written into them."""
    page = visit()
    live = page.evaluate_handle(
        "() => [...document.querySelectorAll('[aria-live]:not([aria-live=off]), [role=status], [role=alert]')]"
    )
    is_told = "(element, live) => live.some((place) => place.isConnected && place.contains(element))"
    translate(page, clip)
    sentence = page.get_by_text(translate_alone(clip)["translation_text"], exact=True).first
    assert sentence.evaluate(is_told, live)
    page.get_by_role("button", name="Clear").click()
    upload(page, bad_files(tmp_path)["error_no_picture"])
    assert page.get_by_text(ENGLISH["error_no_picture"]).evaluate(is_told, live)


def language_of(page: Page) -> str:
    return page.evaluate("document.documentElement.lang")


@pytest.mark.slow
@pytest.mark.parametrize(("locale", "language"), [("de-AT", "de"), ("en-US", "en"), ("fr-FR", "en")])
def test_the_page_speaks_the_language_of_the_browser(visit, locale, language):
    page = visit(locale=locale)
    expect(button(page, "translate_button", TEXTS[language])).to_be_visible()
    page.wait_for_function("(language) => document.documentElement.lang === language", arg=language)
    expect(page).to_have_title(TEXTS[language]["title"])


def left_of(texts: dict[str, str], others: dict[str, str], shown: list[str]) -> set[str]:
    """Texts of one language that are shown although the other language does not have them."""
    both = {text.casefold() for text in others.values()}
    pieces = {piece for text in texts.values() for piece in re.split(r"\{\w+\}|\*\*|`", text)}
    pieces = {piece.strip(" .,;:()%") for piece in pieces}
    words = {piece for piece in pieces if len(piece) > 2 and not any(piece.casefold() in text for text in both)}
    long = {piece for piece in words if len(piece.split()) > 2}
    return {word for word in words for text in shown if text.strip(" .,;:") == word or (word in long and word in text)}


@pytest.mark.slow
def test_the_switch_changes_every_text(visit, clip):
    page = visit()
    translate(page, clip)
    page.get_by_role("radio", name="Deutsch").click()
    expect(button(page, "translate_button", GERMAN)).to_be_visible()
    expect(page.get_by_text(GERMAN["table_heading"])).to_be_visible()
    page.wait_for_function("document.documentElement.lang === 'de'")
    assert left_of(ENGLISH, GERMAN, page.evaluate(ALL_TEXTS)) == set()
    page.get_by_role("radio", name="English").click()
    expect(button(page, "translate_button")).to_be_visible()
    expect(page.get_by_text(ENGLISH["table_heading"])).to_be_visible()
    assert left_of(GERMAN, ENGLISH, page.evaluate(ALL_TEXTS)) == set()
    assert language_of(page) == "en"


@pytest.mark.slow
def test_a_german_visitor_gets_everything_in_german(visit, clip, tmp_path):
    page = visit(locale="de-DE", forgiven=NO_FIRST_BYTE)
    expect(button(page, "translate_button", GERMAN)).to_be_visible()
    translate(page, clip, GERMAN)
    assert left_of(ENGLISH, GERMAN, page.evaluate(ALL_TEXTS)) == set()
    page.get_by_role("button", name=re.compile("Clear|Löschen|Leeren")).first.click()
    upload(page, bad_files(tmp_path)["error_empty_file"])
    expect(page.get_by_role("alert").filter(has_text=GERMAN["error_empty_file"])).to_be_visible()


def take_screenshot(page: Page, name: str) -> None:
    folder = os.environ.get(SCREENSHOTS_VARIABLE)
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def least_contrast(text: str) -> float:
    """The limits of WCAG 2 for text, and for a single symbol such as a closing cross."""
    return 3 if len(text) == 1 and not text.isalnum() else 4.5


def faint_texts(page: Page) -> list[tuple[str, float]]:
    """Texts that still have too little contrast, and which, when everything has had the time to fade in or out."""
    for _ in range(20):
        page.wait_for_timeout(500)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 20
        faint = [(text, ratio) for text, ratio in contrasts if ratio < least_contrast(text)]
        if not faint:
            break
    return faint


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS_IN_PIXELS)
def test_it_can_be_read_on_every_screen(visit, clip, tmp_path, device, scheme):
    size = {"width": WIDTHS_IN_PIXELS[device], "height": 844}
    page = visit(viewport=size, color_scheme=scheme, has_touch=device == "phone", reduced_motion="reduce")
    for state in ("empty", "translated", "error"):
        if state == "translated":
            translate(page, clip)
            page.get_by_text(ENGLISH["table_heading"]).click()
        if state == "error":
            page.get_by_role("button", name="Clear").click()
            upload(page, bad_files(tmp_path)["error_no_video_file"])
            expect(page.get_by_role("alert").filter(has_text=ENGLISH["error_no_video_file"])).to_be_visible()
        faint = faint_texts(page)
        take_screenshot(page, f"{device}_{scheme}_{state}")
        assert faint == []
        assert page.evaluate("document.scrollingElement.scrollWidth <= document.scrollingElement.clientWidth")
