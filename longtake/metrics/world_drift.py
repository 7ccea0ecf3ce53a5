"""How far a long shot in pocket's world drifts from its own beginning, and from its caption, piece by piece.

A piece is 45 frames (5.6 s at 8 fps). Per piece: mean cosine of its pictures' features to the mean of the first
piece's, by role (subject, place); log probability of the caption's subject and place; motion quality; and the mean
colour's distance from the first piece's, in 8-bit steps. The first piece compares with itself and sets the scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.metrics import judge as judging
from longtake.metrics.world_quality import LEAST, said_of, spread, warp_consistency
from longtake.world.grammar import Scene

Curve = dict[str, list[float]]
KEYS = ("subject_similarity", "place_similarity", "subject_word", "place_word", "motion_quality", "colour_shift")


def drift(judge: judging.Judge, clip: Tensor, wanted: Scene) -> Curve:
    """Curves by name, one number a whole piece of `clip` uint8 [T,H,W,3]; what is left over at the end is not read."""
    pieces = clip.split(judging.SPAN)
    pieces = [piece for piece in pieces if len(piece) == judging.SPAN]
    if not pieces:
        raise ValueError(f"drift needs at least {judging.SPAN} frames, got {len(clip)}")
    curve: Curve = {key: [] for key in KEYS}
    encoders = {role: judging.Encoder(judge, role, role) for role in ("subject", "place")}
    first = {role: F.normalize(F.normalize(e(spread(pieces[0])), dim=1).mean(0), dim=0) for role, e in encoders.items()}
    colour = pieces[0].float().mean(dim=(0, 1, 2))
    for piece in pieces:
        reading = judging.read(judge, piece.permute(0, 3, 1, 2)[None])
        for role, encode in encoders.items():
            features = F.normalize(encode(spread(piece)), dim=1)
            curve[f"{role}_similarity"].append(float((features @ first[role]).mean()))
            curve[f"{role}_word"].append(max(said_of(reading, role, getattr(wanted, role)), LEAST))
        moved = float(torch.tensor(said_of(reading, "motion", wanted.motion)).exp())
        curve["motion_quality"].append(moved * warp_consistency(piece))
        curve["colour_shift"].append(float((piece.float().mean(dim=(0, 1, 2)) - colour).abs().mean()))
    return curve
