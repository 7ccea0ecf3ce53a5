"""Sizes of pocket's parts: the keyword arguments of the stock classes, in one place."""

from __future__ import annotations

SIZE = 64  # pixels, both ways
FPS = 8
WINDOW = 12  # latent frames that one network call reads
FRAMES = 4 * (WINDOW - 1) + 1  # the same in pixel frames
TOKENS = 16  # transformer tokens a latent frame
TEXT_LENGTH = 32  # our own padding; stock pipelines pad to 226 or 512
SHIFT = 3.0  # of the flow-matching schedule

VAE = dict(
    base_dim=16, decoder_base_dim=32, z_dim=32, dim_mult=[1, 2, 4], num_res_blocks=1,
    temperal_downsample=[True, True], patch_size=2, in_channels=12, out_channels=12,
    scale_factor_spatial=8, scale_factor_temporal=4, latents_mean=[0.0] * 32, latents_std=[1.0] * 32,
)  # fmt: skip
TRANSFORMER = dict(
    patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=64, in_channels=32, out_channels=32,
    text_dim=128, freq_dim=128, ffn_dim=704, num_layers=8, cross_attn_norm=True,
)  # fmt: skip
TEXT = dict(
    d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0, feed_forward_proj="gated-gelu",
    relative_attention_num_buckets=16, relative_attention_max_distance=32, pad_token_id=0, eos_token_id=1,
    decoder_start_token_id=0, tie_word_embeddings=False,
)  # fmt: skip
