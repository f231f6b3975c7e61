"""Sessions that run transformers' own layers with the arrays the graphs get: what export writes, without an export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from unipic2_edge.runtime.bundle import Graph, TensorSpec
from unipic2_edge.runtime.session import Array, check_inputs


class StandIn:
    """One graph: checks its inputs as every session does, counts what it ran."""

    def __init__(self, name: str, inputs: dict[str, tuple[int | str, ...]], outputs: tuple[str, ...]) -> None:
        integers = ("restore_index", "select_index")
        specs = tuple(TensorSpec(n, "int64" if n in integers else "float32", shape) for n, shape in inputs.items())
        answers = tuple(TensorSpec(n, "float32", ()) for n in outputs)
        self.graph = Graph(file=f"graphs/{name}.onnx", component=name, inputs=specs, outputs=answers)
        self.lengths: list[int] = []  # tokens or windows of each run

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        check_inputs(self.graph, inputs)
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
        with torch.no_grad():
            return {name: value.numpy() for name, value in self.compute(tensors).items()}

    def compute(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Language(StandIn):
    """`language`: the decoder layers with the given rope, bias and cache."""

    def __init__(self, model: Any) -> None:
        self.text = model.model.language_model
        config = self.text.config
        self.layers, width = config.num_hidden_layers, config.hidden_size
        head = width // config.num_attention_heads
        shapes: dict[str, tuple[int | str, ...]] = {"inputs_embeds": ("B", "S", width)}
        shapes |= {"rope_cos": ("B", "S", head), "rope_sin": ("B", "S", head)}
        shapes |= {"attention_bias": ("B", 1, "S", "T"), "select_index": ("K",)}
        for layer in range(self.layers):
            for kind in ("key", "value"):
                shapes[f"past_{kind}_{layer}"] = ("B", config.num_key_value_heads, "P", head)
        super().__init__("language", shapes, ("hidden",))

    def compute(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        cache = DynamicCache()
        for layer in range(self.layers):
            cache.update(inputs[f"past_key_{layer}"], inputs[f"past_value_{layer}"], layer)
        rope = tuple(inputs[name].expand(3, *inputs[name].shape) for name in ("rope_cos", "rope_sin"))
        hidden = inputs["inputs_embeds"]
        self.lengths.append(hidden.shape[1])
        for block in self.text.layers:
            hidden = block(
                hidden, attention_mask=inputs["attention_bias"], position_embeddings=rope, past_key_values=cache
            )
        given = {"hidden": self.text.norm(hidden[:, inputs["select_index"]])}
        for layer in range(self.layers):
            given[f"present_key_{layer}"] = cache.layers[layer].keys
            given[f"present_value_{layer}"] = cache.layers[layer].values
        return given


class Head(StandIn):
    """`lm_head`."""

    def __init__(self, model: Any) -> None:
        self.head = model.lm_head
        super().__init__("lm_head", {"hidden": ("B", "K", model.lm_head.in_features)}, ("logits",))

    def compute(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"logits": self.head(inputs["hidden"])}


class Connector(StandIn):
    """`connector`: any function of the queries' hidden states will do."""

    def __init__(self, width: int) -> None:
        super().__init__("connector", {"hidden": ("B", "Q", width)}, ("context", "pooled"))

    def compute(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.lengths.append(len(inputs["hidden"]))
        return {"context": inputs["hidden"].repeat(1, 1, 2), "pooled": inputs["hidden"].mean(1)}


class Vision(StandIn):
    """`vision`: transformers' blocks over the rows of windows, the full blocks over all windows as one row."""

    def __init__(self, model: Any) -> None:
        self.tower = model.model.visual
        config = self.tower.config
        self.full = set(config.fullatt_block_indexes)
        head = config.hidden_size // config.num_heads
        slots: tuple[int | str, ...] = ("W", "S")
        width = config.in_channels * config.temporal_patch_size * config.patch_size**2
        shapes: dict[str, tuple[int | str, ...]] = {"patches": (*slots, width)}
        shapes |= {"rope_cos": (*slots, head), "rope_sin": (*slots, head), "key_bias": slots, "restore_index": ("N",)}
        super().__init__("vision", shapes, ("image_embeds",))

    def compute(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        patches, bias = inputs["patches"], inputs["key_bias"]
        windows, slots, _ = patches.shape
        self.lengths.append(windows)
        x = self.tower.patch_embed(patches).reshape(windows, slots, -1)
        for number, block in enumerate(self.tower.blocks):
            rows = (1, windows * slots) if number in self.full else (windows, slots)
            rope = [inputs[name].reshape(*rows, -1) for name in ("rope_cos", "rope_sin")]
            x = x.reshape(*rows, -1)
            x = x + _attend(block.attn, block.norm1(x), rope, bias.reshape(*rows))
            x = x + block.mlp(block.norm2(x))
        return {"image_embeds": self.tower.merger(x.reshape(windows * slots, -1))[inputs["restore_index"]]}


def _attend(attention: Any, x: torch.Tensor, rope: list[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = (_turn(part, rope[0][:, None], rope[1][:, None]) for part in (q, k))
    weights = (q @ k.transpose(-1, -2) * attention.scaling + bias[:, None, None]).softmax(-1)
    return attention.proj((weights @ v).transpose(1, 2).flatten(2))


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin
