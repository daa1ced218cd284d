"""What LoRAs of rank 32 cost a step: the same transformer with and without them, in turn, on the processor.

    python -m tests.bench.bench_lora [--rounds 9] [--heads 24] [--tokens 256] [--rank 32]

A Flux transformer with random weights and `heads` x 64 channels (FLUX.1 has 3072) runs with no LoRA,
one and three beside every linear layer of its blocks: processor time of one thread, medians over rounds in turn.
`extra_operations` and `extra_bytes` are shares of what the transformer does and holds anyway: no side branch can cost
less where arithmetic, or the link, is what a step waits for. They fall with the width, as rank / channels does.
Writes tests/bench/results/lora.json.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from core.residency.adapters import Branch, Branches, Matrix
from core.residency.store import MemoryTensor
from core.residency.whole import Whole
from tests.bench.report import load_average, write

TARGET = 0.10
_HEAD = 64
_TEXT_TOKENS = 64


def transformer(heads: int) -> FluxTransformer2DModel:
    """One block of two streams and two of one."""
    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=_HEAD,
        num_attention_heads=heads,
        joint_attention_dim=256,
        pooled_projection_dim=256,
        axes_dims_rope=(16, 24, 24),
    )
    return network.eval().requires_grad_(False)


def lora(network: nn.Module, rank: int, seed: int) -> Branches:
    """Random matrices beside every linear layer of the blocks."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> Matrix:
        return Matrix(shape, MemoryTensor(torch.randn(shape, generator=generator) * 0.01))

    layers = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and "transformer_blocks" in name
    ]
    branches = [
        Branch(name, 1.0, matrix(rank, layer.in_features), matrix(layer.out_features, rank)) for name, layer in layers
    ]
    return Branches(f"lora {seed}", tuple(branches))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rank", type=int, default=32)
    options = parser.parse_args()
    load_before = load_average()
    torch.set_num_threads(1)  # whose own time is what is measured: others may be busy
    network = transformer(options.heads)
    call = {
        "hidden_states": torch.randn(1, options.tokens, 64),
        "encoder_hidden_states": torch.randn(1, _TEXT_TOKENS, 256),
        "pooled_projections": torch.randn(1, 256),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(options.tokens, 3),
        "txt_ids": torch.zeros(_TEXT_TOKENS, 3),
        "return_dict": False,
    }
    whole = Whole("transformer", network, lambda owner, change, reason: None)
    own = whole.size
    beside = [lora(network, options.rank, seed) for seed in range(3)]

    def seconds(count: int) -> float:
        whole.adapt([(branches, 0.5) for branches in beside[:count]])
        begin = time.thread_time()
        network(**call)
        return time.thread_time() - begin

    counts = (0, 1, 3)
    with torch.no_grad():
        for count in counts:
            seconds(count)
        rounds = [[seconds(count) for count in counts] for _ in range(options.rounds)]
        whole.adapt([(beside[0], 0.5)])
        extra = whole.size - own
    ratios = {count: [row[number] / row[0] for row in rounds] for number, count in enumerate(counts)}
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # modulation and embedders run for one vector, everything else for all tokens
    rows = {
        name: 1 if "norm" in name else options.tokens + _TEXT_TOKENS
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and "transformer_blocks" in name
    }
    layers = dict(network.named_modules())
    base = sum(count * layers[name].weight.numel() for name, count in rows.items())
    more = sum(
        count * options.rank * (layers[name].in_features + layers[name].out_features) for name, count in rows.items()
    )
    write(
        "lora",
        {
            "parameters": parameters,
            "rank": options.rank,
            "channels": options.heads * _HEAD,
            "tokens": options.tokens + _TEXT_TOKENS,
            "threads": torch.get_num_threads(),
            "rounds": options.rounds,
            "step_seconds": round(statistics.median(row[0] for row in rounds), 4),
            **{f"step_with_{count}_ratio": round(statistics.median(ratios[count]), 4) for count in counts[1:]},
            **{
                f"step_with_{count}_quartiles": [round(value, 4) for value in statistics.quantiles(ratios[count], n=4)]
                for count in counts[1:]
            },
            "extra_operations": round(more / base, 4),
            "extra_bytes": round(extra / own, 4),
            "target": TARGET,
        },
        load_before,
    )


if __name__ == "__main__":
    main()
