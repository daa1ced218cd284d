"""A file for a whole model may be in 16 bits, and be packed when it is opened, as a folder is."""

from __future__ import annotations

from pathlib import Path

from core import folders
from core.engine import InProcessEngine
from core.library.queue import JobQueue
from core.messages import How, Request, Result
from core.resources import resource
from tests.cards import MIB, emulated
from tests.core.conversion.written import convert
from tests.events import result_of


def test_what_a_file_has_dense_is_packed_as_that_of_a_folder(home: Path, tmp_path: Path) -> None:
    convert(resource("starter", "model"), "-o", tmp_path / "a.gguf", "--format", "F16")
    card = emulated(title="Card for opening", memory_bytes=512 * MIB)
    engine = InProcessEngine(JobQueue(None), accelerator=card)
    engine.start()

    def picture(model: object) -> Result:
        how = How(cache=False, formats={"transformer": "Q8_0", "text_encoder_2": "Q5_K"})
        request = Request(
            prompt="a red house by the sea", model=str(model), seed=1, steps=2, width=64, height=64, draft=True, how=how
        )
        engine.submit(request)
        return result_of(engine, request.id)

    try:
        expected, found = picture(resource("starter", "model")), picture(tmp_path / "a.gguf")
    finally:
        engine.close()
    assert found.pixels_sha256 == expected.pixels_sha256
    for name, wanted in (("transformer", "Q8_0"), ("text_encoder_2", "Q5_K")):
        assert found.components[name].format == wanted
        assert found.components[name].bytes == expected.components[name].bytes
        assert len(list((folders.cache() / "packed").glob(f"{name}-*.gguf"))) == 2  # one of each model
