"""`residency inspect`: what is in a model file or folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.messages import ModelFileError, UserError
from core.models.folder import read_folder
from core.models.headers import read_header


def inspect(path: Path, *, as_json: bool) -> int:
    """Print components with tensors, parameters and bytes by type. Raises UserError for a path that is no model."""
    if not path.exists():
        raise UserError(f"{path} does not exist; give a model folder or a .safetensors file.")
    report = _folder(path) if path.is_dir() else _file(path)
    if as_json:
        print(json.dumps(report))
        return 0
    print(f"{report['kind']}: {report['family'] or 'unknown family'}")
    for name, component in report["components"].items():
        types = ", ".join(f"{kind} {count / 1e6:.1f} MB" for kind, count in component["types"].items())
        print(f"  {name:18} {component['parameters'] / 1e6:9.2f} M parameters  {types}")
    for problem in report["problems"]:
        print(f"  problem: {problem}")
    return 0


def _folder(path: Path) -> dict[str, Any]:
    try:
        info = read_folder(path)
    except ModelFileError as error:
        return {"kind": "diffusers folder", "family": "", "components": {}, "metadata": {}, "problems": [str(error)]}
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
    }


def _file(path: Path) -> dict[str, Any]:
    header = read_header(path)
    types: dict[str, int] = {}
    for tensor in header.values():
        types[tensor.type] = types.get(tensor.type, 0) + tensor.end - tensor.start
    component = {
        "tensors": len(header),
        "parameters": sum(tensor.elements for tensor in header.values()),
        "bytes": sum(types.values()),
        "types": types,
    }
    return {
        "kind": "safetensors file",
        "family": "",
        "components": {path.stem: component},
        "metadata": {},
        "problems": [],
    }
