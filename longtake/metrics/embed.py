"""Files and data inside a page: what makes an HTML file whole by itself.

A page is a template in `pages/` with marks: DATA becomes a JSON value, and nothing in it can end the script element
that it stands in; TITLE becomes text; BODY is HTML that its caller has escaped. Videos that a browser plays are taken
as they are; others, and those above 24 MB, are encoded once more (H.264, at most 480 pixels on the longer side), frame
by frame.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from longtake.output.video import Format, VideoWriter, probe, read_frames

PAGES = Path(__file__).parent / "pages"
LARGEST, LONGER_SIDE = 24 << 20, 480
PLAYED = {"h264": ("yuv420p", "yuvj420p")}


def page(template: str, title: str, data: Any = None, body: str = "") -> str:
    """A template with its data and body."""
    # "<" could begin "</script>" or "<!--"; in JSON it may always be written as an escape
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    marks = {"__TITLE__": html.escape(title), "__DATA__": text.replace("\u2029", "\\u2029"), "__BODY__": body}
    source = (PAGES / template).read_text(encoding="utf-8")
    return re.sub("|".join(marks), lambda mark: marks[mark[0]], source)  # at once: what is put in has no marks


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def video_uri(path: Path) -> str:
    """A video as a data URI that browsers play."""
    if path.stat().st_size <= LARGEST and _is_played(path):
        return _uri("video/mp4", path.read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        return _uri("video/mp4", _encoded(path, Path(scratch) / "small.mp4").read_bytes())


def picture_uri(picture: Image.Image) -> str:
    """A picture as a data URI, WebP."""
    buffer = BytesIO()
    picture.save(buffer, "WEBP", quality=82)
    return _uri("image/webp", buffer.getvalue())


def _is_played(path: Path) -> bool:
    if path.suffix.lower() not in (".mp4", ".m4v"):
        return False
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        return context.pix_fmt in PLAYED.get(context.name, ())


def _encoded(path: Path, target: Path) -> Path:
    clip = probe(path)
    shrink = min(1.0, LONGER_SIDE / max(clip.width, clip.height))
    width, height = max(1, round(clip.width * shrink)), max(1, round(clip.height * shrink))
    writer = VideoWriter(target, Format(width, height, clip.fps, crf=23))
    for frame in read_frames(path):
        small = Image.fromarray(frame).resize((width, height), Image.Resampling.BOX if shrink < 1 else None)
        writer.write(torch.from_numpy(np.array(small))[None])
    writer.flush()
    return target


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
