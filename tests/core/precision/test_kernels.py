"""Our Triton kernels without a card: in Triton's interpreter, and through its compilers for cards of both makers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def run_without_card(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parents[2])


def test_in_the_interpreter() -> None:
    """What interpreted.py says, test by test."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run(command, cwd=HERE.parents[2], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_nothing_needs_triton() -> None:
    """Without a card it is not even imported; where it is missing, decoding goes on."""
    run_without_card(
        "import sys, torch; from core.precision import decode;"
        "decode(torch.zeros(34, dtype=torch.uint8), 'Q8_0', (1, 32)); sys.exit('triton' in sys.modules)"
    )
    run_without_card(
        "import os, sys; os.environ['TRITON_INTERPRET'] = '1'; sys.modules['triton'] = None;"
        "import torch; from core.precision import decode;"
        "decode(torch.zeros(34, dtype=torch.uint8), 'Q8_0', (1, 32))"
    )


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compiles a format's kernel to BF16 for a card: {stage: code}."""
    pytest.importorskip("triton")
    from triton import compiler
    from triton.backends.compiler import GPUTarget

    from core.precision import triton_blocks

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def build(name: str, target: GPUTarget) -> dict[str, Any]:
        kernel, fixed = triton_blocks.KERNELS[name]
        constants = {"ROWS": triton_blocks.ROWS[name], **fixed}
        signature = {"data": "*u8", "out": "*bf16", "n": "i32", **dict.fromkeys(constants, "constexpr")}
        aligned = {(place,): [["tt.divisibility", 16]] for place in range(2)}
        places = {(list(signature).index(constant),): value for constant, value in constants.items()}
        source = compiler.ASTSource(kernel, signature, constexprs=places, attrs=aligned)
        return dict(compiler.compile(source, target=target, options={"enable_fp_fusion": True}).asm)

    return lambda name, *target: build(name, GPUTarget(*target))


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "Q5_K", "Q4_K"])
def test_for_cards_of_nvidia(name: str, compiled: Any) -> None:
    """Rounds to the nearest, writes 16 bytes at once; the interpreter can tell neither."""
    code = compiled(name, "cuda", 86, 32)
    assert code["cubin"]
    rounding = set(re.findall(r"cvt\.(\w+)\.bf16x?2?\.f32", code["ptx"]))
    assert rounding == {"rn"}
    stores = re.findall(r"st\.global\S*", code["ptx"])
    assert stores
    assert all(re.search(r"v4\.b32|v2\.b64", store) for store in stores)
    assert not re.search(r"\.ftz", code["ptx"])  # denormal numbers stay what they are


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "Q5_K", "Q4_K"])
def test_for_cards_of_amd(name: str, compiled: Any) -> None:
    """For the RX 7800 XT; its BF16 is rounded by integers, half of an odd last place upwards."""
    code = compiled(name, "hip", "gfx1101", 32)
    assert code["hsaco"]
    assert "0x7fff" in code["amdgcn"]
    stores = re.findall(r"^\s+((?:global|buffer)_store\w+)", code["amdgcn"], re.MULTILINE)
    assert stores
    assert all(store.endswith("b128") for store in stores)
