"""Law kits for third parties, and a tiny random model to run them on."""

from longtake.testing.laws import check_denoiser, check_reward, check_rollout

__all__ = ["check_denoiser", "check_reward", "check_rollout"]
