"""The invented sign language of the embedded corpus: its signs, its sentence patterns, and its translation.

Signed order is TIME PLACE SUBJECT OBJECT VERB, then NOT or a question sign; adjectives follow their noun, and a
condition comes before its consequence. The spoken side is a small English with its own order. `translate` is a function
of the glosses alone, so a reader who recognises every sign can reach 100 BLEU.

A homonym is a sign that stands for two words, each of which has another sign as well. No sentence is drawn with one:
`ambiguous_clips` signs it in place of either of the two signs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

HANDSHAPES = ("fist", "flat", "spread", "point", "vee", "horns", "ring", "hook")
PLACES = ("high", "forehead", "chin", "shoulder", "chest", "side", "belly", "low_side")
MOVEMENTS = ("hold", "up", "down", "outward", "inward", "circle", "arc", "open", "close")
HAND_USES = ("one", "both", "base")
CATEGORIES = ("time", "place", "person", "object", "verb", "adjective", "marker")

SMALLEST_CATEGORY_SIZES = {"time": 2, "place": 2, "person": 3, "object": 3, "verb": 3, "adjective": 1, "marker": 2}
MIN_NUM_SIGNS = sum(SMALLEST_CATEGORY_SIZES.values())
MIN_SIGNS_PER_SENTENCE, MAX_SIGNS_PER_SENTENCE = 4, 8
MIN_WORDS_PER_SENTENCE, MAX_WORDS_PER_SENTENCE = 7, 13

MARKER_PROBABILITIES = {"": 0.34, "NOT": 0.21, "QUESTION": 0.17, "WHERE": 0.09, "WHY": 0.09, "IF": 0.1}
OPTIONAL_SIGN_PROBABILITY = 0.6
SUBJECT_ADJECTIVE_PROBABILITY, OBJECT_ADJECTIVE_PROBABILITY = 0.2, 0.35
MAX_FRUITLESS_DRAWS = 2000


@dataclass(frozen=True)
class Sign:
    """One sign: its gloss, how it is performed, and the spoken words it stands for.

    `hands` is "one" (the other hand rests), "both" (the other hand mirrors) or "base" (the other hand is flat and still
    below). `past` is the past tense of a verb, `preposition` the one a place takes. `meanings` are the glosses of the
    two signs whose words a homonym stands for; it has no `word` itself.
    """

    gloss: str
    category: str
    handshape: str
    place: str
    movement: str
    hands: str
    word: str
    past: str = ""
    preposition: str = ""
    meanings: tuple[str, ...] = ()


LEXICON: tuple[Sign, ...] = (
    Sign("YESTERDAY", "time", "horns", "chin", "outward", "one", "yesterday"),
    Sign("TOMORROW", "time", "fist", "chin", "outward", "one", "tomorrow"),
    Sign("TODAY", "time", "horns", "chest", "down", "both", "today"),
    Sign("TONIGHT", "time", "flat", "chest", "inward", "both", "tonight"),
    Sign("SOON", "time", "point", "side", "up", "one", "soon"),
    Sign("MARKET", "place", "spread", "chest", "close", "both", "market", preposition="at"),
    Sign("SCHOOL", "place", "flat", "chest", "down", "both", "school", preposition="at"),
    Sign("GARDEN", "place", "spread", "belly", "up", "both", "garden", preposition="in"),
    Sign("RIVER", "place", "spread", "side", "arc", "one", "river", preposition="near"),
    Sign("VILLAGE", "place", "flat", "forehead", "outward", "both", "village", preposition="in"),
    Sign("STATION", "place", "point", "chest", "outward", "both", "station", preposition="near"),
    Sign("TEACHER", "person", "ring", "forehead", "outward", "one", "teacher"),
    Sign("DOCTOR", "person", "vee", "shoulder", "down", "one", "doctor"),
    Sign("FARMER", "person", "hook", "shoulder", "outward", "one", "farmer"),
    Sign("MOTHER", "person", "spread", "chin", "hold", "one", "mother"),
    Sign("FATHER", "person", "spread", "forehead", "hold", "one", "father"),
    Sign("CHILD", "person", "flat", "low_side", "down", "one", "child"),
    Sign("NEIGHBOUR", "person", "horns", "side", "inward", "one", "neighbour"),
    Sign("APPLE", "object", "fist", "chin", "circle", "one", "apple"),
    Sign("BOOK", "object", "flat", "chest", "outward", "both", "book"),
    Sign("FISH", "object", "flat", "low_side", "inward", "one", "fish"),
    Sign("HORSE", "object", "vee", "high", "hold", "one", "horse"),
    Sign("BOAT", "object", "hook", "belly", "up", "both", "boat"),
    Sign("FLOWER", "object", "spread", "side", "open", "one", "flower"),
    Sign("CHAIR", "object", "vee", "belly", "down", "both", "chair"),
    Sign("HAT", "object", "fist", "forehead", "up", "both", "hat"),
    Sign("BUY", "verb", "ring", "chest", "outward", "base", "buy", past="bought"),
    Sign("SELL", "verb", "ring", "chest", "inward", "base", "sell", past="sold"),
    Sign("FIND", "verb", "ring", "low_side", "up", "one", "find", past="found"),
    Sign("PAINT", "verb", "vee", "side", "arc", "one", "paint", past="painted"),
    Sign("WASH", "verb", "fist", "belly", "circle", "both", "wash", past="washed"),
    Sign("CARRY", "verb", "flat", "belly", "arc", "both", "carry", past="carried"),
    Sign("SEE", "verb", "vee", "forehead", "outward", "one", "see", past="saw"),
    Sign("RED", "adjective", "point", "chin", "down", "one", "red"),
    Sign("BIG", "adjective", "hook", "side", "outward", "both", "big"),
    Sign("SMALL", "adjective", "hook", "side", "inward", "both", "small"),
    Sign("OLD", "adjective", "fist", "shoulder", "down", "one", "old"),
    Sign("NOT", "marker", "flat", "high", "inward", "one", "not"),
    Sign("QUESTION", "marker", "point", "high", "circle", "one", ""),
    Sign("WHERE", "marker", "horns", "high", "up", "one", "where"),
    Sign("WHY", "marker", "hook", "forehead", "inward", "one", "why"),
    Sign("IF", "marker", "spread", "high", "close", "one", "if"),
)
SIGNS_BY_GLOSS = {sign.gloss: sign for sign in LEXICON}


def _homonym(first: str, second: str, handshape: str, place: str, movement: str, hands: str) -> Sign:
    category = SIGNS_BY_GLOSS[first].category
    return Sign(f"{first}/{second}", category, handshape, place, movement, hands, "", meanings=(first, second))


HOMONYMS: tuple[Sign, ...] = (
    _homonym("TEACHER", "DOCTOR", "flat", "shoulder", "hold", "one"),
    _homonym("FARMER", "MOTHER", "horns", "forehead", "circle", "both"),
    _homonym("APPLE", "BOOK", "hook", "low_side", "circle", "one"),
    _homonym("FISH", "HORSE", "point", "belly", "hold", "both"),
    _homonym("BUY", "SELL", "vee", "chest", "up", "base"),
    _homonym("FIND", "PAINT", "spread", "high", "arc", "one"),
)
HOMONYMS_BY_GLOSS = {sign.gloss: sign for sign in HOMONYMS}


def select_signs(num_signs: int) -> tuple[Sign, ...]:
    """Returns `num_signs` signs from which sentences can be made: first the smallest useful number of each category,
    then one more of each category in turn. Raises ValueError below MIN_NUM_SIGNS and above the size of the lexicon."""
    if not MIN_NUM_SIGNS <= num_signs <= len(LEXICON):
        raise ValueError(
            f"`num_signs` must be from {MIN_NUM_SIGNS} (fewer cannot fill the sentence patterns) to "
            f"{len(LEXICON)} (the whole lexicon), got {num_signs}."
        )
    ranks: dict[str, tuple[int, int]] = {}
    for category in CATEGORIES:
        members = [sign for sign in LEXICON if sign.category == category]
        for position, sign in enumerate(members):
            turn = max(0, position - SMALLEST_CATEGORY_SIZES[category] + 1)
            ranks[sign.gloss] = (turn, CATEGORIES.index(category))
    by_rank = sorted(LEXICON, key=lambda sign: ranks[sign.gloss])
    chosen = {sign.gloss for sign in by_rank[:num_signs]}
    return tuple(sign for sign in LEXICON if sign.gloss in chosen)


@dataclass
class Clause:
    """The signs of one clause by role; a missing role is None."""

    time: Sign | None = None
    place: Sign | None = None
    subject: list[Sign] = field(default_factory=list)
    object: list[Sign] = field(default_factory=list)
    verb: Sign | None = None
    marker: Sign | None = None

    @classmethod
    def from_signs(cls, signs: Sequence[Sign]) -> "Clause":
        """Parses a clause in signed order; an adjective belongs to the noun before it."""
        clause = cls()
        noun_phrase = clause.subject
        for sign in signs:
            if sign.category in ("person", "object"):
                noun_phrase = clause.subject if sign.category == "person" else clause.object
                noun_phrase.append(sign)
            elif sign.category == "adjective":
                noun_phrase.append(sign)
            else:
                setattr(clause, sign.category, sign)
        return clause

    @property
    def is_past(self) -> bool:
        return self.time is not None and self.time.gloss == "YESTERDAY"

    @property
    def subject_words(self) -> list[str]:
        return ["the", *_adjectives_first(self.subject)]

    @property
    def object_words(self) -> list[str]:
        words = _adjectives_first(self.object)
        return ["an" if words[0][0] in "aeiou" else "a", *words]

    @property
    def place_words(self) -> list[str]:
        return [self.place.preposition, "the", self.place.word] if self.place else []

    @property
    def time_words(self) -> list[str]:
        return [self.time.word] if self.time else []


def _adjectives_first(noun_phrase: list[Sign]) -> list[str]:
    noun, *adjectives = noun_phrase
    return [sign.word for sign in (*adjectives, noun)]


def translate(glosses: Sequence[str]) -> str:
    """Returns the spoken sentence for a sequence of glosses in signed order, words and the final "." or "?" separated
    by spaces. Raises ValueError for a gloss that is not in the lexicon."""
    unknown = [gloss for gloss in glosses if gloss not in SIGNS_BY_GLOSS]
    if unknown:
        raise ValueError(
            f"`glosses` must be glosses of the lexicon, got {unknown}. Choose from {sorted(SIGNS_BY_GLOSS)}."
        )
    signs = [SIGNS_BY_GLOSS[gloss] for gloss in glosses]
    if signs[0].gloss == "IF":
        return " ".join(_condition_words(signs[1:]))
    clause = Clause.from_signs(signs)
    is_question = clause.marker is not None and clause.marker.gloss != "NOT"
    return " ".join(_question_words(clause) if is_question else _statement_words(clause))


def _statement_words(clause: Clause) -> list[str]:
    if clause.marker is not None:
        verb_words = ["did" if clause.is_past else "will", "not", clause.verb.word]
    else:
        verb_words = [clause.verb.past] if clause.is_past else ["will", clause.verb.word]
    return [*clause.time_words, *clause.subject_words, *verb_words, *clause.object_words, *clause.place_words, "."]


def _question_words(clause: Clause) -> list[str]:
    question_words = [clause.marker.word] if clause.marker.word else []
    auxiliary = "did" if clause.is_past else "will"
    opening = [*question_words, auxiliary, *clause.subject_words, clause.verb.word, *clause.object_words]
    return [*opening, *clause.place_words, *clause.time_words, "?"]


def _condition_words(signs: Sequence[Sign]) -> list[str]:
    end_of_condition = next(position for position, sign in enumerate(signs) if sign.category == "verb") + 1
    condition, consequence = Clause.from_signs(signs[:end_of_condition]), Clause.from_signs(signs[end_of_condition:])
    condition_words = ["if", *condition.subject_words, "can", condition.verb.word, *condition.object_words]
    return [*_statement_words(consequence)[:-1], *condition_words, "."]


class SentenceSampler:
    """Draws random glosses from a set of signs; every sentence respects the limits on signs and words above."""

    def __init__(self, signs: Sequence[Sign], random_generator: np.random.Generator):
        self.random_generator = random_generator
        self.glosses_by_category = {
            category: [sign.gloss for sign in signs if sign.category == category] for category in CATEGORIES
        }
        self.markers = [
            marker for marker in MARKER_PROBABILITIES if marker in ("", *self.glosses_by_category["marker"])
        ]
        probabilities = np.array([MARKER_PROBABILITIES[marker] for marker in self.markers])
        self.marker_probabilities = probabilities / probabilities.sum()

    def draw_distinct(self, num_sentences: int, known: Sequence[tuple[str, ...]] = ()) -> list[tuple[str, ...]]:
        """Returns up to `num_sentences` gloss sequences, all distinct and none in `known`; fewer if MAX_FRUITLESS_DRAWS
        draws yield no new sentence."""
        seen, sentences, fruitless_draws = set(known), [], 0
        while len(sentences) < num_sentences and fruitless_draws < MAX_FRUITLESS_DRAWS:
            glosses = self.draw()
            fruitless_draws = fruitless_draws + 1 if glosses in seen else 0
            if glosses not in seen:
                seen.add(glosses)
                sentences.append(glosses)
        return sentences

    def draw(self) -> tuple[str, ...]:
        """Returns the glosses of one sentence in signed order."""
        while True:
            marker = self.markers[self.random_generator.choice(len(self.markers), p=self.marker_probabilities)]
            glosses = self._draw_condition() if marker == "IF" else self._draw_clause(marker)
            num_words = len(translate(glosses).split()) - 1
            fits_signs = MIN_SIGNS_PER_SENTENCE <= len(glosses) <= MAX_SIGNS_PER_SENTENCE
            if fits_signs and MIN_WORDS_PER_SENTENCE <= num_words <= MAX_WORDS_PER_SENTENCE:
                return glosses

    def _draw_clause(self, marker: str) -> tuple[str, ...]:
        place_probability = 0.0 if marker == "WHERE" else OPTIONAL_SIGN_PROBABILITY
        return (
            *self._choose_perhaps("time", OPTIONAL_SIGN_PROBABILITY),
            *self._choose_perhaps("place", place_probability),
            self._choose("person"),
            *self._choose_perhaps("adjective", SUBJECT_ADJECTIVE_PROBABILITY),
            self._choose("object"),
            *self._choose_perhaps("adjective", OBJECT_ADJECTIVE_PROBABILITY),
            self._choose("verb"),
            *([marker] if marker else []),
        )

    def _draw_condition(self) -> tuple[str, ...]:
        people, objects, verbs = (
            self.random_generator.choice(self.glosses_by_category[category], size=2, replace=False).tolist()
            for category in ("person", "object", "verb")
        )
        return ("IF", people[0], objects[0], verbs[0], people[1], objects[1], verbs[1])

    def _choose(self, category: str) -> str:
        return str(self.random_generator.choice(self.glosses_by_category[category]))

    def _choose_perhaps(self, category: str, probability: float) -> list[str]:
        return [self._choose(category)] if self.random_generator.random() < probability else []
