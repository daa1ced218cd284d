"""One thread: many small operations on several threads crawl when other processes want the same cores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from core.precision import compiled


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For each test here, unless it sets another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["numba", "torch"])
def code(request: pytest.FixtureRequest) -> Iterator[str]:
    """What computes on a CPU: numba's kernels, or torch's operations as on other devices."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(compiled, "kernels", lambda name: None)
        yield request.param
