"""No video is fetched from an address that a visitor names."""

import asyncio
import logging
from typing import Any

import gradio as gr
from texts import TEXTS

logger = logging.getLogger(__name__)


async def _take_only_uploads(self: gr.Video, url_or_file_path: Any) -> str | None:
    if str(url_or_file_path).lower().startswith(("http:", "https:")):
        raise gr.Error(TEXTS["en"]["error_address"], print_exception=False)
    return await super(gr.Video, self).async_move_resource_to_block_cache(url_or_file_path)


# Gradio would fetch a video of any size from any address. A subclass would make Gradio write a file beside this one,
# and a method of one component is lost when its label changes. `check_addresses_are_refused` tests this guard.
gr.Video.async_move_resource_to_block_cache = _take_only_uploads


def check_addresses_are_refused(demo: gr.Blocks) -> None:
    """
    Raises:
        SystemExit: if this Gradio would fetch a video from an address, as it does without the guard above.
    """
    asked = {"path": "http://127.0.0.1:9/clip.mp4", "meta": {"_type": "gradio.FileData"}}
    for function in (function for function in demo.fns.values() if _takes_a_video(function)):
        others = [None] * len(function.inputs[1:])
        try:
            asyncio.run(demo.preprocess_data(function, [asked, *others], None))
        except gr.Error as error:
            if error.message == TEXTS["en"]["error_address"]:
                continue
        except Exception:
            logger.exception("The guard against addresses could not be tested.")
        raise SystemExit(
            f"The Space does not start: Gradio {gr.__version__} would fetch videos from any address that a visitor "
            "names. Install the version of Gradio that the Space's README.md names as sdk_version."
        )


def _takes_a_video(function: Any) -> bool:
    return bool(function.inputs) and isinstance(function.inputs[0], gr.Video)
