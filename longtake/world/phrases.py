"""The phrases a caption is made of.  The first of each tuple is the canonical one."""

from __future__ import annotations

TRAVEL = {
    "land": ("walks {d}", "strolls {d}", "wanders {d}", "walks to the {d}", "is walking {d}"),
    "vehicle": ("drives {d}", "rolls {d}", "travels {d}", "drives to the {d}", "is driving {d}"),
    "water": ("swims {d}", "glides {d}", "swims to the {d}", "is swimming {d}"),
    "boat": ("sails {d}", "glides {d}", "sails to the {d}", "is sailing {d}"),
    "flyer": ("flies {d}", "flutters {d}", "flies to the {d}", "is flying {d}"),
    "aircraft": ("flies {d}", "soars {d}", "flies to the {d}", "is flying {d}"),
}
# Wording for the quick half of the scenes, where it differs.
HASTE = {
    "land": ("runs {d}", "trots {d}", "hurries to the {d}", "is running {d}"),
    "vehicle": ("drives {d}", "races {d}", "speeds to the {d}"),
}
STAY = {
    "land": {
        "jump": ("jumps up and down", "bounces up and down", "hops", "is jumping"),
        "circle": ("walks in circles", "runs in a circle", "wanders in circles"),
    },
    "vehicle": {
        "jump": ("bounces up and down", "jumps up and down", "is bouncing"),
        "circle": ("drives in circles", "drives in a circle", "rolls in circles"),
    },
    "water": {
        "jump": ("jumps up and down", "leaps up and down", "is jumping"),
        "circle": ("swims in circles", "swims in a circle", "glides in circles"),
        "arc": ("leaps in an arc", "swims in an arc", "leaps in great arcs"),
        "float": ("floats", "rests", "is floating"),
    },
    "boat": {
        "circle": ("sails in circles", "sails in a circle"),
        "float": ("floats", "rests", "is floating"),
        "updown": ("rocks up and down", "moves up and down"),
    },
    "flyer": {
        "circle": ("flies in circles", "flies in a circle", "flutters in circles"),
        "arc": ("flies in an arc", "swoops in great arcs"),
        "float": ("floats", "hovers", "is floating"),
        "updown": ("flies up and down", "moves up and down"),
    },
    "aircraft": {
        "circle": ("flies in circles", "flies in a circle", "soars in circles"),
        "arc": ("flies in an arc", "swoops in great arcs"),
        "float": ("floats", "hovers", "is floating"),
        "updown": ("flies up and down", "moves up and down"),
    },
}
PLACE = {
    "green hills": ("green hills", "rolling hills", "grassy hills"),
    "meadow": ("a meadow", "a flowery meadow", "the meadow"),
    "sea": ("the sea", "the ocean", "the blue sea"),
    "beach": ("a beach", "a sandy beach", "the beach"),
    "desert": ("the desert", "a desert", "desert dunes"),
    "snow": ("the snow", "a snowy field", "white snow"),
    "forest": ("a forest", "the woods", "a dark forest"),
    "city": ("a city", "the city", "a city street"),
}
# Prepositions: a travelling subject, one that stays, one that flies.
ACROSS = {"default": ("across",), "forest": ("through", "across"), "city": ("through", "across")}
IN = {"default": ("in",), "green hills": ("on", "in"), "beach": ("on", "at")}
OVER = ("over", "above")
TIME = {
    "dawn": ("at dawn", "at sunrise", "in the early morning"),
    "noon": ("at noon", "at midday", "on a sunny day"),
    "dusk": ("at dusk", "at sunset", "in the evening"),
    "night": ("at night", "by moonlight", "under the stars"),
}
CAMERA = {
    "still": ("",) * 5 + ("the camera is still", "static camera"),
    "pan left": ("the camera pans left", "panning left", "camera pans to the left"),
    "pan right": ("the camera pans right", "panning right", "camera pans to the right"),
    "zoom in": ("the camera zooms in", "slow zoom in", "zooming in"),
    "zoom out": ("the camera zooms out", "slow zoom out", "zooming out"),
}
NEAR = ("near", "beside", "next to")
PROP = {"circus": "circus tent", "tree": "tree"}  # caption's name where it is not the sprite's
