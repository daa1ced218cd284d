"""What the tests of converting share: a small checkpoint, the command, and a look into what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from core import cli
from core.models.gguf_header import read_gguf
from core.precision import decode

CLI = "import sys; from core import cli; sys.exit(cli.main(sys.argv[1:]))"


def flux_like(blocks: int = 12, width: int = 256) -> dict[str, torch.Tensor]:
    """A small Flux in its original names, in an order that is not that of its execution."""
    chance = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=chance) * 0.05).bfloat16()

    tensors = {"final_layer.linear.weight": normal(64, width), "img_in.weight": normal(width, 64)}
    for number in range(blocks):
        tensors |= {
            f"single_blocks.{number}.linear1.weight": normal(2 * width, width),
            f"single_blocks.{number}.modulation.lin.weight": normal(width, width),
            f"double_blocks.{number}.img_attn.qkv.weight": normal(3 * width, width),
            f"double_blocks.{number}.img_attn.norm.key_norm.scale": normal(width).float(),
            f"double_blocks.{number}.img_mod.lin.weight": normal(width, width),
            f"double_blocks.{number}.img_mod.lin.bias": normal(width),
            f"double_blocks.{number}.img_mlp.2.weight": normal(width, 96),  # rows of 32 only
        }
    return dict(sorted(tensors.items()))


def convert(*words: object, code: int = 0) -> None:
    assert cli.main(["convert", *map(str, words)]) == code


def report_of(tmp_path: Path, *words: object) -> dict[str, Any]:
    convert(*words, "-o", tmp_path / "out.gguf", "--report", tmp_path / "report.json")
    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    return found


def tensor_in(path: Path, name: str) -> tuple[str, torch.Tensor, bytes]:
    """Type, numbers and bytes of a tensor in a GGUF file."""
    found = read_gguf(path).tensors[name]
    raw = path.read_bytes()[found.start : found.end]
    data = torch.frombuffer(bytearray(raw or b"\0"), dtype=torch.uint8)[: len(raw)]
    return found.type, decode(data, found.type, found.shape), raw


def child(code: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
