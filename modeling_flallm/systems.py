"""
The systems of this library, one row each: data only. Model cards, help texts, error messages, pushes and the Space
read these rows, so none of them names a system. A new system is a configuration, its presets and one more row in
`SYSTEMS`.

This file imports nothing of ours and no torch: the Space has a copy of it, and `--help` must be fast.
"""

from dataclasses import dataclass

# Hub tags of every model of this library.
TAGS = ("sign-language", "sign-language-translation", "gloss-free", "flallm")
# What a stage produces. A pretrained model has all parts of a translator, but cannot translate yet.
TRANSLATOR, VISUAL_ENCODER, LANGUAGE_MODEL = "translator", "visual encoder", "language model"
PRETRAINED_MODEL = "pretrained model"
# A model that turns sentences into latents and back.
TEXT_AUTOENCODER = "text autoencoder"


@dataclass(frozen=True)
class Stage:
    """
    One stage of training.

    Args:
        name: that of its module in `train_scripts/stages` and in training_run.json; its presets are `<recipe>_<name>`.
        title: what it does, in a few words, for help texts.
        command: that runs it.
        leaves: `TRANSLATOR`, `PRETRAINED_MODEL`, `VISUAL_ENCODER`, `LANGUAGE_MODEL` or `TEXT_AUTOENCODER`.
        card: sentence of the model card on what the model is; `{text_model}` stands for the name of its text model,
            `{encoder}` for what its sign encoder is called, and `{source}` says which stage that comes from.
        card_with_lora: the same, where low-rank adapters were trained.
        note: sentence of the model card on what the paper does not have.
        vision_stage: name of the earlier stage that made the visual encoder.
        has_pretrained_text_model: whether a part of the model was pretrained on text.
        text_model_of_paper: the paper's text model and where the paper gives it, if the user may choose another one.
    """

    name: str
    title: str
    command: str
    leaves: str
    card: str = ""
    card_with_lora: str | None = None
    note: str = ""
    vision_stage: str | None = None
    has_pretrained_text_model: bool = True
    text_model_of_paper: tuple[str, str] | None = None


@dataclass(frozen=True)
class Recipe:
    """
    Presets for all stages of a system, in `train_scripts/configs`.

    Args:
        prefix: with which their names begin.
        title: what the model card calls it.
        note: sentence of the model card on values that the paper does not give.
        introduction: sentence before `citation`, if the recipe is not the paper's.
        citation: BibTeX.
        stages: names of the stages that it has presets for; None for all of the system's.
        is_compared: whether the model card of a run that follows it compares the run with this recipe, instead of with
            the paper's.
    """

    prefix: str
    title: str
    note: str = ""
    introduction: str = ""
    citation: str = ""
    stages: tuple[str, ...] | None = None
    is_compared: bool = False


@dataclass(frozen=True)
class System:
    """
    A way to translate sign language videos.

    Args:
        model_type: that of its translation model's configuration; the key of its row.
        title: as the paper writes it.
        paper: address of the paper.
        citations: pairs of an introducing sentence, empty for the paper itself, and BibTeX.
        auto_class: the Auto class of transformers that loads its translation model.
        model_class, processor_class: names in `modeling_flallm`.
        is_prompted: whether its text model is decoder-only and reads the video within a prompt; otherwise it is an
            encoder-decoder and reads the video alone. The model class says the same.
        adapter_title: what the paper calls the adapter.
        visual_encoder_types: model types of its visual encoder, alone or with a head for pretraining.
        pretrained_types: model types of its models that have all parts and cannot translate yet.
        text_autoencoder_types: model types of its text autoencoder.
        stages: in the order in which they run; the last one produces a translation model.
        recipe: the one that the model card compares a run with; `other_recipes`: those that a run may follow instead.
        quickstart_prefix: that of its quickstart's presets.
        quickstart_stages: those that its quickstart has presets for; () for all.
        note: paragraph of the model card on how much of the paper is known.
        tags: on the Hub, besides `TAGS`.
        packages: that its translation models need, besides those that all need.
    """

    model_type: str
    title: str
    paper: str
    citations: tuple[tuple[str, str], ...]
    auto_class: str
    model_class: str
    processor_class: str
    is_prompted: bool
    stages: tuple[Stage, ...]
    recipe: Recipe
    adapter_title: str = "adapter"
    visual_encoder_types: tuple[str, ...] = ()
    pretrained_types: tuple[str, ...] = ()
    text_autoencoder_types: tuple[str, ...] = ()
    other_recipes: tuple[Recipe, ...] = ()
    quickstart_prefix: str | None = None
    quickstart_stages: tuple[str, ...] = ()
    note: str = ""
    tags: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def hub_tags(self) -> tuple[str, ...]:
        return (*TAGS, *self.tags)

    @property
    def presets(self) -> list[str]:
        """The names of all its presets, `<prefix>_<stage>`."""
        every = tuple(stage.name for stage in self.stages)
        stages_of = {each.prefix: each.stages or every for each in (self.recipe, *self.other_recipes)}
        if self.quickstart_prefix is not None:
            stages_of[self.quickstart_prefix] = self.quickstart_stages or every
        return [f"{prefix}_{stage}" for prefix, stages in stages_of.items() for stage in stages]

    def recipe_of(self, prefix: str | None) -> Recipe:
        """One of `other_recipes` by its prefix, or else the system's own."""
        return next((each for each in self.other_recipes if each.prefix == prefix), self.recipe)

    @property
    def last_stage(self) -> Stage:
        return self.stages[-1]

    def number_of(self, stage: Stage) -> int:
        """The number of a stage, counted from 1."""
        return self.stages.index(stage) + 1

    def stage_that_leaves(self, kind: str) -> Stage | None:
        """The first stage that produces this, one of the kinds at the top of this file, such as `TRANSLATOR`."""
        return next((stage for stage in self.stages if stage.leaves == kind), None)

    def auto_class_of(self, stage: Stage) -> str:
        """The Auto class of transformers that loads what the stage produces."""
        return {TRANSLATOR: self.auto_class, LANGUAGE_MODEL: "AutoModelForCausalLM"}.get(stage.leaves, "AutoModel")

    def help_of(self, stage: Stage) -> str:
        """The first sentence of the help of the stage's command."""
        return f"Stage {self.number_of(stage)} of {self.title}: {stage.title}."


FLALLM_CITATION = """@inproceedings{chen-etal-2024-factorized,
  title     = {Factorized Learning Assisted with Large Language Model for Gloss-free Sign Language Translation},
  author    = {Chen, Zhigang and Zhou, Benjia and Li, Jun and Wan, Jun and Lei, Zhen and Jiang, Ning and Lu, Quan and Zhao, Guoqing},
  booktitle = {Proceedings of the 2024 Joint International Conference on Computational Linguistics, Language Resources and Evaluation (LREC-COLING 2024)},
  year      = {2024},
  pages     = {7071--7081},
  url       = {https://arxiv.org/abs/2403.12556}
}"""  # noqa: E501
LLAVA_SLT_CITATION = """@article{liang2024llavaslt,
  title   = {LLaVA-SLT: Visual Language Tuning for Sign Language Translation},
  author  = {Liang, Han and Huang, Chengyu and Xu, Yuecheng and Tang, Cheng and Ye, Weicai and Zhang, Juze and Chen, Xin and Yu, Jingyi and Xu, Lan},
  journal = {arXiv preprint arXiv:2412.16524},
  year    = {2024},
  url     = {https://arxiv.org/abs/2412.16524}
}"""  # noqa: E501
SLTBASELINES_CITATION = """@article{sincan2025gloss,
  title   = {Gloss-free Sign Language Translation: An unbiased evaluation of progress in the field},
  author  = {Ozge Mercanoglu Sincan and Jian He Low and Sobhan Asasi and Richard Bowden},
  journal = {Computer Vision and Image Understanding},
  volume  = {261},
  pages   = {104498},
  year    = {2025},
  doi     = {10.1016/j.cviu.2025.104498}
}"""

SPAMO_CITATION = """@inproceedings{hwang2025efficient,
  title     = {An Efficient Gloss-Free Sign Language Translation Using Spatial Configurations and Motion Dynamics with LLMs},
  author    = {Hwang, Eui Jun and Cho, Sukmin and Lee, Junmyeong and Park, Jong C.},
  booktitle = {Proceedings of the 2025 Conference of the Nations of the Americas Chapter of the Association for Computational Linguistics: Human Language Technologies},
  year      = {2025},
  url       = {https://arxiv.org/abs/2408.10593}
}"""  # noqa: E501

MT5_BASE = ("mt5, 12+12 layers, width 768", "Uni-Sign, code: mT5-base")
UNI_SIGN_CITATION = """@inproceedings{li2025unisign,
  title     = {Uni-Sign: Toward Unified Sign Language Understanding at Scale},
  author    = {Li, Zecheng and Zhou, Wengang and Zhao, Weichao and Wu, Kepeng and Hu, Hezhen and Li, Houqiang},
  booktitle = {The Thirteenth International Conference on Learning Representations},
  year      = {2025},
  url       = {https://arxiv.org/abs/2501.15187}
}"""
MMSLT_CITATION = """@inproceedings{kim2025mmslt,
  title     = {Leveraging the Power of MLLMs for Gloss-Free Sign Language Translation},
  author    = {Kim, Jungeun and Jeon, Hyeongwoo and Bae, Jongseong and Kim, Ha Young},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  year      = {2025},
  url       = {https://arxiv.org/abs/2411.16789}
}"""
LD4LG_CITATION = """@inproceedings{lovelace2023latent,
  title     = {Latent Diffusion for Language Generation},
  author    = {Lovelace, Justin and Kishore, Varsha and Wan, Chao and Shekhtman, Eliot and Weinberger, Kilian Q.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  url       = {https://arxiv.org/abs/2212.09462}
}"""
DIFFSLT_CITATION = """@article{moon2025diffslt,
  title   = {DiffSLT: Enhancing Diversity in Sign Language Translation via Diffusion Model},
  author  = {Moon, JiHwan and Park, Jihoon and Kim, Jungeun and Bae, Jongseong and Jeon, Hyeongwoo and Kim, Ha Young},
  journal = {Pattern Recognition Letters},
  volume  = {196},
  pages   = {117--125},
  year    = {2025},
  url     = {https://arxiv.org/abs/2411.17248}
}"""

FLALLM = System(
    model_type="flallm",
    title="FLa-LLM",
    paper="https://arxiv.org/abs/2403.12556",
    citations=(("", FLALLM_CITATION),),
    auto_class="AutoModelForSeq2SeqLM",
    model_class="FLaLLMForTranslation",
    processor_class="FLaLLMProcessor",
    is_prompted=False,
    visual_encoder_types=("flallm_vision",),
    stages=(
        Stage(
            "visual_initialing",
            title="visual initialing with Light-T",
            command="flallm train visual-initialing",
            leaves=TRANSLATOR,
            card="a {encoder}, trained together with a small text model. It can translate, but it is meant as the "
            "start of stage 2,\nwhich puts a large language model behind the {encoder}.",
            has_pretrained_text_model=False,
        ),
        Stage(
            "llm_fine_tuning",
            title="LLM fine-tuning with the visual encoder frozen",
            command="flallm train llm-fine-tuning",
            leaves=TRANSLATOR,
            card="{source}, and a pretrained language model learned to write what it sees.",
            vision_stage="visual_initialing",
            text_model_of_paper=(
                "mbart, 12+12 layers, width 1024",
                "paper, section 4.2: mBART-large-cc25, its vocabulary trimmed",
            ),
        ),
    ),
    recipe=Recipe("paper", "the paper's recipe", "Where the paper gives no value, the recipe has one of ours."),
    other_recipes=(
        Recipe(
            "sltbaselines",
            "the recipe of sltbaselines",
            introduction="Most settings are those of the re-implementation sltbaselines:",
            citation=SLTBASELINES_CITATION,
        ),
        Recipe(
            "spamo",
            "SpaMo's recipe",
            note="Where neither SpaMo's paper nor its code gives a value, the recipe has one of ours.",
            introduction="The recipe is SpaMo's, which reads clips through frozen image and video models:",
            citation=SPAMO_CITATION,
            stages=("llm_fine_tuning",),
            is_compared=True,
        ),
    ),
    quickstart_prefix="quickstart",
)
LLAVA_SLT = System(
    model_type="llava_slt",
    title="LLaVA-SLT",
    paper="https://arxiv.org/abs/2412.16524",
    citations=(
        ("", LLAVA_SLT_CITATION),
        ("The visual encoder of its frames is that of FLa-LLM:", FLALLM_CITATION),
    ),
    auto_class="AutoModelForImageTextToText",
    model_class="LlavaSltForTranslation",
    processor_class="LlavaSltProcessor",
    is_prompted=True,
    adapter_title="connector",
    visual_encoder_types=("llava_slt_contrastive", "llava_slt_visual"),
    stages=(
        Stage(
            "linguistic_pretraining",
            title="linguistic continued pretraining of a decoder-only language model",
            command="flallm train linguistic-pretraining",
            leaves=LANGUAGE_MODEL,
        ),
        Stage(
            "visual_contrastive_pretraining",
            title="visual contrastive pretraining against a frozen text encoder",
            command="flallm train visual-contrastive-pretraining",
            leaves=VISUAL_ENCODER,
            card="a {encoder}, which learned from the sentences of a frozen text model. It is meant for stage 3, "
            "which puts a language\nmodel behind it.",
            note="Before the comparison with videos, the vectors of the sentences are centred and those of the "
            "words whitened.",
        ),
        Stage(
            "visual_language_tuning",
            title="visual language tuning of the connector",
            command="flallm train visual-language-tuning",
            leaves=TRANSLATOR,
            card="{source}, and behind it is the language model `{text_model}`. Between them is a small\nconnector, "
            "and only it was trained here.",
            card_with_lora="{source}, and behind it is the language model `{text_model}`. Between them is a small\n"
            "connector, and only it and low-rank adapters (LoRA) in the language model were trained here.",
            vision_stage="visual_contrastive_pretraining",
        ),
    ),
    recipe=Recipe("llava_slt", "this program's recipe"),
    quickstart_prefix="quickstart_llava_slt",
    note="The makers of this program know only the abstract of the paper, and there is no public code. The "
    "recipe follows\nthe abstract; all numbers in it, the losses, the layers and the prompt are the makers' own.",
    tags=("llava-slt",),
)
UNI_SIGN = System(
    model_type="uni_sign",
    title="Uni-Sign",
    paper="https://arxiv.org/abs/2501.15187",
    citations=(("", UNI_SIGN_CITATION),),
    auto_class="AutoModelForSeq2SeqLM",
    model_class="UniSignForTranslation",
    processor_class="FLaLLMProcessor",
    is_prompted=False,
    visual_encoder_types=("uni_sign_pose",),
    stages=(
        Stage(
            "pose_pretraining",
            title="pretraining on poses",
            command="flallm train pose-pretraining",
            leaves=TRANSLATOR,
            card="a {encoder} and the language model `{text_model}`, trained together. It can translate, but it is "
            "meant as the\nstart of fine-tuning for a data set and a task.",
            text_model_of_paper=MT5_BASE,
        ),
        Stage(
            "pose_rgb_pretraining",
            title="pretraining on poses and crops of the hands",
            command="flallm train pose-rgb-pretraining",
            leaves=TRANSLATOR,
            card="{source}, and all of it was trained further with a new prior-guided fusion, through which it also "
            "sees\ncrops of the hands.",
            note="The gate of the fusion starts half open: the published one starts closed, where it has no gradient.",
            vision_stage="pose_pretraining",
            text_model_of_paper=MT5_BASE,
        ),
        Stage(
            "unified_fine_tuning",
            title="fine-tuning of the whole model for a data set and a task",
            command="flallm train unified-fine-tuning",
            leaves=TRANSLATOR,
            card="{source}, and all of it was fine-tuned together with its language model.",
            vision_stage="pose_pretraining",
            text_model_of_paper=MT5_BASE,
        ),
    ),
    recipe=Recipe(
        "uni_sign",
        "Uni-Sign's recipe",
        "Where neither Uni-Sign's paper nor its code gives a value, the recipe has one of ours.",
    ),
    note="The program is written from a description of Uni-Sign, without its public code, which has no licence. "
    "Padding enters\nneither batch norm nor convolutions, and long clips are thinned evenly instead of at random.",
    quickstart_prefix="quickstart_uni_sign",
    quickstart_stages=("pose_pretraining",),
    tags=("uni-sign",),
)
MBART_50 = ("mbart, 12+12 layers, width 1024", "MMSLT, code: mBART-large-50-many-to-many, not trimmed")
MMSLT = System(
    model_type="mmslt",
    title="MMSLT",
    paper="https://arxiv.org/abs/2411.16789",
    citations=(
        ("", MMSLT_CITATION),
        ("The temporal module is that of FLa-LLM:", FLALLM_CITATION),
    ),
    auto_class="AutoModelForSeq2SeqLM",
    model_class="MmsltForTranslation",
    processor_class="FLaLLMProcessor",
    is_prompted=False,
    visual_encoder_types=("described_slt",),
    pretrained_types=("mmslt_pretraining",),
    stages=(
        Stage(
            "multimodal_pretraining",
            title="multimodal language pretraining on sentences and on descriptions of the signing",
            command="flallm train multimodal-pretraining",
            leaves=PRETRAINED_MODEL,
            card="a {encoder} and the language model `{text_model}`, whose encoder was trained with it. It is meant "
            "for stage 2,\nin which the language model learns to write.",
            card_with_lora="a {encoder} and the language model `{text_model}`, in whose encoder low-rank adapters "
            "(LoRA)\nwere trained with it. It is meant for stage 2, in which the language model learns to write.",
            note="Negatives come from all processes and from a memory of earlier sentences, and padding enters neither "
            "losses nor\nmeans.",
            text_model_of_paper=MBART_50,
        ),
        Stage(
            "translation_fine_tuning",
            title="fine-tuning for translation with the description mapper frozen",
            command="flallm train translation-fine-tuning",
            leaves=TRANSLATOR,
            card="{source}, and all of it but the description mapper was fine-tuned together with its language model.",
            card_with_lora="{source}, and all of it but the description mapper was fine-tuned, the language model "
            "through low-rank\nadapters (LoRA) in its attention.",
            vision_stage="multimodal_pretraining",
            text_model_of_paper=MBART_50,
        ),
    ),
    recipe=Recipe(
        "mmslt",
        "MMSLT's recipe",
        "Where neither MMSLT's paper nor its code gives a value, the recipe has one of ours.",
    ),
    note="The program is written from a description of MMSLT, without its public code, which has no licence.",
    quickstart_prefix="quickstart_mmslt",
    tags=("mmslt",),
)
DIFFSLT = System(
    model_type="diffslt",
    title="DiffSLT",
    paper="https://arxiv.org/abs/2411.17248",
    citations=(
        ("", DIFFSLT_CITATION),
        ("The text autoencoder and the diffusion are those of latent diffusion for language:", LD4LG_CITATION),
    ),
    auto_class="AutoModelForSeq2SeqLM",
    model_class="DiffSltForTranslation",
    processor_class="FLaLLMProcessor",
    is_prompted=False,
    text_autoencoder_types=("diffslt_autoencoder",),
    stages=(
        Stage(
            "text_autoencoding",
            title="a text autoencoder that turns sentences into few latents and back",
            command="flallm train text-autoencoding",
            leaves=TEXT_AUTOENCODER,
        ),
        Stage(
            "latent_diffusion",
            title="diffusion of the sentence's latents, guided by what a trained system sees",
            command="flallm train latent-diffusion",
            leaves=TRANSLATOR,
            card="a {encoder} of a trained model, and a diffusion that learned to make the latents of a sentence from "
            "what it sees.\nThe text autoencoder `{text_model}` writes the sentence.",
        ),
    ),
    recipe=Recipe(
        "diffslt",
        "this program's recipe",
        "The values are those of latent diffusion for language, or the makers' own.",
    ),
    quickstart_prefix="quickstart_diffslt",
    note="The makers of this program know little more than the abstract of the paper, and there is no public code. "
    "Autoencoder\nand diffusion follow latent diffusion for language; where that gives no number or layer, and in the "
    "fusion of the\nguidance, they are the makers' own.",
    tags=("diffslt",),
    packages=("diffusers",),
)
SYSTEMS = {system.model_type: system for system in (FLALLM, LLAVA_SLT, UNI_SIGN, MMSLT, DIFFSLT)}
DEFAULT_SYSTEM = FLALLM  # for models that name no system


def find_stage(name: str) -> tuple[System, Stage]:
    """
    Raises:
        ValueError: if no system has a stage of this name.
    """
    for system in SYSTEMS.values():
        for stage in system.stages:
            if stage.name == name:
                return system, stage
    known = ", ".join(stage.name for system in SYSTEMS.values() for stage in system.stages)
    raise ValueError(f"The stage must be one of {known}, got {name!r}.")


def system_of_visual_encoder(model_type: str | None) -> System | None:
    """The system whose visual encoder, without a text model, has this model type; `None` for all others."""
    return next((system for system in SYSTEMS.values() if model_type in system.visual_encoder_types), None)


def system_of_pretrained(model_type: str | None) -> System | None:
    """The system whose models of this type have all parts and cannot translate yet; `None` for all others."""
    return next((system for system in SYSTEMS.values() if model_type in system.pretrained_types), None)


def system_of_text_autoencoder(model_type: str | None) -> System | None:
    """The system whose text autoencoder has this model type; `None` for all others."""
    return next((system for system in SYSTEMS.values() if model_type in system.text_autoencoder_types), None)


def titles(is_prompted: bool | None = None) -> str:
    """All systems, or those that read a prompt, or those that do not: "FLa-LLM or LLaVA-SLT"."""
    chosen = [each.title for each in SYSTEMS.values() if is_prompted is None or each.is_prompted is is_prompted]
    return " or ".join(chosen)


def adapter_titles() -> str:
    """What all papers call the adapter: "the adapter, or LLaVA-SLT's connector"."""
    others = [each for each in SYSTEMS.values() if each.adapter_title != System.adapter_title]
    return ", or ".join(["the adapter", *(f"{each.title}'s {each.adapter_title}" for each in others)])


__all__ = [
    "DEFAULT_SYSTEM",
    "DIFFSLT",
    "FLALLM",
    "LANGUAGE_MODEL",
    "LLAVA_SLT",
    "MMSLT",
    "PRETRAINED_MODEL",
    "SYSTEMS",
    "TAGS",
    "TEXT_AUTOENCODER",
    "TRANSLATOR",
    "UNI_SIGN",
    "VISUAL_ENCODER",
    "Recipe",
    "Stage",
    "System",
    "adapter_titles",
    "find_stage",
    "system_of_pretrained",
    "system_of_text_autoencoder",
    "system_of_visual_encoder",
    "titles",
]
