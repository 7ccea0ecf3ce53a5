"""Build ``longtake/world/atlas.webp``: every sprite of pocket's world in one picture.

Fetch the sources once (MIT, about 750 MB) and build::

    mkdir emoji && cd emoji
    npm pack @lobehub/fluent-emoji-3d@1.1.0 @lobehub/fluent-emoji-anim-1@1.0.0 \\
        @lobehub/fluent-emoji-anim-2@1.0.0 @lobehub/fluent-emoji-anim-3@1.0.0 \\
        @lobehub/fluent-emoji-anim-4@1.0.0
    cd .. && python scripts/build_atlas.py emoji longtake/world/atlas.webp

The atlas is a grid of 64 x 64 RGBA cells.  Row r holds the eight frames of one loop of
subject r; the rows after the subjects hold the props, eight stills a row.  Every sprite is
turned so that it faces *right* and stands on the bottom edge of its cell, so that the
renderer needs no table of its own.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from longtake.world.grammar import PROPS, SUBJECTS

CELL, FRAMES, MARGIN = 64, 8, 1


@dataclass(frozen=True)
class Source:
    """Where a sprite comes from and how it must be turned.

    ``faces`` is the side the original looks to: "left", "right" or "front".  ``turn`` is
    applied after mirroring, in degrees anticlockwise.  ``first`` and ``last`` cut the loop
    (fractions of it); ``pingpong`` plays the cut there and back, for loops that would jump.
    ``trim`` cuts that fraction off the bottom.
    """

    code: str
    faces: str = "left"
    turn: float = 0.0
    first: float = 0.0
    last: float = 1.0
    pingpong: bool = False
    trim: float = 0.0


# Every original was looked at.  The dolphin somersaults and the turtle hides in the middle of
# their loops, so only the calm part is kept; the aircraft point up at 45 degrees.
SUBJECT_SOURCES = {
    "dog": Source("1f415"),
    "cat": Source("1f408"),
    "cow": Source("1f404"),
    "ox": Source("1f402"),
    "horse": Source("1f40e"),
    "ram": Source("1f40f"),
    "goat": Source("1f410"),
    "sheep": Source("1f411"),
    "pig": Source("1f416"),
    "elephant": Source("1f418"),
    "tiger": Source("1f405"),
    "leopard": Source("1f406"),
    "rabbit": Source("1f407"),
    "deer": Source("1f98c"),
    "kangaroo": Source("1f998"),
    "llama": Source("1f999"),
    "camel": Source("1f42a"),
    "rooster": Source("1f413"),
    "duck": Source("1f986"),
    "swan": Source("1f9a2"),
    "penguin": Source("1f427", faces="front"),
    "turtle": Source("1f422", last=0.36, pingpong=True),
    "crocodile": Source("1f40a", turn=62),
    "snail": Source("1f40c"),
    "whale": Source("1f40b"),
    "dolphin": Source("1f42c", first=0.42, last=0.99, pingpong=True, turn=-12),
    "shark": Source("1f988", turn=-8),
    "fish": Source("1f41f"),
    "butterfly": Source("1f98b", faces="front", first=0.08, last=0.42),
    "owl": Source("1f989", faces="front"),
    "bus": Source("1f68c"),
    "car": Source("1f697"),
    "truck": Source("1f69a"),
    "tractor": Source("1f69c"),
    "locomotive": Source("1f682"),
    "rocket": Source("1f680", faces="right", turn=-32),
    "helicopter": Source("1f681"),
    "airplane": Source("2708-fe0f", faces="right", turn=-28),
    "sailboat": Source("26f5", trim=0.19),
}

PROP_SOURCES = {
    "tree": "1f333",
    "evergreen": "1f332",
    "palm": "1f334",
    "cactus": "1f335",
    "tulip": "1f337",
    "sunflower": "1f33b",
    "daisy": "1f33c",
    "mushroom": "1f344",
    "house": "1f3e0",
    "hut": "1f6d6",
    "castle": "1f3f0",
    "tent": "26fa",
    "rock": "1faa8",
    "snowman": "26c4",
    "umbrella": "26f1-fe0f",
    "island": "1f3dd-fe0f",
    "tower": "1f3e2",
    "fountain": "26f2",
    "wheel": "1f3a1",
    "cloud": "2601-fe0f",
    "stump": "1fab5",
    "circus": "1f3aa",
    "shell": "1f41a",
    "christmas tree": "1f384",
}


def read_packs(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the wanted files of the animated packs and of the still pack, by code point."""
    animated, still = {}, {}
    wanted = {s.code for s in SUBJECT_SOURCES.values()} | set(PROP_SOURCES.values())
    for path in sorted(folder.glob("lobehub-fluent-emoji-*.tgz")):
        target = animated if "-anim-" in path.name else still
        with tarfile.open(path) as pack:
            for member in pack:
                code = Path(member.name).stem
                if member.name.endswith(".webp") and code in wanted:
                    target[code] = pack.extractfile(member).read()
    return animated, still


def loop_indices(source: Source, count: int) -> list[int]:
    """Return which of ``count`` original frames make the loop of ``FRAMES`` pictures."""
    first, span = source.first * count, (source.last - source.first) * count
    if source.pingpong:
        half = FRAMES // 2
        steps = [i / half for i in range(half + 1)] + [i / half for i in range(half - 1, 0, -1)]
        return [min(int(first + s * (span - 1)), count - 1) for s in steps]
    return [min(int(first + i * span / FRAMES), count - 1) for i in range(FRAMES)]


def turned(picture: Image.Image, source: Source) -> Image.Image:
    """Return the picture mirrored to face right and turned by ``source.turn`` degrees."""
    picture = picture.convert("RGBA")
    if source.faces == "left":
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if source.turn:
        picture = picture.rotate(source.turn, Image.Resampling.BICUBIC, expand=True)
    return picture


def fit(pictures: list[Image.Image], trim: float = 0.0) -> list[Image.Image]:
    """Cut all pictures to their common box and set them on the floor of a cell."""
    boxes = [p.getchannel("A").point(lambda a: 255 * (a > 24)).getbbox() for p in pictures]
    x0, y0 = min(b[0] for b in boxes), min(b[1] for b in boxes)
    x1, y1 = max(b[2] for b in boxes), max(b[3] for b in boxes)
    y1 -= int(trim * (y1 - y0))
    scale = (CELL - 2 * MARGIN) / max(x1 - x0, y1 - y0)
    width, height = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    cells = []
    for picture in pictures:
        cell = Image.new("RGBA", (CELL, CELL))
        small = picture.crop((x0, y0, x1, y1)).resize((width, height), Image.Resampling.LANCZOS)
        cell.paste(small, ((CELL - width) // 2, CELL - MARGIN - height))
        cells.append(cell)
    return cells


def subject_cells(data: bytes, source: Source) -> list[Image.Image]:
    """Return the eight cells of one animated subject."""
    movie = Image.open(io.BytesIO(data))
    pictures = []
    for index in loop_indices(source, getattr(movie, "n_frames", 1)):
        movie.seek(index)
        pictures.append(turned(movie, source))
    return fit(pictures, source.trim)


def build(folder: Path) -> Image.Image:
    """Return the whole atlas as one RGBA picture."""
    animated, still = read_packs(folder)
    rows = [subject_cells(animated[SUBJECT_SOURCES[n].code], SUBJECT_SOURCES[n]) for n in SUBJECTS]
    props = [fit([Image.open(io.BytesIO(still[PROP_SOURCES[n]])).convert("RGBA")])[0] for n in PROPS]
    rows += [props[i : i + FRAMES] for i in range(0, len(props), FRAMES)]
    sheet = Image.new("RGBA", (CELL * FRAMES, CELL * len(rows)))
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            sheet.paste(cell, (c * CELL, r * CELL))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packs", type=Path, help="folder with the five .tgz files of npm pack")
    parser.add_argument("out", type=Path, nargs="?", default=Path("longtake/world/atlas.webp"))
    args = parser.parse_args()
    build(args.packs).save(args.out, lossless=True, quality=100, method=6)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
