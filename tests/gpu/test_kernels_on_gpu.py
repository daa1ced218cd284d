"""On a real card: packed weights decode to the CPU's bits, by our kernels where there are any."""

from __future__ import annotations

import pytest
import torch

from core.precision import decode, eager, kernels
from core.precision.formats import FORMATS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", kernels.DTYPES)
@pytest.mark.parametrize("name", kernels.FORMATS)
def test_bits_are_the_cpus(name: str, dtype: torch.dtype) -> None:
    """Random bytes, so all scales there are; in one case at an address that does not divide by 16."""
    if not torch.cuda.is_available():
        pytest.skip("kernels are for CUDA and ROCm")
    entry, device = FORMATS[name], torch.device("cuda", torch.cuda.current_device())
    data = torch.randint(0, 256, (1021 * entry.block_bytes + 4,), dtype=torch.uint8)
    for start in (0, 4):
        part = data[start : start + 1021 * entry.block_bytes]
        expected = torch.empty((1021, entry.block_elements), dtype=dtype)
        eager.decode_blocks(part.clone().view(1021, -1), entry, expected)
        slot = torch.zeros(1021 * entry.block_elements + 3, dtype=dtype, device=device)
        found = decode(data.to(device)[start : start + len(part)], name, expected.shape, out=slot[3:]).cpu()
        kind = torch.int32 if dtype == torch.float32 else torch.int16
        same = (found.view(kind) == expected.view(kind)) | (found.isnan() & expected.isnan())
        assert same.all()
    if kernels.available(device):
        out = torch.empty_like(expected, device=device)
        kernels.launch(part.clone().view(1021, -1).to(device), entry, out)
        same = (out.cpu().view(kind) == expected.view(kind)) | (out.cpu().isnan() & expected.isnan())
        assert same.all()
