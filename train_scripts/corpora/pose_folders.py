"""Where the poses of a clip are, by its name: a file, an array in a file of many clips, or a folder of JSON files."""

from dataclasses import fields, replace
from pathlib import Path

from modeling_flallm.own_processing import Poses, pose_files

from .corpus_files import same_name
from .corpus_schema import Problem, RawClip, RawCorpus
from .corpus_tables import RowError
from .feature_folders import FeatureFolder
from .feature_sources import arrays_in

OPENPOSE_ENDING = "_keypoints.json"  # one file for each frame
FOLDER = "/"  # in the place of a suffix
CONTAINERS = (".npz", ".safetensors")  # in which each array may be a clip
NAMES_OF_ONE_CLIP = ("keypoints", "scores")  # of arrays that hold a clip together
NOT_CLIPS = {"layout", *(field.name for field in fields(Poses))}  # what else such a file states


class PoseFolder(FeatureFolder):
    """
    All files of poses below a folder, and all folders that hold OpenPose's files of one clip; see `FeatureFolder`.

    Raises:
        FileNotFoundError: if there are none.
    """

    what = "poses"
    suffixes = pose_files.POSE_SUFFIXES
    containers = CONTAINERS

    def suffix_of(self, path: Path) -> str:
        """Of a folder of OpenPose's files a mark that is no suffix."""
        if path in getattr(self, "_folders", ()):
            return FOLDER
        name = path.name.lower()
        fitting = [suffix for suffix in self.suffixes if name.endswith(suffix)]
        is_frame = name.endswith(OPENPOSE_ENDING)
        return "" if is_frame or name.startswith(".") else max(fitting, key=len, default="")

    def names_in(self, path: Path) -> dict[str, str]:
        names = arrays_in(path)
        return {} if set(NAMES_OF_ONE_CLIP) & set(names) else {name: name for name in names if name not in NOT_CLIPS}

    def _check(self) -> None:
        frames = (path for path in self._files.all if path.name.lower().endswith(OPENPOSE_ENDING))
        self._folders = {path.parent: None for path in frames}
        for folder in self._folders:
            self._files.by_stem[same_name(folder.name)].append(folder)
            if folder != self.folder:
                self._files.by_path[same_name(folder.relative_to(self.folder).as_posix())].append(folder)
        self.check_any()


def with_poses(corpus: RawCorpus, folder: PoseFolder) -> None:
    """
    Gives each clip of a corpus of videos the poses of its video: those that are called like the video, with or without
    the folders above it, or like the clip. Clips without any are left out, as problems.
    """
    clips = []
    for clip in corpus.clips:
        try:
            clips.append(replace(clip, poses=_poses_of(clip, folder)))
        except RowError as error:
            corpus.problems.append(Problem(f"{clip.split} {clip.name}", str(error)))
    corpus.clips = clips
    corpus.problems += [*folder.problems, *folder.unused("the corpus")]


def _poses_of(clip: RawClip, folder: PoseFolder) -> tuple[Path, str | None]:
    """
    Raises:
        RowError: if there are none, or several.
    """
    names = [clip.video.name, clip.video.stem, *([clip.name] if clip.start is None and clip.end is None else [])]
    places = (folder.look_for(name, clip.split) for name in dict.fromkeys(names))
    place = next(filter(None, places), None)
    if place is None:
        raise RowError(f"there are no poses that are called {' or '.join(map(repr, dict.fromkeys(names)))}")
    return place
