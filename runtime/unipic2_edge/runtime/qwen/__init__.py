"""Qwen2.5-VL's host side: pictures, chat, positions, sampling and words, in numpy, Pillow and tokenizers.

settings.py       what export writes into host/qwen/settings.json
preprocessing.py  picture → patches              windows.py    patches → the feed of the graph `vision`
chat.py           words and pictures → token ids sequence.py   ids with the pictures that stand among them
positions.py      rope indices, cos/sin, bias    embedding.py  ids → embeddings, from a file on the disk
language.py       the graphs `language`, `lm_head`; key_values.py, prefix.py: their cache, and its reuse
seeing.py         the graph `vision`             reading.py    a sequence → hidden states
answering.py      an answer, token by token      querying.py   a prompt → the denoiser's conditioning
tokenizer.py      tokenizer.json
sampling.py       logits → token                 words.py      tokens → text, whole characters only
"""
