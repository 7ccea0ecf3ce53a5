"""The tiny random Wan pipeline, for law kits and third parties. It imports diffusers, so import it where it is used."""

from longtake.models.tiny import save_tiny, tiny_scheduler, tiny_wan

__all__ = ["save_tiny", "tiny_scheduler", "tiny_wan"]
