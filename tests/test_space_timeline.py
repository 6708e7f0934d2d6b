"""The picture of what the model looked at: its content, its escaping, and its accessibility."""

import base64
import io
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "spaces_demo"))

import timeline  # noqa: E402
from texts import TEXTS  # noqa: E402


def random_piece(words: list[str], start: float = 0.0, num_tokens: int = 30) -> dict:
    """Words with evidence on a piece of `num_tokens` visual tokens, 0.16 seconds each."""
    times = start + 0.16 * np.arange(num_tokens)
    attention = np.random.dirichlet(np.full(num_tokens, 0.3), len(words)).astype(np.float32)
    peaks = times[attention.argmax(1)] if len(words) else []
    evidence = [
        {"word": word, "start": peak - 0.08, "end": peak + 0.08, "peak": peak, "probability": 0.9}
        for word, peak in zip(words, peaks, strict=True)
    ]
    piece = {"start": start, "end": start + 0.16 * num_tokens, "translation_text": " ".join(words), "words": evidence}
    return piece | {"attention": attention, "token_times": times}


def random_thumbnails(number: int, seconds: float) -> list[tuple[float, np.ndarray]]:
    pictures = np.random.randint(0, 256, (number, 40, 60, 3), dtype=np.uint8)
    return list(zip(np.linspace(0, seconds, number), pictures, strict=True))


def parse(text: str) -> ElementTree.Element:
    """Parse it as XML, which is strict: an extra tag or a misplaced quote is an error."""
    return ElementTree.fromstring(re.sub(r"(<img [^>]*)>", r"\1/>", text))


def word_buttons(page: ElementTree.Element) -> list[ElementTree.Element]:
    return page.findall(".//ol[@class='words']/li/button")


def text_of(element: ElementTree.Element) -> str:
    return "".join(element.itertext())


def test_every_word_is_a_button_at_its_peak():
    piece = random_piece(["the", "village", "sleeps"])
    page = parse(timeline.timeline_html([piece], 0.0, piece["end"]))
    for button, word in zip(word_buttons(page), piece["words"], strict=True):
        share = 100 * word["peak"] / piece["end"]
        assert button.get("type") == "button"
        assert text_of(button) == word["word"]
        assert float(button.get("data-seconds")) == pytest.approx(word["peak"], abs=0.005)
        assert f"left:{share:.1f}%" in button.get("style")


def test_a_button_says_what_it_does():
    word = {"word": "village", "start": 0.8, "end": 1.4, "peak": 1.1, "probability": 0.9}
    piece = {"start": 0, "end": 3, "translation_text": "village", "words": [word]}
    names = [
        word_buttons(parse(timeline.timeline_html([piece], 0, 3, language=language)))[0].get("aria-label")
        for language in ("en", "de")
    ]
    assert names == [
        "village, looked at 0.8 to 1.4 seconds, most at 1.1; jump there",
        "village, angesehen von 0,8 bis 1,4 Sekunden, am meisten bei 1,1; dorthin springen",
    ]


def test_from_a_minute_on_times_are_minutes():
    word = {"word": "village", "start": 59.96, "end": 3601.4, "peak": 61.1, "probability": 0.9}
    piece = {"start": 59, "end": 3700, "translation_text": "village", "words": [word]}
    button = word_buttons(parse(timeline.timeline_html([piece], 59, 3641)))[0]
    expected = "village, looked at 1:00.0 to 1:00:01.4 minutes, most at 1:01.1; jump there"
    assert button.get("aria-label") == expected
    assert button.get("data-seconds") == "61.10"


def test_unsure_words_differ_by_sign_line_and_words():
    piece = random_piece(["sure", "unsure"])
    piece["words"][1]["probability"] = 0.3
    page = parse(timeline.timeline_html([piece], 0.0, piece["end"]))
    sure, unsure = word_buttons(page)
    assert text_of(unsure).endswith("?") and not text_of(sure).endswith("?")
    assert ", unsure," in unsure.get("aria-label") and ", unsure," not in sure.get("aria-label")
    assert unsure.get("class") == "unsure" and "dotted" in timeline.CSS
    assert TEXTS["en"]["timeline_legend_unsure"] in text_of(page)
    assert page.find(".//h2").text == TEXTS["en"]["timeline_heading"]
    assert not any(
        "?" in text_of(button)
        for button in word_buttons(parse(timeline.timeline_html([piece], 0.0, piece["end"], unsure_below=0.2)))
    )


def test_the_table_has_the_numbers_of_the_picture():
    piece = random_piece(["the", "village"])
    piece["words"][1] |= {"probability": 0.314, "start": 0.2, "end": 1.44, "peak": 0.96}
    page = parse(timeline.timeline_html([piece], 0.0, piece["end"]))
    rows = [[text_of(cell) for cell in row] for row in page.findall(".//tr")]
    assert rows[0] == ["Word", "From", "To", "Most at", "How sure"]
    assert rows[2] == ["village", "0.2", "1.4", "1.0", "31 % (unsure)"]
    assert text_of(page.find(".//caption")) == "Times in seconds"


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{value}} ${1+1}", "a'b`c\\d&amp;", "{word} {0}"],
)
@pytest.mark.parametrize("number", [1, 2])
def test_whatever_a_word_holds_is_shown_as_text(text, number):
    pieces = [random_piece([text, "plain"], start=10.0 * index) for index in range(number)]
    result = timeline.timeline_html(pieces, 0.0, 10.0 * number, text_language='de" onclick="alert(1)')
    page = parse(result)
    assert text_of(word_buttons(page)[0]) == text
    assert word_buttons(page)[0].get("aria-label").startswith(f"{text}, looked at ")
    assert not any(element.tag in ("script", "img") for element in page.iter())
    assert not any(name.startswith("on") for element in page.iter() for name in element.attrib)
    # Gradio takes the value of an HTML component through a template.
    assert not re.search(r"[{}$`\\]", result)


def test_the_strongest_shade_is_where_the_attention_is_highest():
    piece = random_piece(["village"], num_tokens=8)
    peak = np.random.randint(8)
    piece["attention"] = np.full((1, 8), 0.01)
    piece["attention"][0, peak] = 0.93
    end = 8 * 0.16 - 0.08
    style = parse(timeline.timeline_html([piece], -0.08, end + 0.08)).find(".//div[@class='heat']").get("style")
    strongest = [stop for stop in style.split(",") if f"--tl-h{timeline.NUM_SHADES})" in stop]
    assert strongest == [f"var(--tl-h{timeline.NUM_SHADES}) {100 * peak / 8:.1f}% {100 * (peak + 1) / 8:.1f}%"]


def test_pieces_without_attention_or_words():
    piece = random_piece(["village"])
    del piece["attention"], piece["token_times"]
    page = parse(timeline.timeline_html([piece], 0.0, piece["end"]))
    assert page.find(".//div[@class='heat']").get("style") is None
    empty = random_piece([])
    assert TEXTS["de"]["timeline_no_words"] in timeline.timeline_html([empty], 0.0, 3.0, language="de")
    assert word_buttons(parse(timeline.timeline_html([], 0.0, 3.0))) == []


def test_thumbnails_cover_the_strip_once_as_small_pictures():
    piece = random_piece(["village"])
    page = parse(timeline.timeline_html([piece], 0.0, piece["end"], random_thumbnails(35, piece["end"])))
    images = page.findall(".//div[@class='film']/img")
    assert len(images) == timeline.MAX_THUMBNAILS
    widths = [float(re.search(r"width:([0-9.]+)%", image.get("style"))[1]) for image in images]
    assert sum(widths) == pytest.approx(100, abs=0.1 * len(images))
    address = images[0].get("src").removeprefix("data:image/jpeg;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(address)))
    assert picture.size == (156, timeline.THUMBNAIL_HEIGHT_IN_PIXELS)


def test_marks_are_round_few_and_inside():
    for duration in np.exp(np.random.uniform(np.log(0.2), np.log(20_000), 50)):
        start = np.random.uniform(0, 100)
        axis = timeline._Axis(start, start + duration)
        marks = np.array(axis.marks())
        assert 1 <= len(marks) <= timeline.MAX_MARKS + 1
        assert marks.min() >= start - 1e-9 and marks.max() <= start + duration + 1e-9


def test_many_sentences_stay_small_and_keep_their_captions():
    words = [f"word{index}" for index in range(12)]
    pieces = [random_piece(words, start=3.0 * index, num_tokens=100) for index in range(600)]
    result = timeline.timeline_html(pieces, 0.0, 1800.0, random_thumbnails(600, 1800.0))
    page = parse(result)
    assert len(result.encode()) < 1_000_000
    captions = page.findall(".//ol[@class='pieces']/li")
    assert len(captions) == 600
    seconds = [float(caption.find("button").get("data-seconds")) for caption in captions]
    assert seconds == pytest.approx([piece["start"] for piece in pieces], abs=0.005)
    assert all(" ".join(words) in text_of(caption) for caption in captions)
    assert 0 < len(word_buttons(page)) <= timeline.MAX_WORDS_WITH_PICTURE
    assert text_of(page).count(TEXTS["en"]["timeline_too_long"]) == 1


def luminance(colour: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-relative-luminance"""
    channels = np.array([int(colour[index : index + 2], 16) for index in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def colours_of(selector: str) -> dict[str, str]:
    rule = re.search(rf"^{re.escape(selector)} \{{(.*?)\}}", timeline.CSS, re.MULTILINE | re.DOTALL)[1]
    return dict(re.findall(r"--tl-([\w-]+): ([^;]+);", rule))


@pytest.mark.parametrize("selector", [".timeline", ".dark .timeline"])
def test_contrast(selector):
    colours = colours_of(selector)
    texts = [
        ("text", "background"),
        ("quiet", "background"),
        ("accent", "background"),
        ("accent", "button"),
        ("text", "now-background"),
    ]
    marks = [("line", "background"), ("now", "background"), ("now", "now-background"), ("text", "button")]
    shades = [colours[f"h{level}"] for level in range(1, timeline.NUM_SHADES + 1)]
    *channels, opacity = re.findall(r"[\d.]+", shades[-1])
    assert float(opacity) == 1 and len({shade.rpartition(",")[0] for shade in shades}) == 1
    strongest = "#" + "".join(f"{int(channel):02x}" for channel in channels)
    assert min(contrast(colours[one], colours[other]) for one, other in texts) >= 4.5
    assert min(contrast(colours[one], colours[other]) for one, other in marks) >= 3
    assert contrast(strongest, colours["background"]) >= 3
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_the_style_has_a_focus_ring_and_no_motion_for_those_who_want_none():
    assert ":focus-visible" in timeline.CSS
    motion = re.search(r"@media \(prefers-reduced-motion: no-preference\) \{.*?\}\s*\}", timeline.CSS)[0]
    assert "transition" in motion and "transition" not in timeline.CSS.replace(motion, "")
    assert "animation" not in timeline.CSS
    assert "prefers-reduced-motion" in timeline.JAVASCRIPT and f"#{timeline.VIDEO_ID} video" in timeline.JAVASCRIPT


@pytest.fixture(scope="module")
def browser():
    playwright_api = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("needs Chromium")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser, evidence: str, width: int = 1280):
    """The picture beside a video without a file, which still keeps the second that it jumps to."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    video = f'<div id="{timeline.VIDEO_ID}"><video></video></div>'
    page.set_content(f"<style>{timeline.CSS}</style><body>{video}{evidence}</body>")
    page.evaluate(f"({timeline.JAVASCRIPT.strip()})()")
    return page


def test_in_a_browser_words_make_the_video_jump_and_follow_it(browser):
    piece = random_piece(["the", "village", "sleeps"])
    page = open_page(browser, timeline.timeline_html([piece], 0.0, piece["end"]))
    buttons = page.locator(".words button")
    buttons.nth(1).click()
    second = page.locator("video").evaluate("video => video.currentTime")
    assert second == pytest.approx(piece["words"][1]["peak"], abs=0.005)
    assert page.locator(".status").inner_text() == f"The video is now at {piece['words'][1]['peak']:.1f} seconds."
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    second = page.locator("video").evaluate("video => video.currentTime")
    assert second == pytest.approx(piece["words"][2]["peak"], abs=0.005)
    page.locator("video").evaluate("video => video.dispatchEvent(new Event('timeupdate'))")
    expected = [abs(word["peak"] - second) < 0.07 for word in piece["words"]]
    marked = ["is-now" in buttons.nth(index).get_attribute("class") for index in range(3)]
    assert marked[2] and all(mark for mark, is_near in zip(marked, expected, strict=True) if is_near)
    assert page.locator(".playhead").is_visible()


def test_in_a_browser_the_part_of_a_word_is_repeated_until_it_is_no_longer_wanted(browser):
    """The video has no file: it keeps the second, and is never played, so the test says that time has passed."""
    piece = random_piece(["the", "village", "sleeps"])
    evidence = timeline.timeline_html([piece], 0.0, piece["end"])
    page = open_page(browser, f'<p id="{timeline.REPEAT_ID}"><input type="checkbox"></p>{evidence}')
    video, word = page.locator("video"), piece["words"][1]
    missing = max(0, 1 - round(word["end"], 2) + round(word["start"], 2)) / 2
    first, last = max(0, word["start"] - missing), word["end"] + missing
    second = lambda: video.evaluate("video => video.currentTime")  # noqa: E731

    def play_at(seconds: float, event: str = "timeupdate") -> None:
        video.evaluate(
            "(video, [second, name]) => { video.currentTime = second; video.dispatchEvent(new Event(name)); }",
            [seconds, event],
        )

    page.locator("input").check()
    page.locator(".words button").nth(1).click()
    assert second() == pytest.approx(first, abs=0.02)
    assert page.locator(".status").inner_text() == f"The video repeats the part around {word['peak']:.1f} seconds."
    play_at((first + last) / 2)
    assert second() == pytest.approx((first + last) / 2, abs=0.02)
    for event in ("timeupdate", "ended"):
        play_at(last + 0.1, event)
        assert second() == pytest.approx(first, abs=0.02)
    play_at(last + 2, "seeked")  # as who drags the slider does
    play_at(last + 2.1)
    assert second() == pytest.approx(last + 2.1, abs=0.02)
    page.locator(".words button").nth(1).click()
    page.locator("input").uncheck()
    play_at(last + 0.1)
    assert second() == pytest.approx(last + 0.1, abs=0.02)
    page.locator("input").check()
    page.locator(".words button").nth(1).click()
    play_at(0, "loadeddata")
    play_at(last + 0.1)
    assert second() == pytest.approx(last + 0.1, abs=0.02)


def test_on_a_phone_nothing_sticks_out(browser):
    piece = random_piece(["a", "Donaudampfschifffahrtsgesellschaftskapitaensmuetze", "village", "the"])
    evidence = timeline.timeline_html([piece], 0.0, piece["end"], random_thumbnails(5, piece["end"]))
    page = open_page(browser, evidence, width=360)
    page.locator("summary").last.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for button in page.locator(".words button").all():
        box = button.bounding_box()
        assert box["height"] >= 24 and box["width"] >= 24 and box["x"] >= 0 and box["x"] + box["width"] <= 360
