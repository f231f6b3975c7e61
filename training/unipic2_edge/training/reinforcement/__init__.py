"""Online reinforcement of the denoiser: it draws groups of pictures for a prompt, and learns from which are better.

`rollout` samples with noise, `algorithm` says what an algorithm supplies, `flow_grpo` and `diffusion_nft` are the two;
`prompts` asks, `episodes` draws and rates, `stage` is the training stage.
"""
