"""What is assumed of a card until it is measured: rates that follow from its memory and its link. No torch.

A profile states what is particular to a card. What follows from that by one rule for every card is here, with the
reason. Calibration replaces all of it.
"""

from __future__ import annotations

from core.hardware.link import PAGEABLE_SHARE, STAGED_LIMIT, Link

# Bytes of 16-bit output per byte of memory bandwidth, when a stored format is decoded by torch's own operations one by
# one. They are bound by memory traffic, each operation a pass, so a share of bandwidth carries from card to card.
# Published for an H100 (3350 GB/s): 397 GB/s for Q8_0, 108 for Q4_1, 85 for Q2_K.
_Q8_0 = 397 / 3350
_Q4_1 = 108 / 3350
_Q2_K = 85 / 3350
# Q5_K and Q6_K take twice as long as Q8_0 (transformers' pull request 45975: 6.5 and 6.8 against 13.4 GB/s in one run).
# It has Q4_K nearer to Q8_0 than to Q5_K; the cautious figure is taken.
_K = _Q8_0 / 2
# A cast and the multiplication by the tensor's scale move 7 bytes for 2 of output, at 85 % of the memory's bandwidth.
_F8 = 0.85 * 2 / 7

_DECODE_SHARE = {
    "F8_E4M3": _F8,
    "Q8_0": _Q8_0,
    "Q6_K": _K,
    "Q5_K": _K,
    "Q4_K": _K,
    # unpacked nibble by nibble, or looked up in a table: as many passes as Q4_1
    "Q5_1": _Q4_1,
    "Q5_0": _Q4_1,
    "Q4_1": _Q4_1,
    "Q4_0": _Q4_1,
    "IQ4_NL": _Q4_1,
    "IQ4_XS": _Q4_1,
    "MXFP4": _Q4_1,
    "Q3_K": _Q2_K,
    "Q2_K": _Q2_K,
}

DECODE_SOURCE = (
    "assumed: shares of the memory bandwidth that eager torch reaches, published for an H100 (397 GB/s Q8_0, 108 Q4_1, "
    "85 Q2_K of 3350 GB/s); Q4_K to Q6_K at half of Q8_0"
)
PAGEABLE_SOURCE = "assumed: a third of pinned, since the driver copies twice"
STAGED_SOURCE = "measured: positioned reads into pinned memory by one core reach 13 GB/s; the link where it is slower"


def decode_rates(memory_bandwidth: float) -> dict[str, float]:
    """Bytes of 16-bit output per second by stored format, from the memory's bytes per second."""
    return {name: round(share * memory_bandwidth, -6) for name, share in _DECODE_SHARE.items()}


def pinned_source(link: Link) -> str:
    """Where a link's planning rate comes from."""
    return f"assumed: {link} carries about {link.pinned_rate / 1e9:g} GB/s from pinned memory, four fifths of the wire"


def pageable_rate(pinned_rate: float) -> float:
    """Bytes per second from memory that is not pinned."""
    return round(pinned_rate * PAGEABLE_SHARE, -6)


def staged_rate(pinned_rate: float) -> float:
    """Bytes per second from a file's pages through a small pinned ring."""
    return min(pinned_rate, STAGED_LIMIT)
