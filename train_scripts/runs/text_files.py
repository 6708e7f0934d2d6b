"""Text files with one sentence per line."""

from pathlib import Path


def read_sentences(text_file: str) -> list[str]:
    """
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not UTF-8 or has no sentence.
    """
    path = Path(text_file)
    if not path.is_file():
        raise FileNotFoundError(f"--text_file {path} does not exist.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}.") from error
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise ValueError(f"{path} has no sentence. It must hold one per line.")
    return sentences
