"""The `residency` command: exit code 0 when done, 2 for an error that the user or a file made, 1 for one of ours."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import sqlite3
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from core import __version__, folders
from core.commands.arguments import (
    Device,
    add_device,
    add_how,
    add_init,
    add_loras,
    add_planning,
    how_of,
    init_of,
    number,
    pixels,
    whole_number,
)
from core.commands.bench import add_streaming
from core.commands.convert_arguments import add_convert
from core.messages import ErrorKind, ResidencyError, UserError

_EXIT = {ErrorKind.USER: 2, ErrorKind.MODEL_FILE: 2, ErrorKind.INTERNAL: 1}


_LONGEST, _SHOWN = 400, 100  # characters of a word: most paths are shorter; what is left of a longer one


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one sentence."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):  # which argparse also says of a value that looks like an option
            message = f"{message.rpartition(':')[0]} needs a value, and one that does not begin with a minus"
        message = shortened(message)
        self.exit(2, f"{message[:1].upper()}{message[1:]}; see `{self.prog} --help`.\n")


def shortened(sentence: str) -> str:
    """A sentence in which words of absurd length, which somebody typed or a file holds, are cut."""
    return re.sub(rf"(\S{{{_SHOWN}}})\S{{{_LONGEST - _SHOWN},}}", r"\1...", sentence)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = _Parser(prog="residency", description="Pictures from prompts with open models, on your own GPU.")
    parser.add_argument("--version", action="version", version=f"residency {__version__}")
    commands = parser.add_subparsers(dest="command", parser_class=_Parser, metavar="COMMAND")

    studio = commands.add_parser("studio", help="open the window (what residency does without a command)")
    studio.add_argument("files", nargs="*", metavar="FILE", help="pictures whose settings to take over")
    studio.add_argument("--measure-start", action="store_true", help="print seconds to the first frame and quit")
    studio.set_defaults(run=_studio)

    generate = commands.add_parser("generate", help="make one picture or clip")
    generate.add_argument("prompt", metavar="PROMPT")
    generate.add_argument("--model", default="starter", metavar="NAME|PATH", help="a known model, or a folder or file")
    generate.add_argument("--negative", default="", metavar="TEXT", help="what the picture should not show")
    generate.add_argument("--seed", type=whole_number, help="the same seed makes the same picture (default: random)")
    generate.add_argument("--steps", type=whole_number, help="sampling steps (default: the model's)")
    generate.add_argument("--guidance", type=number, help="how closely to follow the prompt (default: the model's)")
    generate.add_argument("--size", type=pixels, metavar="WxH", help="pixels (default: the model's)")
    generate.add_argument("--frames", type=whole_number, help="frames of a clip, 1 for a still (default: the model's)")
    generate.add_argument("--out", metavar="FILE", help="the PNG or MP4 to write (default: in the pictures folder)")
    add_loras(generate)
    add_init(generate)
    add_device(generate)
    add_how(generate)
    generate.add_argument("--show", action="store_true", help="show the picture in the terminal")
    generate.add_argument("--json", action="store_true", help="print one JSON object about the result")
    generate.set_defaults(run=_generate)

    plan = commands.add_parser("plan", help="what would be in memory, when, how long it takes and why")
    add_planning(plan)
    plan.add_argument("--accuracy", action="store_true", help="how far past runs here were from their plans")
    plan.set_defaults(run=_plan)

    simulate = commands.add_parser("simulate", help="the plan run in virtual time, on any card")
    add_planning(simulate)
    simulate.set_defaults(run=_simulate)

    calibrate = commands.add_parser("calibrate", help="measure the device that computes")
    add_device(calibrate)
    calibrate.add_argument("--force", action="store_true", help="measure again what was measured before")
    calibrate.add_argument("--json", action="store_true", help="print one JSON object")
    calibrate.set_defaults(run=_calibrate)

    bench = commands.add_parser("bench", help="what the streamer reaches against what no streamer can beat")
    kinds = bench.add_subparsers(dest="kind", required=True, parser_class=_Parser, metavar="streaming")
    streaming = kinds.add_parser("streaming", help="a network larger than its memory on an emulated card")
    add_streaming(streaming)
    streaming.set_defaults(run=_bench_streaming)

    doctor = commands.add_parser("doctor", help="what this machine is, and what to do about what is wrong")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    doctor.set_defaults(run=_doctor)

    inspect = commands.add_parser(
        "inspect",
        help="what is in a model file or folder",
        description="What is in a model file or folder, and what is wrong with it. The exit code is 2 where something "
        "is damaged or missing; what merely cannot be used by itself, such as a LoRA, is told, and is no error.",
    )
    inspect.add_argument("file", metavar="FILE")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    inspect.set_defaults(run=_inspect)

    convert = commands.add_parser("convert", help="a model's weights in smaller formats, in one GGUF file")
    add_convert(convert)
    convert.set_defaults(run=_convert)

    models = commands.add_parser("models", help="known models")
    actions = models.add_subparsers(dest="action", required=True, parser_class=_Parser, metavar="list|add|remove")
    listing = actions.add_parser("list", help="the known models")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    listing.set_defaults(run=_models_list)
    adding = actions.add_parser("add", help="remember a model by its name, or by one that you give")
    adding.add_argument("name", metavar="NAME", nargs="?", default="", help="what to call it; otherwise its own name")
    adding.add_argument("path", metavar="FOLDER|FILE", help="in diffusers' format, or a .gguf or .safetensors file")
    adding.add_argument(
        "--with", dest="base", metavar="MODEL", default="",
        help="what a file of weights alone has its configs, tokenizers and other networks from; otherwise the known "
        "model that it fits",
    )  # fmt: skip
    adding.set_defaults(run=_models_add)
    removing = actions.add_parser("remove", help="forget a model; its files stay")
    removing.add_argument("name", metavar="NAME")
    removing.set_defaults(run=_models_remove)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(words or ["studio"])
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except ResidencyError as error:
        print(shortened(str(error)), file=sys.stderr)
        return _EXIT[error.kind]
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1  # the reader of our output left
    except (OSError, sqlite3.Error) as error:
        print(f"A file or folder of yours cannot be used ({error}); run `residency doctor`.", file=sys.stderr)
        return 2


def _studio(options: argparse.Namespace) -> int:
    from importlib import import_module

    # by name: core knows no window, it only starts one when asked to
    arguments = [*options.files, *(["--measure-start"] if options.measure_start else [])]
    try:
        window = import_module("app.main")
    except ImportError as error:
        raise UserError(f"The window cannot be opened ({error}); run `residency doctor`.") from error
    return int(window.main(arguments))


def _generate(options: argparse.Namespace) -> int:
    from core.commands.generate import generate

    width, height = options.size or (None, None)
    return generate(
        prompt=options.prompt,
        negative_prompt=options.negative,
        model=options.model,
        seed=options.seed if options.seed is not None else secrets.randbelow(2**31),
        steps=options.steps,
        guidance=options.guidance,
        width=width,
        height=height,
        frames=options.frames,
        out=options.out,
        device=Device(options.accelerator, options.gpu, options.vram, options.link),
        how=how_of(options),
        loras=tuple(options.lora),
        init=init_of(options),
        show=options.show,
        as_json=options.json,
    )


def _plan(options: argparse.Namespace) -> int:
    from core.commands.plan import plan

    return plan(options)


def _simulate(options: argparse.Namespace) -> int:
    from core.commands.plan import simulate

    return simulate(options)


def _calibrate(options: argparse.Namespace) -> int:
    from core.commands.calibrate import calibrate

    return calibrate(
        accelerator=options.accelerator,
        gpu=options.gpu,
        vram_bytes=options.vram,
        link_rate=options.link,
        force=options.force,
        as_json=options.json,
    )


def _bench_streaming(options: argparse.Namespace) -> int:
    from core.commands.bench import streaming

    return streaming(options)


def _doctor(options: argparse.Namespace) -> int:
    from core.commands.doctor import doctor

    return doctor(as_json=options.json)


def _inspect(options: argparse.Namespace) -> int:
    from core.commands.inspect import inspect

    return inspect(folders.user_path(options.file), as_json=options.json)


def _convert(options: argparse.Namespace) -> int:
    # as in core.engine.libraries, and before torch is imported: a model may be run to measure what errors cost
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from core.commands.convert import convert
    from core.conversion.run import Conversion

    asked = Conversion(
        sources=tuple(folders.user_path(source) for source in options.sources),
        out=folders.user_path(options.out),
        component=options.component,
        format=options.format or "",
        rmse=options.rmse,
        target_bytes=options.target_size,
        fit=options.fit or "",
        keep=tuple(options.keep),
    )
    return convert(
        asked,
        folders.user_path(options.report) if options.report else None,
        sensitivity=options.sensitivity,
        importance=options.importance,
        keep_measured=folders.user_path(options.measured) if options.measured else None,
        as_json=options.json,
    )


def _models_list(options: argparse.Namespace) -> int:
    from core.models import catalogue

    known = catalogue.installed()
    if options.json:
        print(json.dumps({"models": {name: str(path) for name, path in known.items()}}))
    else:
        for name, path in known.items():
            print(f"{name:20} {path}")
    return 0


def _models_add(options: argparse.Namespace) -> int:
    from core.models import catalogue

    info = catalogue.add(folders.user_path(options.path), options.name, options.base)
    print(f"Added {info.name}{f', used with {info.base.name}' if info.base else ''}.")
    return 0


def _models_remove(options: argparse.Namespace) -> int:
    from core.models import catalogue

    catalogue.remove(options.name)
    print(f"Forgot {options.name}; its files are untouched.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
