"""What the training commands know of a sign encoder that reads other clips than videos. Imports nothing heavy."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class EncoderRow(ABC):
    """
    Base class of the flags of one modality, a dataclass that is listed in `encoder_arguments.py`.

    Attributes:
        column: of a data set that holds the clips, as their `Modality` calls it.
        flag: the field which chooses this modality where it is given. Its default is None.
        clips: what texts call the clips, as the `Modality` does.
    """

    column: ClassVar[str]
    flag: ClassVar[str]
    clips: ClassVar[str]

    @abstractmethod
    def encoder_config(self) -> "PreTrainedConfig":
        """That of the sign encoder which the flags ask for."""
