"""`residency inspect`: what is in a model file or folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.messages import ModelFileError, UserError
from core.models.checkpoint import Checkpoint, is_adapter, open_checkpoint
from core.models.folder import INDEX, read_folder
from core.models.gguf_header import LongArray, Value, read_gguf
from core.models.info import ComponentInfo
from core.models.single import BYTES, ERRORS, LAYOUTS, TEXT
from core.models.stored import NAMES, Stored, stored_tensors
from core.sizes import in_words

_SHOWN = 60  # characters of a metadata value in the table
_DAMAGED = 2  # the exit code of a file's error
_WORST = 5  # tensors whose errors are in the table


def inspect(path: Path, *, as_json: bool) -> int:
    """Print components with tensors, parameters and bytes by type; 2 where something is damaged or missing, else 0.

    Raises:
        UserError: the path is no model.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a model folder, a .safetensors or a .gguf file.")
    report = _folder(path) if (path / "model_index.json").is_file() else _file(path)
    code = _DAMAGED if report["damaged"] else 0
    if as_json:
        print(json.dumps(report))
        return code
    print(f"{report['kind']}: {report['family'] or 'unknown family'}")
    for name, component in report["components"].items():
        types = ", ".join(f"{kind} {in_words(count)}" for kind, count in component["types"].items())
        print(
            f"  {name:18} {component['tensors']:5} tensors {component['parameters'] / 1e6:10.2f} M parameters "
            f"{in_words(component['bytes']):>9}  {types}"
            + (f"  ({component['layout']} names)" if "layout" in component else "")
        )
    for key, value in report["metadata"].items():
        text = str(value).replace("\n", " ")
        print(f"  {key} = {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}")
    if files := report.get("files"):
        print(f"  with {len(files)} configs and tokenizers, so that nothing is needed beside it")
    elif report["family"] and not path.is_dir():
        print("  weights alone, which are used with a model like it (residency models add FILE --with MODEL)")
    worst = sorted(report.get("errors", {}).items(), key=lambda item: -item[1])[:_WORST]
    for name, error in worst:
        print(f"  error {error:.2%} in {name}")
    for problem in report["problems"]:
        print(f"  problem: {problem}")
    return code


def _folder(path: Path) -> dict[str, Any]:
    try:
        info = read_folder(path)
    except ModelFileError as error:
        return _damaged("diffusers folder", error)
    components = {
        name: {"tensors": c.tensors, "parameters": c.parameters, "bytes": c.bytes, "types": c.types}
        for name, c in info.networks.items()
    }
    return {
        "kind": "diffusers folder",
        "family": info.family,
        "components": components,
        "metadata": {"name": info.name, "fingerprint": info.fingerprint},
        "problems": [],
        "damaged": False,
    }


def _file(path: Path) -> dict[str, Any]:
    try:
        checkpoint = open_checkpoint(path)
    except ModelFileError as error:
        return _damaged("component folder" if path.is_dir() else f"{path.suffix.removeprefix('.')} file", error)
    if TEXT + INDEX in checkpoint.metadata:
        return _whole(path, checkpoint)
    members: dict[str, list[Stored]] = {}
    for name, tensor in checkpoint.tensors.items():
        members.setdefault(checkpoint.recognised.components[name], []).append(tensor)
    return {
        "kind": checkpoint.kind,
        "family": checkpoint.recognised.family,
        "components": {name: _counted(tensors) for name, tensors in members.items()},
        "metadata": {key: _plain(value) for key, value in checkpoint.metadata.items() if key != ERRORS},
        "errors": _errors(path, checkpoint),
        "problems": _problems(checkpoint),
        "damaged": False,
    }


def _whole(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """A file for a whole model: its components under the model's own names, and what each tensor lost."""
    known = checkpoint.metadata
    components: dict[str, Any] = {}
    problems = []
    for key in known:
        if key.startswith(NAMES):
            name = key.removeprefix(NAMES)
            try:
                found = stored_tensors(ComponentInfo(name=name, library="", class_name="", files=(str(path),)))
            except ModelFileError as error:
                problems.append(str(error))
                continue
            components[name] = _counted(found.values())
    for name, layout in _object(known.get(LAYOUTS)).items():
        if name in components:
            components[name]["layout"] = layout
    hidden = (TEXT, BYTES, NAMES, LAYOUTS, ERRORS)
    metadata = {key: _plain(value) for key, value in known.items() if not key.startswith(hidden)}
    files = [key.removeprefix(BYTES).removeprefix(TEXT) for key in known if key.startswith((TEXT, BYTES))]
    return {
        "kind": "GGUF file of a whole model",
        "family": str(known.get("residency.family", "")),
        "components": components,
        "metadata": metadata,
        "files": files,
        "errors": _errors(path, checkpoint),
        "problems": problems,
        "damaged": bool(problems),
    }


def _errors(path: Path, checkpoint: Checkpoint) -> dict[str, float]:
    """relRMSE by tensor, as the conversion wrote it down; of those that lost something."""
    values = checkpoint.metadata.get(ERRORS)
    if isinstance(values, LongArray) and values.count == len(checkpoint.tensors):
        values = read_gguf(path, values.count).metadata[ERRORS]
    if not isinstance(values, list) or len(values) != len(checkpoint.tensors):
        return {}
    pairs = zip(checkpoint.tensors, values, strict=True)
    return {name: value for name, value in pairs if isinstance(value, float) and value > 0}


def _object(text: Value | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _counted(tensors: Iterable[Stored]) -> dict[str, Any]:
    types: dict[str, int] = {}
    count = parameters = 0
    for tensor in tensors:
        types[tensor.type] = types.get(tensor.type, 0) + tensor.bytes
        count, parameters = count + 1, parameters + tensor.elements
    return {"tensors": count, "parameters": parameters, "bytes": sum(types.values()), "types": types}


def _problems(checkpoint: Checkpoint) -> list[str]:
    """What a reader of the file should know although it is not damaged."""
    if not checkpoint.tensors:
        return ["it holds no tensors."]
    if is_adapter(checkpoint.tensors):
        return ["it is an adapter (LoRA), which changes a model and is none."]
    return []


def _damaged(kind: str, error: ModelFileError) -> dict[str, Any]:
    return {"kind": kind, "family": "", "components": {}, "metadata": {}, "problems": [str(error)], "damaged": True}


def _plain(value: Value) -> Any:
    return f"{value.count} entries" if isinstance(value, LongArray) else value
