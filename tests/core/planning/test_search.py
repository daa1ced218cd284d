"""The search for residency against trying every placement of small instances."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from core.planning.cost import Machine, Stage
from core.planning.job import Next
from core.planning.search import Search
from tests.core.planning.placements import brute_force, component, needs_of

sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(20, 60)), min_size=1, max_size=2, unique_by=lambda s: s[1])
one_size = st.lists(st.tuples(st.integers(1, 3), st.integers(20, 60)), min_size=1, max_size=1)


@settings(max_examples=150, deadline=None)
@given(
    encoder=sizes,
    transformer=sizes,
    rests=st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(10, 80)),
    seconds=st.tuples(st.floats(0, 3), st.floats(0, 3), st.floats(0, 3)),
    overheads=st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 80)),
    passes=st.integers(1, 12),
    budget=st.integers(80, 160),
    skipped=st.booleans(),
    overlap=st.booleans(),  # an engine that streams lets loading overlap; one that holds components whole does neither
    warm=st.integers(0, 200),
    slots=st.integers(2, 3),
    again=st.sampled_from([40.0, 10.0]),
)
def test_nothing_that_fits_is_faster(
    encoder, transformer, rests, seconds, overheads, passes, budget, skipped, overlap, warm, slots, again
):
    stages = [
        Stage((component("encoder", encoder, rests[0], seconds[0], overlap),), 1, overheads[0], True, skipped),
        Stage(
            (component("transformer", transformer, rests[1], seconds[1], overlap),), passes, overheads[1], False, False
        ),
        Stage((component("vae", [], rests[2], seconds[2], streams=False),), 1, overheads[2], False, False),
    ]
    machine = Machine(budget, link=40.0, cold=10.0, again=again, contention=0.1, slots=slots, overlap=overlap)
    # with blocks of two sizes, what is kept of the transformer may be a block less than the best mixture allows
    slack = 0 if len(transformer) == 1 else max(size for _, size in transformer)
    compare(stages, machine, {"transformer": min(warm, budget)}, slack)


@settings(max_examples=150, deadline=None)
@given(
    encoder=one_size,
    transformer=one_size,
    seconds=st.tuples(st.floats(0, 3), st.floats(0, 3)),
    passes=st.integers(1, 20),
    budget=st.integers(80, 160),
    hosted=st.tuples(st.integers(0, 120), st.integers(0, 120)),
    warm=st.integers(0, 200),
)
def test_nothing_is_faster_where_some_bytes_come_from_the_disk(
    encoder, transformer, seconds, passes, budget, hosted, warm
):
    stages = [
        Stage((component("encoder", encoder, 10, seconds[0], True),), 1, 10, True, False),
        Stage((component("transformer", transformer, 10, seconds[1], True),), passes, 20, False, False),
    ]
    kept = tuple(zip(("encoder", "transformer"), hosted, strict=True))
    machine = Machine(budget, link=40.0, cold=5.0, again=40.0, contention=0.1, slots=2, hosted=kept, disk=5.0)
    compare(stages, machine, {"transformer": min(warm, budget)})


def compare(stages: list[Stage], machine: Machine, warm: dict[str, int], slack: int = 0) -> None:
    """Check a search with trying everything; what it keeps may be `slack` bytes less than the best."""
    chances = Next(0.6, 0.3, 0.1)
    search = Search(stages, machine, chances, warm, frozenset())
    found, best = search.run(), brute_force(stages, machine, chances, warm)
    assert (found is None) == (best is None)
    if found is None or best is None:
        return
    expected = best.expected
    assert found.expected >= expected - 1e-9
    late = slack / machine.again * (chances.text + chances.seed) + min(slack, sum(warm.values())) / machine.cold
    assert found.expected <= expected + 1e-9 + late
    assert search.alone <= search.bound + 1e-9
    assert search.bound <= found.expected + 1e-9
    assert max(needs_of(stages, machine, found.placements)) <= machine.budget


# Which components run in which stage, one letter each: (e)ncoder, second encoder (f), (t)ransformer, second (u), (v)ae.
LAYOUTS = (
    ("e", "t", "u", "v"),  # two experts, each in its own phase
    ("t", "u"),
    ("ef", "t", "v"),  # two encoders, which share the slots
    ("e", "tu", "v"),  # two networks that take turns in every step
    ("e", "t", "v", "t", "v"),  # two samplings with something between them
    ("e", "t", "t", "v"),  # and two in a row
    ("v", "e", "t", "v"),  # a picture to begin with
    ("tuv",),
)


@settings(max_examples=300, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    blocks=st.tuples(one_size, one_size, one_size, one_size),
    rests=st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(1, 60)),
    seconds=st.tuples(*[st.floats(0, 3)] * 5),
    overheads=st.tuples(*[st.integers(0, 40)] * 5),
    passes=st.tuples(*[st.integers(1, 9)] * 5),
    budget=st.integers(80, 160),
    warm=st.integers(0, 100),
    overlap=st.booleans(),
)
def test_nor_where_several_share_a_phase_or_one_has_several(
    layout, blocks, rests, seconds, overheads, passes, budget, warm, overlap
):
    parts = {
        name: component(name, size, rest, one, streams=overlap)
        for name, size, rest, one in zip("eftu", blocks, rests, seconds, strict=False)
    }
    parts["v"] = component("v", [], rests[4], seconds[4], streams=False)
    stages = [
        Stage(
            tuple(parts[name] for name in names),
            passes[s] if set(names) & set("tu") else 1,
            overheads[s],
            bool(set(names) & set("ef")),
            False,
        )
        for s, names in enumerate(layout)
    ]
    machine = Machine(budget, link=40.0, cold=10.0, again=40.0, contention=0.1, slots=2, overlap=overlap)
    compare(stages, machine, {"t": min(warm, parts["t"].bytes)})


rounds = st.lists(st.tuples(st.integers(1, 9), st.floats(0.1, 9)), min_size=1, max_size=3).map(tuple)


@settings(max_examples=150, deadline=None)
@given(
    encoder=one_size,
    transformer=one_size,
    rests=st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(10, 60)),
    seconds=st.tuples(st.floats(0, 3), st.floats(0, 3), st.floats(0, 3)),
    overheads=st.tuples(st.integers(0, 40), st.integers(0, 60), st.integers(0, 60)),
    work=rounds,
    next_work=st.one_of(st.just(()), rounds),
    once=st.integers(0, 40),
    budget=st.integers(80, 160),
    warm=st.integers(0, 200),
)
def test_nor_where_passes_of_several_calls_compute_for_different_times(
    encoder, transformer, rests, seconds, overheads, work, next_work, once, budget, warm
):
    """In lockstep: a pass computes several calls, the first ones fewer, and the next prompt is made alone."""
    passes = sum(count for count, _ in work)
    stages = [
        Stage((component("encoder", encoder, rests[0], seconds[0]),), 1, overheads[0], True, False),
        Stage(
            (component("transformer", transformer, rests[1], seconds[1]),),
            passes,
            overheads[1],
            False,
            False,
            once_bytes=once,
            lockstep=2,
            work=work,
            next_work=next_work,
        ),
        Stage((component("vae", [], rests[2], seconds[2], streams=False),), 1, overheads[2], False, False),
    ]
    machine = Machine(budget, link=40.0, cold=10.0, again=40.0, contention=0.1, slots=2)
    compare(stages, machine, {"transformer": min(warm, budget)})


@settings(max_examples=100, deadline=None)
@given(
    counts=st.tuples(st.integers(4, 12), st.integers(4, 12)),
    sizes_of=st.tuples(st.integers(10, 30), st.integers(10, 30)),
    seconds=st.tuples(st.floats(0, 3), st.floats(0, 3)),
    overheads=st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)),
    passes=st.tuples(st.integers(2, 30), st.integers(2, 30)),
    vae=st.integers(10, 60),
    budget=st.integers(60, 300),
    warm=st.integers(0, 100),
)
def test_two_experts_share_a_budget_over_time(counts, sizes_of, seconds, overheads, passes, vae, budget, warm):
    """What one keeps through the other's phase is worth its reload, and costs the other room in every pass."""
    experts = [
        component(name, [(count, size)], 0, one)
        for name, count, size, one in zip("tu", counts, sizes_of, seconds, strict=True)
    ]
    stages = [
        Stage((expert,), number, overhead, False, False)
        for expert, number, overhead in zip(experts, passes, overheads, strict=False)
    ]
    stages.append(Stage((component("v", [], vae, 0.5, streams=False),), 1, overheads[2], False, False))
    machine = Machine(budget, link=40.0, cold=10.0, again=20.0, contention=0.1, slots=2)
    compare(stages, machine, {"t": min(warm, experts[0].bytes)})


@given(budget=st.integers(60, 300), keep=st.dictionaries(st.sampled_from("etuv"), st.booleans()))
def test_what_must_stay_stays_and_what_must_leave_leaves(budget, keep):
    parts = {name: component(name, [(4, size)], 5, 1.0) for name, size in (("e", 20), ("t", 30), ("u", 25), ("v", 3))}
    stages = [Stage((parts[name],), 5 if name in "tu" else 1, 10, name == "e", False) for name in "etuv"]
    machine = Machine(budget, link=40.0, cold=10.0, again=20.0, contention=0.1, slots=2)
    chances = Next()
    found = Search(stages, machine, chances, {}, frozenset(), keep=keep).run()
    free = Search(stages, machine, chances, {}, frozenset()).run()
    if found is None:
        assert free is None or any(keep.values())
        return
    assert free is not None
    assert free.expected <= found.expected + 1e-9
    assert max(needs_of(stages, machine, found.placements)) <= budget
    for (_, name), placed in found.placements.items():
        if name in keep:
            assert placed.kept == (placed.way.resident if keep[name] else 0)


def test_fewer_resident_blocks_win_when_they_save_a_reload_of_the_encoder() -> None:
    """Streaming hides behind computing, the reload of an encoder does not."""
    stages = [
        Stage((component("encoder", [(1, 40)], 0, 0.0),), 1, 0, True, False),
        Stage((component("transformer", [(10, 10)], 0, 10.0),), 9, 0, False, False),
    ]
    machine = Machine(100, link=40.0, cold=40.0, again=4.0, contention=0.0, slots=2)
    found = Search(stages, machine, Next(1.0, 0.0, 0.0), {}, frozenset()).run()
    assert found is not None
    assert found.placements[0, "encoder"].kept == 40
    assert found.placements[1, "transformer"].way.resident < 100
    assert found.next_text < 9 * 10.0 + 40 / 4  # what it would take with the transformer whole and the encoder loaded
    # where what streams does not hide, the transformer's blocks are worth more
    slow = Machine(100, link=1.0, cold=40.0, again=40.0, contention=0.0, slots=2)
    found = Search(stages, slow, Next(1.0, 0.0, 0.0), {}, frozenset()).run()
    assert found is not None
    assert found.placements[0, "encoder"].kept == 0
    assert found.placements[1, "transformer"].way.resident == 100
