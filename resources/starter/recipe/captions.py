"""A scene in words: many paraphrases of each, with attributes left out, reordered and surrounded by other words.

What a caption leaves out is drawn at random, so the model learns to choose it. Styles are the exception: a caption
without a style mostly shows the flat one, so that a plain prompt gives the house style.
"""

from __future__ import annotations

import random
from pathlib import Path

from scene import Scene

EMPTY_CHANCE = 0.08  # of empty captions, which teach the model the unconditional picture
FILLER_CHANCE = 0.22  # of words that mean nothing here, so that unknown words are learned to be passed over

OBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "house": ("house", "house", "house", "cottage", "home", "cabin", "hut"),
    "boat": ("boat", "boat", "boat", "sailboat", "sailing boat", "ship", "yacht"),
    "lighthouse": ("lighthouse", "lighthouse", "lighthouse", "light house", "beacon"),
    "castle": ("castle", "castle", "castle", "fortress", "palace"),
    "tent": ("tent", "tent", "tent", "camping tent", "tipi"),
    "balloon": ("balloon", "hot air balloon", "hot-air balloon", "air balloon"),
    "tree": ("tree", "tree", "tree", "round tree", "big tree"),
    "windmill": ("windmill", "windmill", "windmill", "mill", "wind mill"),
    "car": ("car", "car", "car", "automobile", "taxi", "vehicle"),
    "rocket": ("rocket", "rocket", "rocket", "rocket ship", "spaceship", "spacecraft"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "red", "red", "red", "scarlet", "crimson"),
    "orange": ("orange", "orange", "orange", "orange", "tangerine"),
    "yellow": ("yellow", "yellow", "yellow", "yellow", "golden", "lemon yellow"),
    "green": ("green", "green", "green", "green", "emerald"),
    "blue": ("blue", "blue", "blue", "blue", "azure", "navy blue"),
    "purple": ("purple", "purple", "purple", "purple", "violet"),
    "pink": ("pink", "pink", "pink", "pink", "rose pink"),
    "white": ("white", "white", "white", "white", "snow-white"),
}
PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "mountains": (
        "in the mountains",
        "in front of mountains",
        "below snowy peaks",
        "among the mountains",
        "in a mountain landscape",
        "under a mountain",
        "in the alps",
    ),
    "hills": ("in the hills", "among rolling hills", "on a hill", "in front of green hills", "in hilly country"),
    "sea": (
        "by the sea",
        "at the sea",
        "on the sea",
        "on the ocean",
        "by the ocean",
        "at the seaside",
        "on the coast",
        "on an island",
        "on the water",
    ),
    "desert": (
        "in the desert",
        "in a desert",
        "among sand dunes",
        "in the dunes",
        "in the sahara",
        "in a sandy desert with cactus",
    ),
    "forest": ("in the forest", "in a forest", "in the woods", "among fir trees", "among pines", "in a pine forest"),
    "city": (
        "in the city",
        "in a city",
        "in front of a skyline",
        "downtown",
        "among skyscrapers",
        "in town",
        "in a big city",
        "on a city street",
    ),
    "meadow": (
        "in a meadow",
        "in a flower field",
        "among flowers",
        "in a field of flowers",
        "in the meadow",
        "in a field of lavender",
        "in the fields",
    ),
    "canyon": (
        "in the canyon",
        "in a canyon",
        "in front of red rocks",
        "among mesas",
        "in the grand canyon",
        "in the wild west",
    ),
}
PLACE_NOUNS: dict[str, tuple[str, ...]] = {
    "mountains": ("mountains", "mountain", "peaks", "alps"),
    "hills": ("hills", "rolling hills", "hill"),
    "sea": ("sea", "ocean", "coast", "seaside"),
    "desert": ("desert", "dunes", "sand dunes"),
    "forest": ("forest", "woods", "pines"),
    "city": ("city", "skyline", "town", "skyscrapers"),
    "meadow": ("meadow", "flower field", "flowers", "fields"),
    "canyon": ("canyon", "red rocks", "mesas"),
}
TIME_PHRASES: dict[str, tuple[str, ...]] = {
    "dawn": ("at dawn", "at dawn", "at sunrise", "at daybreak", "in the early morning", "in the morning"),
    "noon": ("at noon", "at noon", "at midday", "in broad daylight", "by day", "during the day", "in the daytime"),
    "sunset": ("at sunset", "at sunset", "at dusk", "in the evening", "at sundown", "in the evening light"),
    "night": ("at night", "at night", "at midnight", "by night", "in the dark", "after dark"),
}
TIME_NOUNS: dict[str, tuple[str, ...]] = {
    "dawn": ("dawn", "sunrise", "daybreak", "morning"),
    "noon": ("noon", "midday", "daylight", "day"),
    "sunset": ("sunset", "dusk", "evening", "sundown"),
    "night": ("night", "midnight", "night time"),
}
STYLE_PHRASES: dict[str, tuple[str, ...]] = {
    "flat": ("flat style", "flat", "flat poster", "poster style", "flat design"),
    "ink": ("ink style", "ink", "ink drawing", "in ink", "comic style", "line drawing"),
    "pixel": ("pixel style", "pixel", "pixel art", "8-bit", "in pixels", "retro game style"),
    "paper": ("paper style", "paper", "paper cut", "papercut", "cut from paper", "layered paper"),
}
SKY_NOUNS: dict[str, tuple[str, ...]] = {
    "sun": ("sun", "the sun", "a big sun", "a low sun"),
    "moon": ("moon", "a crescent moon", "the moon", "moonlight", "a moon"),
    "stars": ("stars", "a starry sky", "the stars", "many stars"),
    "clouds": ("clouds", "some clouds", "white clouds", "a cloudy sky"),
    "birds": ("birds", "some birds", "flying birds", "a flock of birds"),
    "snow": ("snow", "falling snow", "snowfall", "snowflakes"),
    "rainbow": ("a rainbow", "rainbow", "the rainbow"),
}

# {o} object, {p} place, {t} time, {s} sky, {y} style. Missing parts vanish with the punctuation before them.
FRAMES = (
    "{o} {p} {t}, with {s}, {y}",
    "{o} {p} {t} with {s}, {y}",
    "{o} {p}, {t}, {s}, {y}",
    "{o} {t} {p}, {s}, {y}",
    "{y}, {o} {p} {t}, {s}",
    "{t}, {o} {p}, with {s}, {y}",
    "{p} {o}, {t}, {s}, {y}",
    "{y} of {o} {p} {t}, with {s}",
    "{o}, {p}, {t}, {s}, {y}",
    "{s} over {o} {p} {t}, {y}",
    "{o} and {s} {p} {t}, {y}",
    "there is {o} {p} {t}, with {s}, {y}",
    "{o} standing {p} {t}, with {s}, {y}",
    "{o} under {s} {p} {t}, {y}",
    "{t} {p}, {o}, {s}, {y}",
    "a picture of {o} {p} {t}, {s}, {y}",
    "an illustration of {o} {p} {t} with {s}, {y}",
    "i see {o} {p} {t} and {s}, {y}",
)
# Never used in training; the evaluation's prompts are written with these.
HELD_OUT_FRAMES = (
    "{o} {t}, {p}, {y}, with {s}",
    "{p} {t} we find {o}, {s}, {y}",
    "show me {o} {p} {t}, {s}, {y}",
    "{s}, {o} {p}, {t}, {y}",
    "{y}: {t}, {o} {p}, {s}",
    "imagine {o} that is {p} {t}, {y}, {s}",
)
LEADS = ("a beautiful", "a little", "a small", "an old", "a lonely", "a big", "a lovely", "one", "my", "the")
WORDS = tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())


def _meaningful() -> frozenset[str]:
    tables = (
        OBJECT_WORDS,
        COLOUR_WORDS,
        PLACE_PHRASES,
        PLACE_NOUNS,
        TIME_PHRASES,
        TIME_NOUNS,
        STYLE_PHRASES,
        SKY_NOUNS,
    )
    phrases = (phrase for table in tables for values in table.values() for phrase in values)
    return frozenset(word for phrase in phrases for word in phrase.split())


# Fillers must not contradict the picture: no word that means something in it.
FILLERS = tuple(word for word in WORDS if word not in _meaningful())


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _object_phrase(scene: Scene, colour: bool, rng: random.Random) -> str:
    word = rng.choice(OBJECT_WORDS[scene.object])
    if not colour:
        return _article(word) if rng.random() < 0.8 else word
    paint = rng.choice(COLOUR_WORDS[scene.colour])
    form = rng.random()
    if form < 0.62:
        return _article(f"{paint} {word}")
    if form < 0.72:
        return f"{paint} {word}"
    if form < 0.84:
        return f"{rng.choice(LEADS)} {paint} {word}"
    if form < 0.9:
        return f"{_article(word)} in {paint}"
    return f"{_article(word)} painted {paint}"


def _sky_phrase(things: list[str], rng: random.Random) -> str:
    words = [rng.choice(SKY_NOUNS[thing]) for thing in things]
    if len(words) < 2:
        return "".join(words)
    return (", ".join(words[:-1]) + " and " + words[-1]) if rng.random() < 0.7 else ", ".join(words)


def fill(frame: str, parts: dict[str, str]) -> str:
    """A frame with its parts put in; a missing part takes the word and comma before it along."""
    text = frame
    for key in ("s", "t", "p", "y", "o"):
        mark = "{" + key + "}"
        if parts.get(key):
            text = text.replace(mark, parts[key])
            continue
        for before in (", with ", " with ", " and ", " under ", ": ", " of ", ", ", " "):
            text = text.replace(before + mark, "")
        for after in (" over ", ": ", " of ", ", ", " "):
            text = text.replace(mark + after, "")
        text = text.replace(mark, "")
    return " ".join(text.replace(" ,", ",").split()).strip(" ,:")


def _keywords(scene: Scene, shown: set[str], sky: list[str], rng: random.Random) -> str:
    """The caption as a list of single words, as many people write prompts."""
    words = []
    if "object" in shown:
        paint = rng.choice(COLOUR_WORDS[scene.colour]) + " " if "colour" in shown else ""
        words.append(paint + rng.choice(OBJECT_WORDS[scene.object]))
    if "place" in shown:
        words.append(rng.choice(PLACE_NOUNS[scene.place]))
    if "time" in shown:
        words.append(rng.choice(TIME_NOUNS[scene.time]))
    if "style" in shown:
        words.append(rng.choice(STYLE_PHRASES[scene.style]))
    words += [rng.choice(SKY_NOUNS[thing]) for thing in sky]
    if rng.random() < 0.5:
        rng.shuffle(words)
    return (", " if rng.random() < 0.7 else " ").join(words)


def _with_fillers(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    for _ in range(rng.randint(1, 3)):
        word = rng.choice(FILLERS)
        if rng.random() < 0.12:
            word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 8)))
        place = rng.random()
        if place < 0.4:
            words.append(rng.choice((", ", "and ", "with ", "")) + word)
        elif place < 0.6:
            words.insert(0, word)
        else:
            words.insert(rng.randrange(len(words) + 1), word)
    return " ".join(words)


def caption(scene: Scene, rng: random.Random) -> str:
    """A training caption of a scene: sometimes empty, often incomplete, never in a held-out frame."""
    if rng.random() < EMPTY_CHANCE:
        return ""
    shown = {name for name, chance in (("object", 0.95), ("place", 0.9), ("time", 0.88)) if rng.random() < chance}
    if "object" in shown and rng.random() < 0.92:
        shown.add("colour")
    if rng.random() < (0.25 if scene.style == "flat" else 0.88):
        shown.add("style")
    sky = [thing for thing in scene.sky if rng.random() < 0.8]
    rng.shuffle(sky)
    if rng.random() < 0.2:
        text = _keywords(scene, shown, sky, rng)
    else:
        text = sentence(scene, shown, sky, rng.choice(FRAMES), rng)
    if rng.random() < FILLER_CHANCE:
        text = _with_fillers(text, rng)
    case = rng.random()
    if case < 0.12:
        text = text.capitalize()
    elif case < 0.15:
        text = text.title()
    if rng.random() < 0.1:
        text += "."
    return text


def sentence(scene: Scene, shown: set[str], sky: list[str], frame: str, rng: random.Random) -> str:
    """The scene's shown attributes and sky things in one frame."""
    parts = {"s": _sky_phrase(sky, rng)}
    if "object" in shown:
        parts["o"] = _object_phrase(scene, "colour" in shown, rng)
    if "place" in shown:
        parts["p"] = rng.choice(PLACE_PHRASES[scene.place])
    if "time" in shown:
        parts["t"] = rng.choice(TIME_PHRASES[scene.time])
    if "style" in shown:
        parts["y"] = rng.choice(STYLE_PHRASES[scene.style])
    return fill(frame, parts)


def held_out_prompt(scene: Scene, rng: random.Random) -> str:
    """An evaluation prompt: object, colour, place and time all named, in a frame no training caption used."""
    shown = {"object", "colour", "place", "time"}
    if scene.style != "flat" or rng.random() < 0.3:
        shown.add("style")
    return sentence(scene, shown, list(scene.sky), rng.choice(HELD_OUT_FRAMES), rng)
