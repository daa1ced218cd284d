"""On a real card: F8 decodes to the CPU's bits, and factors are multiplied in F32 and rounded once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.precision import decode
from core.residency.packed import FACTORS, PACKED, Scratch, pack

pytestmark = pytest.mark.gpu
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_the_cpus(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("decoding on a device is for CUDA and ROCm")
    data = torch.arange(256, dtype=torch.uint8).repeat(37)
    expected = decode(data, "F8_E4M3", data.shape, dtype)
    found = decode(data.cuda(), "F8_E4M3", data.shape, dtype).cpu()
    kind = torch.int32 if dtype == torch.float32 else torch.int16
    assert ((found.view(kind) == expected.view(kind)) | (found.isnan() & expected.isnan())).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 24])
def test_factors(dtype: torch.dtype, count: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("decoding on a device is for CUDA and ROCm")
    data = (torch.randn(24, 40, generator=torch.Generator().manual_seed(1)) * 3).to(torch.float8_e4m3fn)
    factors = torch.rand(count, generator=torch.Generator().manual_seed(2)) * 0.01
    net = nn.Sequential(nn.Embedding(24, 40)).to("cuda", dtype).requires_grad_(False)
    pack(net, {"0.weight": "F8_E4M3"}, Scratch(), {"0.weight": factors})
    net[0]._buffers[PACKED] = data.view(torch.uint8).cuda()
    if count > 1:
        net[0]._buffers[FACTORS] = factors.view(-1, 1).cuda()
    found = net(torch.arange(24, device="cuda")).cpu()
    assert torch.equal(found, (data.float() * factors.view(-1, 1)).to(dtype))
