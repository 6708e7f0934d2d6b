"""
A Space that translates sign language videos with the model that MODEL_ID names. On one's own machine:

    MODEL_ID=me/flallm-phoenix python app.py
"""

import os
from pathlib import Path
from typing import Any

import gradio as gr
from transformers import Pipeline, pipeline

try:
    import modeling_flallm  # noqa: F401

    IS_FLALLM_INSTALLED = True
except ImportError:
    IS_FLALLM_INSTALLED = False

LIMITS = {"max_file_size": "50mb"}
MAX_WAITING_VISITORS = 20
# Not mirrored: a mirrored signer has swapped hands. Larger pictures and sound would only make the upload longer.
WEBCAM = gr.WebcamOptions(
    mirror=False, constraints={"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}, "audio": False}
)
WARNING = (
    "**This model makes mistakes, and they read as fluently as what is right.** It knows only the signs and topics "
    "that it was trained on. Do not use it where a wrong translation does harm: with doctors, in court, in an "
    "emergency. It takes no interpreter's place."
)


def load_translator(model_id: str | None, revision: str | None) -> Pipeline:
    """
    The translation pipeline of a model on the Hub or in a folder.

    Raises:
        SystemExit: if there is no `model_id`.
    """
    if not model_id:
        raise SystemExit("MODEL_ID is not set: name a model such as me/flallm-phoenix in the Space's variables.")
    # Without FLaLLM the Python files of that one repository are run. Its name, and with MODEL_REVISION its very commit,
    # is the choice of the Space's owner; a visitor has no way to name another.
    trust_remote_code = not IS_FLALLM_INSTALLED
    return pipeline("sign-language-translation", model_id, revision=revision, trust_remote_code=trust_remote_code)


def build_demo(translator: Pipeline, model_id: str) -> gr.Blocks:
    def translate(video: str | None) -> tuple[str, list[list[Any]]]:
        if video is None:
            raise gr.Error("Upload or record a video first.", print_exception=False)
        try:
            answer = translator(video, return_timestamps=True)
        except (ValueError, OSError) as error:
            message = str(error).replace(video, Path(video).name)  # visitors need not know our folders
            raise gr.Error(message, print_exception=False) from error
        words = [[word["word"], round(word["start"], 2), round(word["end"], 2)] for word in answer["words"]]
        return answer["translation_text"], words

    with gr.Blocks(title="Sign language translation") as demo:
        gr.Markdown(f"# Sign language translation\nModel: `{model_id}`\n\n{WARNING}")
        with gr.Row():
            with gr.Column():
                # A single source, another format or include_audio=False would call the ffmpeg command.
                video = gr.Video(label="Video", sources=["upload", "webcam"], webcam_options=WEBCAM, format=None)
                button = gr.Button("Translate", variant="primary")
            with gr.Column():
                text = gr.Textbox(label="Translation", buttons=["copy"])
                words = gr.Dataframe(
                    label="Where the model looked for each word",
                    headers=["word", "from second", "to second"],
                    datatype=["str", "number", "number"],
                    interactive=False,
                )
        button.click(translate, inputs=video, outputs=[text, words], api_name="translate", concurrency_limit=1)
    return demo.queue(max_size=MAX_WAITING_VISITORS)


def main() -> None:
    model_id = os.environ.get("MODEL_ID")
    build_demo(load_translator(model_id, os.environ.get("MODEL_REVISION")), model_id).launch(**LIMITS)


if __name__ == "__main__":
    main()
