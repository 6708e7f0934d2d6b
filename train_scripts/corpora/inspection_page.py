"""The findings of `flallm inspect`, as text for a terminal and as an HTML page."""

import base64
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker
import torch

from .inspected_clips import Clip, Corpus, strip_of_poses

PAGE_TEMPLATE = Path(__file__).with_name("inspection_page.html")
MAX_NUM_TOKENS = 1024  # mBART's learned positions
MOST_SHOWN = 20  # lines per list in text and on the page, except for broken files; the JSON file has all of them


def spread_of(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "min": min(values),
        "median": statistics.median(values),
        "mean": statistics.mean(values),
        "max": max(values),
    }


def verdicts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What to look at first: pairs of `"Problem"`, `"Warning"`, `"Note"` or `"Good"` and a sentence."""
    lines = []
    if report["errors"]:
        lines.append(("Problem", f"{len(report['errors'])} row(s) or file(s) are broken; each is listed below."))
    for pair in report["leakage"]:
        first, second = pair["splits"]
        if pair["same_clips"]:
            text = f"LEAKAGE: {len(pair['same_clips'])} of {pair['clips']} clips of {second} are also in {first}."
            lines.append(("Problem", f"{text} Scores on {second} would be too good."))
        if pair["same_sentences"]:
            text = f"{pair['same_sentences']} of {pair['clips']} sentences of {second} also occur in {first}."
            lines.append(("Warning", text))
    for split, figures in report["splits"].items():
        if figures["repeated_clips"]:
            lines.append(("Warning", f"{figures['repeated_clips']} clip(s) of {split} are copies of another."))
    for preset in report["presets"]:
        if preset["too_long"]:
            text = f"{len(preset['too_long'])} clip(s) have more than {MAX_NUM_TOKENS} visual tokens, more than mBART"
            lines.append(("Warning", f"{preset['name']}: {text} can take. Set --max_num_frames."))
        if preset["too_short"]:
            text = f"{len(preset['too_short'])} clip(s) have fewer visual tokens than their sentence has words."
            lines.append(("Note", f"{preset['name']}: {text}"))
    for pair in report["leakage"]:
        if pair["same_signers"]:
            first, second = pair["splits"]
            text = f"{pair['clips_of_same_signers']} of {pair['clips']} clips of {second} are by signers of {first}."
            lines.append(("Note", text))
    for split, figures in report.get("poses", {}).items():
        if figures["clips_without_hands"]:
            text = f"{figures['clips_without_hands']} of {figures['clips']} clips of {split} never show a hand."
            lines.append(("Warning", f"{text} Nothing can be learned from them: extract their poses again."))
        if len(figures["extractors"]) > 1:
            text = f"the poses of {split} are of {len(figures['extractors'])} extractors, which see different things."
            lines.append(("Warning", text))
        if figures["clips_of_several_people"]:
            text = f"{figures['clips_of_several_people']} clip(s) of {split} show several people"
            lines.append(("Note", f"{text}: the signer is taken to be the one with the largest body."))
    if report["warnings"]:
        lines.append(("Note", f"{len(report['warnings'])} other finding(s) are listed below."))
    if not any(kind in ("Problem", "Warning") for kind, _ in lines):
        lines.insert(0, ("Good", "Every file can be read to its end, and no clip or sentence is in two splits."))
    return lines


def tables(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tables for text and page: title, header and rows of strings; the first cell of each row is a row header."""
    splits = report["splits"]
    found = [
        {"title": "Splits", "header": ["", *splits], "rows": _split_rows(splits)},
        {
            "title": "Overlap between splits",
            "header": ["first, second", "same clips", "same sentences", "signers in both", "their clips in the second"],
            "rows": [_pair_row(pair) for pair in report["leakage"]],
        },
        {
            "title": "Presets",
            "header": ["preset", "visual tokens", "too long", "fewer tokens than words", "largest batch of pixels"],
            "rows": [_preset_row(preset) for preset in report["presets"]],
        },
    ]
    if "poses" in report:
        found.insert(1, {"title": "Poses", "header": ["", *splits], "rows": _pose_rows(report["poses"])})
    if "tokenizer" in report:
        tokenizer = report["tokenizer"]
        unknown = tokenizer["sentences_with_unknown_tokens"]
        rows = [[split, _show_spread(spread), str(unknown[split])] for split, spread in tokenizer["tokens"].items()]
        header = ["", "tokens in a sentence", "sentences with unknown tokens"]
        found.append({"title": "Tokenizer", "header": header, "rows": rows})
    return [table for table in found if table["rows"]]


def _split_rows(splits: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "clips": lambda figures: str(figures["clips"]),
        "clips that can be read": lambda figures: str(figures["readable_clips"]),
        "hours": lambda figures: f"{figures['hours']:.2f}",
        "seconds": lambda figures: _show_spread(figures["duration_in_seconds"]),
        "frames": lambda figures: _show_spread(figures["frames"]),
        "width x height": lambda figures: _show_counts(figures["resolutions"]),
        "frames per second": lambda figures: _show_counts(figures["frame_rates"]),
        "words in a sentence": lambda figures: _show_spread(figures["words"]),
        "characters in a sentence": lambda figures: _show_spread(figures["characters"]),
        "vocabulary": lambda figures: str(figures["vocabulary"]),
        "words that occur once": lambda figures: str(figures["singletons"]),
        "words not in train": lambda figures: f"{figures['unseen_words']} ({figures['unseen_word_rate']:.1%} of all)",
        "sentences again": lambda figures: str(figures["repeated_sentences"]),
        "clips again": lambda figures: str(figures["repeated_clips"]),
        "signers": lambda figures: f"{len(figures['signers'])}" if figures["signers"] else "not given",
        "sign language": lambda figures: _show_counts(figures["sign_languages"]) or "not given",
        "spoken language": lambda figures: _show_counts(figures["spoken_languages"]) or "not given",
    }
    return [[title, *(show(figures) for figures in splits.values())] for title, show in rows.items()]


def _pose_rows(splits: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "clips that can be read": lambda figures: str(figures["clips"]),
        "extracted with": lambda figures: _show_counts(figures["extractors"]),
        "frames per second": lambda figures: _show_counts(figures["frame_rates"]) or "not stated",
        "left hand unseen": lambda figures: f"{figures['unseen_hands']['left']:.1%} of the frames",
        "right hand unseen": lambda figures: f"{figures['unseen_hands']['right']:.1%} of the frames",
        "clips without any hand": lambda figures: str(figures["clips_without_hands"]),
        "clips of several people": lambda figures: str(figures["clips_of_several_people"]),
        "hand that moves more": lambda figures: _show_counts(figures["moving_hands"]),
        "left-handed signers": lambda figures: (
            f"{len(figures['left_handed_signers'])} {_some(figures['left_handed_signers'])}".strip()
        ),
    }
    return [[title, *(show(figures) for figures in splits.values())] for title, show in rows.items()]


def _pair_row(pair: Mapping[str, Any]) -> list[str]:
    signers = pair["same_signers"]
    cells = [", ".join(pair["splits"]), str(len(pair["same_clips"])), str(pair["same_sentences"])]
    return [*cells, f"{len(signers)} {_some(signers)}".strip(), str(pair["clips_of_same_signers"])]


def _preset_row(preset: Mapping[str, Any]) -> list[str]:
    cells = [preset["name"], _show_spread(preset["tokens"]), str(len(preset["too_long"]))]
    memory = f"{preset['largest_batch_in_gib']:.2f} GiB ({preset['batch_size']} clips)"
    return [*cells, str(len(preset["too_short"])), memory]


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"({shown}{', ...' if len(names) > most else ''})" if names else ""


def _show_spread(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "none"
    low, middle, high = (f"{spread[name]:.1f}".removesuffix(".0") for name in ("min", "median", "max"))
    return f"{low} to {high}, median {middle}"


def _show_counts(counts: Mapping[str, int], most: int = 3) -> str:
    shown = [name if len(counts) == 1 else f"{name} ({count})" for name, count in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def notes(report: Mapping[str, Any]) -> list[str]:
    lines = [
        "Words are separated by white space; Chinese, Japanese, Korean, Thai and the like are counted by character."
    ]
    if report["decoded_size_in_gib"] is not None:
        lines.insert(
            0,
            "All frames as decoded, which --keep_decoded_videos would keep in memory: at most "
            f"{report['decoded_size_in_gib']:.2f} GiB. A batch of pixels is float32 and assumes the longest clips; the "
            "weights and activations of the model come on top.",
        )
    if "poses" in report:
        lines.append(
            "A point is seen if its score is above 0.3. The hand that moves more is the one whose wrist goes a way at "
            "least a quarter longer; a left-handed signer is one of whose clips more are led by the left hand."
        )
    unknown = report.get("tokenizer", {}).get("unknown_characters")
    if unknown is not None:
        lines.append(f"Characters that the tokenizer does not know: {' '.join(unknown) or 'none'}.")
    return lines


def problem_lists(report: Mapping[str, Any]) -> list[tuple[str, list[str], int]]:
    """Title, lines and total number of each list: all broken files, and the first `MOST_SHOWN` of every other list."""
    lists = [("Broken", _lines(report["errors"])), ("Other findings", _lines(report["warnings"]))]
    for pair in report["leakage"]:
        lists.append(("The same clip in two splits", [" = ".join(names) for names in pair["same_clips"]]))
    for preset in report["presets"]:
        lists.append((f"Too long for {preset['name']}", preset["too_long"]))
        lists.append((f"Fewer visual tokens than words under {preset['name']}", preset["too_short"]))
    return [(title, lines[: None if title == "Broken" else MOST_SHOWN], len(lines)) for title, lines in lists if lines]


def _lines(problems: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"{problem['where']}: {problem['what']}" for problem in problems]


def format_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    lines = [f"{report['dataset']}", ""]
    lines += [f"{kind}: {sentence}" for kind, sentence in verdicts(report)]
    for table in tables(report):
        lines += ["", table["title"], *_format_table([table["header"], *table["rows"]])]
    lines += ["", *notes(report)]
    for title, shown, count in problem_lists(report):
        lines += ["", f"{title}:", *(f"  {_one_line(entry)}" for entry in shown)]
        if len(shown) < count:
            lines.append(f"  and {count - len(shown)} more in inspection.json")
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    """Without characters that would move a terminal's cursor."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = ((_one_line(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [f"  {'  '.join(row)}".rstrip() for row in cells]


def render_page(report: Mapping[str, Any], corpus: Corpus) -> str:
    """A self-contained HTML page with embedded pictures; everything from the data is escaped."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(PAGE_TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        verdicts=verdicts(report),
        tables=tables(report),
        notes=notes(report),
        histograms=_histograms(corpus, list(report["splits"])),
        strips=_strips(corpus),
        problem_lists=problem_lists(report),
    )


def _strips(corpus: Corpus) -> list[dict[str, Any]]:
    strips = []
    for clip in corpus.clips:
        pictures = []
        if clip.measured.strip is not None:
            pictures.append(("Frames", _data_address(clip.measured.strip, "image/jpeg")))
        if clip.measured_poses is not None and clip.measured_poses.pictures is not None:
            strip = strip_of_poses(clip.measured_poses.pictures)
            pictures.append(("The skeleton in frames", _data_address(strip, "image/png")))
        if pictures:
            strips.append({"where": clip.where, "text": clip.text, "pictures": pictures})
    return strips


def _data_address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _histograms(corpus: Corpus, splits: Sequence[str]) -> list[dict[str, str]]:
    quantities: dict[str, Callable[[Clip], float | None]] = {
        "seconds of a clip": lambda clip: clip.measured.duration_in_seconds,
        "frames of a clip": lambda clip: clip.measured.num_frames or None,
        "words of a sentence": lambda clip: len(clip.units()) or None,
        "characters of a sentence": lambda clip: len(clip.text) or None,
    }
    pictures = []
    for title, measure in quantities.items():
        values = {split: [value for clip in corpus.of(split) if (value := measure(clip))] for split in splits}
        if any(values.values()):
            ranges = [f"{split} {_show_spread(spread_of(numbers))}" for split, numbers in values.items()]
            picture = _data_address(_draw_histogram(title, values), "image/svg+xml")
            pictures.append({"title": title, "alt": f"Histogram of {title}: {'; '.join(ranges)}", "picture": picture})
    return pictures


def _draw_histogram(title: str, values: Mapping[str, Sequence[float]]) -> bytes:
    """-> SVG with one row of bars per split, on a shared axis"""
    everything = [value for numbers in values.values() for value in numbers]
    low, high = min(everything), max(everything)
    edges = torch.linspace(math.floor(low), max(math.ceil(high), math.floor(low) + 1), 25).tolist()
    figure, rows = plt.subplots(len(values), 1, sharex=True, figsize=(5, 1.1 + 1.1 * len(values)), squeeze=False)
    for axes, (split, numbers) in zip(rows[:, 0], values.items(), strict=True):
        axes.hist(numbers, bins=edges, color="#1f5a94", edgecolor="white", linewidth=0.5)
        axes.set_ylabel(split.replace("$", r"\$"))
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1, 0].set_xlabel(title)
    figure.supylabel("clips", fontsize=10)
    figure.tight_layout()
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": title}):  # otherwise names in the picture are drawn anew each time
        figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    return file.getvalue()
