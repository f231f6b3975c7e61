"""UniPic2-Metaquery: queries and connector between a frozen Qwen2.5-VL and the denoiser; checkpoint and stages."""
