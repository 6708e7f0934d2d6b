"""
A Space that translates sign language videos, or poses, with the model named in MODEL_ID. To run it locally:

    MODEL_ID=me/flallm-phoenix python app.py
"""

import dataclasses
import logging
import math
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
# Makes waiting threads of torch sleep soon, because others need their cores; read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
# A folder that no other Gradio program writes to, because old files in it are deleted.
os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(tempfile.gettempdir()) / "flallm_space"))

import appearance  # noqa: E402
import gradio as gr  # noqa: E402
import live  # noqa: E402
import reading_aids  # noqa: E402
import results  # noqa: E402
import timeline  # noqa: E402
import uploads  # noqa: E402
from addresses import check_addresses_are_refused  # noqa: E402
from decoding import LONGEST_VIDEO_IN_SECONDS, POSE_SUFFIXES, VideoProblem  # noqa: E402
from model_facts import ModelFacts, facts_as_markdown, read_model_facts  # noqa: E402
from model_loading import load_translator, pinned_revision  # noqa: E402
from programs import about_endpoints  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from texts import LANGUAGES, TEXTS, decimal, language_from_header  # noqa: E402
from translating import HANDS, MOST_TRANSLATIONS, Result, Step, Translator  # noqa: E402
from turns import Visitors, visitor_of  # noqa: E402

logger = logging.getLogger(__name__)

LARGEST_FILE_IN_MEGABYTES = 300
MOST_WAITING, MOST_WAITING_OF_ONE_VISITOR = 100, 10
NUM_OTHER_THREADS = 40
MINUTES_UNTIL_FILES_ARE_DELETED = 60
# Less two sweeps, which may pass before a file is found.
SECONDS_UNTIL_FILES_ARE_DELETED = MINUTES_UNTIL_FILES_ARE_DELETED * 60 - 2 * uploads.SECONDS_BETWEEN_SWEEPS
SECONDS_OF_A_LONG_VIDEO = 15
PLAYED_BY_BROWSERS = (".mp4", ".webm", ".mov", ".m4v", ".ogv")  # a Space does not have our own list
NARROW_BUTTON_IN_PIXELS = 100  # two fit side by side on a phone
NUMBERS_OF_TRANSLATIONS = list(range(1, MOST_TRANSLATIONS + 1))
NO_TIMES = {"minimum": 0, "maximum": 1, "step": 0.1, "interactive": False}
# Not mirrored: a mirrored signer has swapped hands. Larger pictures and sound would only make the upload longer.
WEBCAM = gr.WebcamOptions(
    mirror=False, constraints={"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}, "audio": False}
)

LAUNCH = {
    "max_file_size": f"{LARGEST_FILE_IN_MEGABYTES}mb",
    "css": appearance.CSS,
    "js": appearance.ON_LOAD,
    "theme": appearance.THEME,
    "footer_links": ["api"],
    "ssr_mode": False,  # its server between the browser and this one passes no WebSockets on
    "pwa": True,  # phones can install it, as an app with this icon
    "favicon_path": appearance.ICON,
    "max_threads": MOST_WAITING + NUM_OTHER_THREADS,  # each waiting request holds one
}


class Page:
    """The page with its events, and the API."""

    def __init__(self, translator: Translator, facts: ModelFacts):
        self.translator, self.facts = translator, facts
        self.reads_poses = translator.reads_poses
        self.camera: gr.Video | None = None  # where poses are translated, and videos are taken for them
        self.visitors = Visitors(MOST_WAITING, MOST_WAITING_OF_ONE_VISITOR)
        is_live = live.LiveCaptions.are_possible(translator)
        self.live = live.LiveCaptions(translator, self.visitors, _sentence_for) if is_live else None
        self.speaking: list[tuple[gr.components.Component, Callable[[dict[str, str]], dict[str, Any]]]] = []

    def build(self, examples: list[str]) -> gr.Blocks:
        # For files that Gradio knows of; `uploads` deletes the rest.
        delete_cache = (uploads.SECONDS_BETWEEN_SWEEPS, SECONDS_UNTIL_FILES_ARE_DELETED)
        with gr.Blocks(title=TEXTS["en"]["title"], delete_cache=delete_cache, analytics_enabled=False) as demo:
            self._head(demo)
            self._live()
            with gr.Column(elem_id="signer-and-words"), gr.Row():
                with gr.Column():
                    self._signer()
                with gr.Column():
                    self._translation()
                    self.timeline = gr.HTML()
            with gr.Row():
                with gr.Column():
                    self._choices(examples)
                with gr.Column():
                    self._captions_to_save()
            self._about_the_model()
            self._foot()
            self._events(demo)
            self._endpoints()
        return demo.queue(max_size=MOST_WAITING)

    def _add(self, component: type, texts: Callable[[dict[str, str]], dict[str, Any]], **options: Any) -> Any:
        """Add a component whose texts change with the language of the page."""
        made = component(**texts(TEXTS["en"]), **options)
        self.speaking.append((made, texts))
        return made

    def _text(self, texts: dict[str, str], name: str) -> str:
        """A text of the page, or the one that takes its place where poses are translated."""
        return texts.get(f"poses_{name}", texts[name]) if self.reads_poses else texts[name]

    def _head(self, demo: gr.Blocks) -> None:
        choices = [(name, code) for code, name in LANGUAGES.items()]
        with gr.Row():
            self.language = self._add(
                gr.Radio, lambda texts: {"label": texts["language_switch"]}, choices=choices, value="en"
            )
            reading_aids.large_text(self._add, demo)
        self._add(gr.Markdown, self._title_and_intro)
        reading_aids.introduction(self._add)
        self._add(gr.Markdown, lambda texts: {"value": texts["warning"]}, elem_id="warning")

    def _title_and_intro(self, texts: dict[str, str]) -> dict[str, str]:
        limits = {"megabytes": LARGEST_FILE_IN_MEGABYTES, "minutes": LONGEST_VIDEO_IN_SECONDS // 60}
        intro = self._text(texts, "intro").format(**limits)
        if self.reads_poses and self.translator.takes_videos:
            intro += f" {texts['poses_intro_of_videos']}"
        return {"value": f"# {texts['title']}\n\n{intro}"}

    def _live(self) -> None:
        """The camera with captions, if the model can do that; its events need the choice of the hand, see `_events`."""
        if self.live is None:
            return
        with self._add(gr.Accordion, lambda texts: {"label": texts["live_heading"]}, open=False):
            self._add(
                gr.Markdown,
                lambda texts: {"value": texts["live_intro"].format(minutes=live.MOST_MINUTES)},
            )
            with gr.Row():
                self.start_live, self.stop_live = (
                    self._add(gr.Button, lambda texts, name=name: {"value": texts[name]}, variant=variant)
                    for name, variant in (("live_start", "primary"), ("live_stop", "secondary"))
                )
            gr.HTML(live.STAGE, elem_id="live")
            with gr.Row():
                self.save_live = {
                    name: self._add(
                        gr.Button, lambda texts, name=name: {"value": texts[f"download_{name}"]}, interactive=False
                    )
                    for name in live.TRANSCRIPTS
                }
            self.live_captions = {name: gr.Textbox(visible="hidden") for name in live.TRANSCRIPTS}

    def _events_of_live(self) -> None:
        hidden = {"queue": False, "api_visibility": "private"}
        self.start_live.click(None, [self.language, self.hand], None, js=appearance.in_browser("startLive"), **hidden)
        stopped = self.stop_live.click(
            None, self.language, list(self.live_captions.values()), js=appearance.in_browser("stopLive"), **hidden
        )
        stopped.then(
            lambda *captions: [gr.update(interactive=bool(each)) for each in captions],
            list(self.live_captions.values()),
            list(self.save_live.values()),
            **hidden,
        )
        for name, button in self.save_live.items():
            text = self.live_captions[name]
            button.click(None, text, js=appearance.in_browser("saveCaptions", name), **hidden)

    def _signer(self) -> None:
        """`clip` is what is translated, and `video` shows the signer: they are one, or a file and its skeleton."""
        if self.reads_poses:
            self.clip = self._add(
                gr.File, lambda texts: {"label": self._file_label(texts)}, file_types=self._file_types()
            )
            self.video = self._add(
                gr.Video,
                lambda texts: {"label": texts["skeleton_label"]},
                interactive=False,
                format=None,
                elem_id=timeline.VIDEO_ID,
            )
            if self.translator.takes_videos:
                with self._add(gr.Accordion, lambda texts: {"label": texts["camera_heading"]}, open=False):
                    self.camera = self._video_to_upload_or_record()
        else:
            self.clip = self.video = self._video_to_upload_or_record(elem_id=timeline.VIDEO_ID)
        narrow = {"min_width": NARROW_BUTTON_IN_PIXELS}
        with gr.Row():
            self.translate = self._add(
                gr.Button, lambda texts: {"value": texts["translate_button"]}, variant="primary", **narrow
            )
            self.stop = self._add(gr.Button, lambda texts: {"value": texts["stop_button"]}, **narrow)
        reading_aids.playback(self._add)

    def _video_to_upload_or_record(self, **options: Any) -> gr.Video:
        """A single source, another format or include_audio=False would call the ffmpeg command."""
        return self._add(
            gr.Video,
            lambda texts: {"label": texts["video_label"]},
            sources=["upload", "webcam"],
            webcam_options=WEBCAM,
            format=None,
            **options,
        )

    def _file_types(self) -> list[str]:
        return [*POSE_SUFFIXES, *(["video"] if self.translator.takes_videos else [])]

    def _file_label(self, texts: dict[str, str]) -> str:
        return texts["poses_or_video_label" if self.translator.takes_videos else "poses_label"]

    def _translation(self) -> None:
        self._add(gr.Markdown, lambda texts: {"value": f"## {texts['translation_label']}"})
        self.result = gr.HTML(elem_id="result")
        self.share = reading_aids.share_button(self._add, self.language)

    def _choices(self, examples: list[str]) -> None:
        if examples:
            label = self._text(TEXTS["en"], "examples_label")
            dataset = gr.Examples(examples, self.clip, label=label).dataset
            self.speaking.append((dataset, lambda texts: {"label": self._text(texts, "examples_label")}))
        self.start = self._add(gr.Slider, _label_and_info("start"), value=0, **NO_TIMES)
        self.end = self._add(gr.Slider, _label_and_info("end"), value=1, **NO_TIMES)
        self.is_long = self._add(gr.Checkbox, _label_and_info("long"))
        self.num_translations = self._add(
            gr.Radio, _label_and_info("translations"), choices=NUMBERS_OF_TRANSLATIONS, value=1
        )
        self.hand = self._add(gr.Radio, _choices_of_hand, value="no", visible=self.translator.can_mirror)

    def _captions_to_save(self) -> None:
        self._add(gr.Markdown, lambda texts: {"value": f"## {texts['captions_heading']}\n\n{texts['captions_info']}"})
        self.captions = {name: gr.Textbox(visible="hidden") for name in ("srt", "vtt")}
        with gr.Row():
            self.save = {
                name: self._add(
                    gr.Button, lambda texts, name=name: {"value": texts[f"download_{name}"]}, interactive=False
                )
                for name in self.captions
            }

    def _about_the_model(self) -> None:
        with self._add(gr.Accordion, lambda texts: {"label": texts["model_heading"]}, open=False):
            self._add(gr.Markdown, lambda texts: {"value": facts_as_markdown(self.facts, _language_of(texts))})

    def _foot(self) -> None:
        minutes = MINUTES_UNTIL_FILES_ARE_DELETED
        self._add(gr.Markdown, lambda texts: {"value": self._text(texts, "privacy").format(minutes=minutes)})
        example = "clip.pose" if self.reads_poses else "clip.mp4"
        self._add(gr.Markdown, lambda texts: {"value": about_endpoints(texts, example)}, elem_id="for-programs")

    def _events(self, demo: gr.Blocks) -> None:
        hidden = {"api_visibility": "private"}
        outcome = gr.State(time_to_live=SECONDS_UNTIL_FILES_ARE_DELETED)
        shown = [self.result, self.timeline, outcome, *self.captions.values(), *self.save.values(), self.share]
        demo.load(_language_of_browser, outputs=self.language, **hidden)
        spoken = [component for component, _ in self.speaking] + [self.result, self.timeline]
        self.language.change(
            self._speak,
            [self.language, outcome],
            spoken,
            js=appearance.in_browser("setLanguage"),
            queue=False,
            **hidden,
        )
        looked_at = [self.start, self.end, self.is_long, *shown, *([self.clip, self.video] if self.reads_poses else [])]
        self.clip.change(
            self._show_poses if self.reads_poses else self._look,
            [self.clip, self.language],
            looked_at,
            concurrency_limit=None,
            show_progress="hidden",
            **hidden,
        )
        if self.camera is not None:
            self.camera.change(
                self._show_poses_of_camera,
                [self.camera, self.language],
                [*looked_at, self.camera],
                concurrency_limit=None,
                show_progress="hidden",
                **hidden,
            )
        for slider in (self.start, self.end):
            slider.input(None, slider, js=appearance.in_browser("showSecond"), **hidden)
        run = self.translate.click(
            self._translate,
            [self.clip, self.start, self.end, self.is_long, self.num_translations, self.hand, self.language],
            shown,
            js=appearance.in_browser("showResult"),
            concurrency_limit=None,
            show_progress="hidden",
            **hidden,
        )
        run.then(None, self.captions["vtt"], js=appearance.in_browser("showCaptions"), **hidden)
        self.stop.click(self._stopped, [self.language, outcome], shown, cancels=[run], queue=False, **hidden)
        if self.live is not None:
            self._events_of_live()
        for name, button in self.save.items():
            button.click(None, self.captions[name], js=appearance.in_browser("saveCaptions", name), **hidden)

    def _endpoints(self) -> None:
        """The API. It takes numbers, because sliders reject seconds beyond the video that the page last showed."""
        seconds = [gr.Number(value=0, label=label, visible=False) for label in ("start", "end")]
        is_long = gr.Checkbox(label="is_long", visible=False)
        language = gr.Radio(list(LANGUAGES), value="en", label="language", visible=False)
        num_translations = gr.Radio(NUMBERS_OF_TRANSLATIONS, value=1, label="num_translations", visible=False)
        left_handed = gr.Radio(list(HANDS), value="no", label="left_handed", visible=False)
        gr.Button(visible=False).click(
            self.translate_for_programs,
            [self.clip, *seconds, is_long, language, num_translations, left_handed],
            gr.JSON(label="translation", visible=False),
            api_name="translate",
            concurrency_limit=None,
        )
        gr.Button(visible=False).click(
            self.about, None, gr.JSON(label="model", visible=False), api_name="about", queue=False
        )

    def _speak(self, language: str, outcome: Result | Exception | None) -> list[Any]:
        words = [gr.update(**texts(TEXTS[language])) for _, texts in self.speaking]
        return [*words, *self._shown(outcome, language)]

    def _shown(self, outcome: Result | Exception | None, language: str) -> tuple[str, str]:
        """HTML of the result and of the timeline."""
        if outcome is None:
            return "", ""
        if isinstance(outcome, Exception):
            return results.problem_html(_sentence_for(outcome, language)), ""
        picture = timeline.timeline_html(
            outcome.pieces,
            outcome.start,
            outcome.end - outcome.start,
            outcome.thumbnails,
            language,
            self.facts.spoken_language_tag,
        )
        return results.result_html(outcome, language, self.facts), picture

    def _look(self, video: str | None, language: str, request: gr.Request) -> list[Any]:
        """Set the sliders for a new video, and clear the results of the last one."""
        sliders = [gr.update(value=0, **NO_TIMES), gr.update(value=1, **NO_TIMES), False]
        if video is None:
            return [*sliders, *self._after(None, language)]
        try:
            visitor = visitor_of(request)
            with self.visitors.one_more(visitor):
                seconds = self.translator.look(video, visitor)
        except Exception as error:
            return [*sliders, *self._after(error, language)]
        end = math.ceil(10 * seconds - 1e-6) / 10  # rounded up to a step of the sliders, so that no frame is left out
        limits = {**NO_TIMES, "maximum": end, "interactive": True}
        is_long = seconds > SECONDS_OF_A_LONG_VIDEO
        return [gr.update(value=0, **limits), gr.update(value=end, **limits), is_long, *self._after(None, language)]

    def _show_poses(self, file: str | None, language: str, request: gr.Request) -> Iterator[list[Any]]:
        """As `_look`, with the skeleton of a file; a video is replaced by a file of its poses, which is then shown."""
        visitor = visitor_of(request)
        try:
            if file is not None and self.translator.is_video(file):
                no_film, cleared = None, self._look(None, language, request)
                with self.visitors.one_more(visitor):
                    for event in self.translator.extract_poses(file, self._folder_of_made_files(), visitor):
                        if isinstance(event, Step):
                            shown = [results.step_html(event, language), *cleared[4:]]
                            yield [*cleared[:3], *shown, gr.skip(), no_film]
                        else:
                            yield [*cleared, event, no_film]
                # Gradio sends what came last twice: a new file would be looked at again, and clear the translation.
                yield [gr.skip()] * (len(cleared) + 2)
                return
        except Exception as error:
            yield [*self._look(None, language, request)[:3], *self._after(error, language), None, None]
            return
        looked = self._look(file, language, request)
        yield [*looked, gr.skip(), None]  # drawing takes longer
        if file is not None and not any(isinstance(value, Exception) for value in looked):
            yield [*(gr.skip() for _ in looked), gr.skip(), self._film_of(file, visitor)]

    def _show_poses_of_camera(self, video: str | None, language: str, request: gr.Request) -> Iterator[Any]:
        """As `_show_poses`. The video leaves the page first, because it is deleted once its poses are found."""
        yield {self.camera: None}
        if video is not None:
            for values in self._show_poses(video, language, request):
                yield [*values, gr.skip()]

    def _film_of(self, file: str, visitor: str) -> str | None:
        """The path of a film of its skeletons, with the name of the file; None if they cannot be drawn in time."""
        try:
            content = self.translator.film(file, visitor)
        except VideoProblem:
            return None
        film = self._folder_of_made_files() / f"{Path(file).stem}.mp4"
        film.parent.mkdir(parents=True)
        film.write_bytes(content)
        return str(film)

    def _folder_of_made_files(self) -> Path:
        """A new folder among those that are swept."""
        return Path(os.environ["GRADIO_TEMP_DIR"]) / "made" / secrets.token_hex(16)

    def _after(self, outcome: Result | Exception | None, language: str) -> tuple[Any, ...]:
        """Values for result, timeline, outcome, captions and the buttons that save or share them."""
        is_there = isinstance(outcome, Result)
        captions = self._captions_of(outcome) if is_there else dict.fromkeys(self.captions, "")
        buttons = (gr.update(interactive=is_there) for _ in (*self.save, "share"))
        return (*self._shown(outcome, language), outcome, *captions.values(), *buttons)

    def _translate(
        self,
        video: str | None,
        start: float,
        end: float,
        is_long: bool,
        num_translations: int,
        hand: str,
        language: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        try:
            for event in self._events_of(video, start, end, is_long, num_translations, hand, visitor_of(request)):
                if isinstance(event, Step):
                    _, picture, _, *captions = self._after(None, language)
                    yield results.step_html(event, language), picture, event.finished, *captions
                else:
                    yield self._after(event, language)
        except Exception as error:
            yield self._after(error, language)

    def _events_of(
        self,
        video: str | None,
        start: float,
        end: float | None,
        is_long: bool,
        num_translations: int,
        hand: str,
        visitor: str,
    ) -> Iterator[Step | Result]:
        if video is None:
            raise VideoProblem("error_no_poses" if self.reads_poses else "error_no_video")
        with self.visitors.one_more(visitor):
            if self.translator.is_video(video):
                for event in self.translator.extract_poses(video, self._folder_of_made_files(), visitor):
                    if isinstance(event, Step):
                        yield event
                    else:
                        video = event
            yield from self.translator.translate(
                video, start, end, is_long, visitor, num_translations, left_handed=HANDS[hand]
            )

    def _captions_of(self, result: Result) -> dict[str, str]:
        """Contents of the caption files, by `srt` and `vtt`."""
        pieces = [{**piece, "translation_text": results.marked(piece)} for piece in result.pieces]
        processor = self.translator.pipeline.processor
        return {name: processor.format_captions(pieces, name) for name in self.captions}

    def _stopped(self, language: str, outcome: Result | Exception | None) -> tuple[Any, ...]:
        """Keep the finished sentences of a long video."""
        return self._after(outcome if isinstance(outcome, Result) else VideoProblem("stopped"), language)

    def translate_for_programs(
        self,
        video: str | None,
        start: float | None,
        end: float | None,
        is_long: bool,
        language: str,
        num_translations: int,
        left_handed: str,
        request: gr.Request,
    ) -> dict[str, Any]:
        """
        Translate a video. Returns `text`, `sentences` with their seconds and how sure the model is, `alternatives` (as
        many as make `num_translations` with `text`, if that is above 1), `left_handed` (whether the signer was taken
        for it, None if that was no question), and the captions as `srt` and `vtt`.
        """
        try:
            choices = (is_long, num_translations, left_handed)
            *_, result = self._events_of(video, start, end or None, *choices, visitor_of(request))
            return results.as_json(result, self._captions_of(result), language)
        except Exception as error:
            raise gr.Error(_sentence_for(error, language), print_exception=False) from error

    def about(self) -> dict[str, Any]:
        """What the model's card says."""
        return dataclasses.asdict(self.facts)


def _label_and_info(name: str) -> Callable[[dict[str, str]], dict[str, str]]:
    return lambda texts: {"label": texts[f"{name}_label"], "info": texts[f"{name}_info"]}


def _choices_of_hand(texts: dict[str, str]) -> dict[str, Any]:
    return {**_label_and_info("hand")(texts), "choices": [(texts[f"hand_{name}"], name) for name in HANDS]}


def _language_of(texts: dict[str, str]) -> str:
    return next(language for language, others in TEXTS.items() if others is texts)


def _language_of_browser(request: gr.Request) -> str:
    return language_from_header(request.headers.get("accept-language"))


def _sentence_for(error: Exception, language: str) -> str:
    """The message for the visitor; what only the owner can fix goes to the log."""
    texts = TEXTS[language]
    if isinstance(error, VideoProblem):
        values = {
            key: decimal(value, language) if isinstance(value, float) else value for key, value in error.values.items()
        }
        return texts[error.name].format(**values)
    if isinstance(error, FileNotFoundError):  # it waited so long that the file has been deleted
        return texts["error_no_video"]
    logger.error("A translation failed.", exc_info=error)
    return texts["error_ours"]


def find_examples(reads_poses: bool = False) -> list[str]:
    """The first four videos, or files of poses, in EXAMPLES_FOLDER, or in the folder `examples` beside this file."""
    suffixes = POSE_SUFFIXES if reads_poses else PLAYED_BY_BROWSERS
    folder = Path(os.environ.get("EXAMPLES_FOLDER") or Path(__file__).resolve().parent / "examples")
    files = sorted(path for path in folder.resolve().glob("*") if path.is_file() and path.name[0] != ".")
    unplayable = [path.name for path in files if path.suffix.lower() not in suffixes]
    if unplayable:
        logger.warning(f"Examples must be {', '.join(suffixes)}; left out: {', '.join(unplayable)}")
    return [str(path) for path in files if path.name not in unplayable][:4]


def launch(page: Page, examples: list[str], **options: Any) -> gr.Blocks:
    """Start the page and the deletion of its files; `options` are those of Gradio's `launch`."""
    demo = page.build(examples)
    check_addresses_are_refused(demo)
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    uploads.keep_deleting(folder, SECONDS_UNTIL_FILES_ARE_DELETED, lambda: _kept_files(demo))
    most_bytes = LARGEST_FILE_IN_MEGABYTES * 2**20 + 2**16  # plus the head and the end of a form
    limits = Middleware(uploads.UploadLimits, folder=folder, most_bytes=most_bytes)
    # In a folder elsewhere, only the examples may be served.
    routes = {} if page.live is None else {"routes": [page.live.route()]}
    demo.launch(**LAUNCH, allowed_paths=examples, app_kwargs={"middleware": [limits], **routes}, **options)
    return demo


def _kept_files(demo: gr.Blocks) -> set[str]:
    return {path for block in list(demo.blocks.values()) for path in getattr(block, "keep_in_cache", ())}


def main() -> None:
    model_id = os.environ.get("MODEL_ID")
    revision = os.environ.get("MODEL_REVISION") or None
    if model_id:
        revision = pinned_revision(model_id, revision)
    page = Page(load_translator(model_id, revision), read_model_facts(model_id, revision))
    launch(page, find_examples(page.reads_poses))


if __name__ == "__main__":
    main()
