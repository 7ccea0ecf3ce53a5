"""Scenes to sentences and back, and kind words for prompts outside pocket's world."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache

from longtake.world import phrases
from longtake.world.grammar import KIND_OF, MOTIONS_OF, PLACES_OF, PROPS_OF, SUBJECTS, Scene, kind
from longtake.world.places import seeded
from longtake.world.words import INFLECTED, SILENT, SYNONYMS

EXAMPLES = (
    "a dog walks right across green hills at noon",
    "a dolphin leaps in an arc in the sea at dusk",
    "a rocket flies in circles over the desert at night",
)


@dataclass(frozen=True)
class Parsed:
    """What a prompt says; None where it does not say.  ``others`` are further subjects."""

    subject: str | None = None
    place: str | None = None
    time: str | None = None
    motion: str | None = None
    camera: str | None = None
    prop: str | None = None
    others: tuple[str, ...] = ()
    unknown: tuple[tuple[str, str | None], ...] = ()

    def scene(self, **hidden) -> Scene:
        """Return a scene of this subject (required), with sensible values where none is said."""
        if self.subject is None:
            raise ValueError("the prompt names no subject that pocket knows")
        sort = KIND_OF[self.subject]
        motion = self.motion or ("right" if "right" in MOTIONS_OF[sort] else "float")
        return Scene(
            self.subject,
            self.place or PLACES_OF[sort][0],
            self.time or "noon",
            motion,
            self.camera or "still",
            self.prop,
            **hidden,
        )


@dataclass(frozen=True)
class Advice:
    """A prompt in known words: ``unknown`` pairs each foreign word with the nearest known."""

    prompt: str
    unknown: tuple[tuple[str, str | None], ...]
    has_subject: bool


def caption(scene: Scene, paraphrase: int | None = None) -> str:
    """Return the sentence for a scene; ``paraphrase`` 0 is the canonical wording."""
    seed = scene.paraphrase if paraphrase is None else paraphrase
    rolls = iter(seeded(seed, 8, 5) if seed else [0.0] * 8)

    def pick(options: tuple[str, ...]) -> str:
        return options[int(next(rolls) * len(options))]

    who = _with_article(scene.subject)
    does = pick(_verbs(scene)).format(d=scene.motion)
    where = f"{pick(_prepositions(scene))} {pick(phrases.PLACE[scene.place])}"
    when = pick(phrases.TIME[scene.time])
    beside = pick(phrases.NEAR)
    if scene.prop:
        where += f" {beside} {_with_article(phrases.PROP.get(scene.prop, scene.prop))}"
    camera = pick(phrases.CAMERA[scene.camera])
    sentence = pick((f"{who} {does} {where} {when}", f"{when}, {who} {does} {where}", f"{who} {does} {where}, {when}"))
    return f"{sentence}, {camera}" if camera else sentence


def _with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _verbs(scene: Scene) -> tuple[str, ...]:
    if scene.motion in ("left", "right"):
        quick = scene.speed > 1.1 and phrases.HASTE.get(kind(scene))
        return quick or phrases.TRAVEL[kind(scene)]
    return phrases.STAY[kind(scene)][scene.motion]


def _prepositions(scene: Scene) -> tuple[str, ...]:
    if kind(scene) in ("flyer", "aircraft"):
        return phrases.OVER
    if scene.motion in ("left", "right"):
        return phrases.ACROSS.get(scene.place, phrases.ACROSS["default"])
    return phrases.IN.get(scene.place, phrases.IN["default"])


@lru_cache
def vocabulary() -> tuple[str, ...]:
    """Return every word a caption may hold, sorted; commas are the only other token."""
    texts = [*SUBJECTS, "a an left right camera"]
    texts += [name for names in PROPS_OF.values() for name in names] + list(phrases.PROP.values())
    tables = [
        phrases.TRAVEL,
        phrases.HASTE,
        *phrases.STAY.values(),
        phrases.PLACE,
        phrases.ACROSS,
        phrases.IN,
        phrases.TIME,
        phrases.CAMERA,
    ]
    texts += [text for table in tables for options in table.values() for text in options]
    texts += phrases.OVER + phrases.NEAR
    return tuple(sorted({word for text in texts for word in _tokens(text.replace("{d}", ""))}))


def _tokens(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


@lru_cache
def _concepts() -> dict[str, tuple[str, str]]:
    """Return what the known nouns mean: word -> (field, value)."""
    table = {name: ("subject", name) for name in SUBJECTS}
    for names in PROPS_OF.values():
        for name in names:
            table[name] = ("prop", name)
    for place, words in {
        "green hills": "hills grassy",
        "meadow": "meadow flowery",
        "sea": "sea ocean",
        "beach": "beach sandy",
        "desert": "desert dunes",
        "snow": "snow snowy",
        "forest": "forest woods",
        "city": "city street",
    }.items():
        table |= {word: ("place", place) for word in words.split()}
    for time, words in {
        "dawn": "dawn sunrise morning early",
        "noon": "noon midday sunny",
        "dusk": "dusk sunset evening",
        "night": "night moonlight stars",
    }.items():
        table |= {word: ("time", time) for word in words.split()}
    return table


def parse(text: str) -> Parsed:
    """Return what a prompt says, foreign words replaced by the nearest known ones."""
    words, unknown = _known_words(text)
    words, camera = _camera(words)
    found: dict[str, list[str]] = {"subject": [], "place": [], "time": [], "prop": []}
    for word in words:
        if word in _concepts():
            field, value = _concepts()[word]
            found[field].append(value)
    first = {field: values[0] if values else None for field, values in found.items()}
    subject = first["subject"]
    others = tuple(dict.fromkeys(s for s in found["subject"] if s != subject))
    return Parsed(**first, motion=_motion(words, subject), camera=camera, others=others, unknown=tuple(unknown))


def _camera(words: list[str]) -> tuple[list[str], str | None]:
    """Split the words about the camera off, so that its left is not the subject's."""
    marks = {"camera", "static", "panning", "pans", "zoom", "zooms", "zooming"}
    at = next((i for i, word in enumerate(words) if word in marks), None)
    if at is None:
        return words, None
    rest = words[at:]
    if {"pans", "panning"} & set(rest):
        return words[:at], "pan left" if "left" in rest else "pan right"
    if {"zoom", "zooms", "zooming"} & set(rest):
        return words[:at], "zoom out" if "out" in rest else "zoom in"
    return words[:at], "still"


def _motion(words: list[str], subject: str | None) -> str | None:
    """Return the motion the verbs and adverbs mean, if the subject can do it."""
    said = set(words)
    rules = (
        ("circle", {"circle", "circles"}),
        ("arc", {"arc", "arcs", "swoops"}),
        ("jump", {"jumps", "jumping", "bounces", "bouncing", "hops", "leaps"}),
        ("left", {"left"}),
        ("right", {"right"}),
        ("updown", {"up", "down", "rocks"}),
        ("float", {"floats", "floating", "hovers", "rests"}),
    )
    motion = next((name for name, marks in rules if marks & said), None)
    if motion is None or subject is None or motion in MOTIONS_OF[KIND_OF[subject]]:
        return motion
    other = {"jump": "updown", "updown": "jump", "arc": "jump"}.get(motion)
    return other if other in MOTIONS_OF[KIND_OF[subject]] else None


def _known_words(text: str) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Return the prompt in known words, and which foreign words became what."""
    tokens, known = _tokens(text), set(vocabulary())
    words: list[str] = []
    unknown: list[tuple[str, str | None]] = []
    at = 0
    while at < len(tokens):
        for length in (3, 2, 1):
            phrase = " ".join(tokens[at : at + length])
            foreign = not known.issuperset(tokens[at : at + length])
            if length > 1 and foreign and phrase in SYNONYMS:
                break
        at += length
        if length == 1 and (phrase in known or phrase in SILENT):
            words += [phrase] if phrase in known else []
        elif phrase in INFLECTED:
            words += INFLECTED[phrase].split()
        else:
            near = _nearest(phrase)
            unknown.append((phrase, near))
            words += near.split() if near else []
            if near is None and words and words[-1] in ("a", "an", "the"):
                words.pop()  # the article of what was left out
    return words, unknown


def _nearest(word: str) -> str | None:
    """Return the known word or phrase nearest to a foreign one: its synonym, or a misspelling."""
    for form in (word, word.removesuffix("s"), word.removesuffix("es")):
        if form in SYNONYMS:
            return SYNONYMS[form]
        if form in _concepts():
            return form
    # A misspelling keeps its first letter: a wizard is no lizard.
    alike = [w for w in (*_concepts(), *SYNONYMS) if w[0] == word[0]]
    close = difflib.get_close_matches(word, alike, 1, cutoff=0.8)
    return SYNONYMS.get(close[0], close[0]) if close and len(word) > 3 else None


def advise(prompt: str) -> Advice:
    """Return the prompt in words pocket knows, and what was replaced or left out."""
    parts, unknown = [], []
    for clause in prompt.split(","):
        words, foreign = _known_words(clause)
        parts += [" ".join(words)] if words else []
        unknown += foreign
    text = re.sub(r"\ba (?=[aeiou])", "an ", re.sub(r"\ban (?![aeiou])", "a ", ", ".join(parts)))
    return Advice(text, tuple(unknown), parse(prompt).subject is not None)


def examples() -> tuple[str, str, str]:
    """Return three prompts that work."""
    return EXAMPLES
