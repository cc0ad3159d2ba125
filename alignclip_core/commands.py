"""What the terminal and the API do with a finished model in a process of its own: python -m alignclip_core.commands.

    export MODEL --format F --output DIR
    explain MODEL IMAGE --label TEXT --output DIR
    interpolate FOLDER --alpha A --output DIR
    evaluate MODEL DATASET [--class-names FILE] --output FILE
    report MODEL DATASET [MANIFEST [URL]] [--validation DATASET [MANIFEST [URL]]] [--given JSON] --output FILE
    convert FILE --architecture NAME --output DIR [--quick-gelu | --no-quick-gelu] [--normalisation N]

MODEL is a finished model's folder or a base model's id. `report` tells on stdout how far it is. Exit code 1 with one
line on stderr for what is foreseen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from alignclip_core.base_models import find_base_model
from alignclip_core.checkpoint import read_manifest
from alignclip_core.conversion import convert_checkpoint
from alignclip_core.dataset.listing import DatasetFolder
from alignclip_core.dataset_report import report_folder
from alignclip_core.errors import AlignClipError
from alignclip_core.explain.explaining import explain
from alignclip_core.export.exporting import export_model
from alignclip_core.export.formats import EXPORT_FORMATS
from alignclip_core.finished_model import open_model
from alignclip_core.images import decode_image
from alignclip_core.interpolation import interpolate_model
from alignclip_core.other_dataset import evaluate_on_dataset
from alignclip_core.parent_watch import PARENT_VARIABLE, die_with_parent
from alignclip_core.run_dir import EXIT_DONE, EXIT_FAILED, write_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (AlignClipError, OSError) as error:
        print(f"alignclip: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    return EXIT_DONE


def _run(options: argparse.Namespace) -> None:
    if options.command == "export":
        export_model(open_model(options.model, options.models_dir), options.format, options.output)
    elif options.command == "explain":
        image = decode_image(options.image.read_bytes())
        explain(open_model(options.model, options.models_dir), image, options.label, options.output)
    elif options.command == "evaluate":
        names = json.loads(options.class_names.read_text()) if options.class_names else None
        found = evaluate_on_dataset(open_model(options.model, options.models_dir), options.dataset, names)
        write_file(options.output, json.dumps(found).encode())
    elif options.command == "report":
        model = open_model(options.model, options.models_dir)
        found = report_folder(
            model,
            _folder_of(options.dataset),
            json.loads(options.given),
            validation=_folder_of(options.validation) if options.validation else None,
            on_progress=_tell,
        )
        write_file(options.output, json.dumps(found).encode())
    elif options.command == "interpolate":
        base_model = find_base_model(read_manifest(options.model)["base_model"], options.models_dir)
        interpolate_model(options.model, base_model, options.alpha, options.output)
    else:
        convert_checkpoint(
            options.file,
            options.architecture,
            options.output,
            quick_gelu=options.quick_gelu,
            normalisation=options.normalisation,
        )


def _folder_of(words: Sequence[str]) -> DatasetFolder:
    """Of a folder, its manifest and its URL, each "" where there is none."""
    folder, manifest, url, *_ = (*words, "", "")
    return DatasetFolder(Path(folder), manifest or None, url or None)


def _tell(what: str, num_done: int, num_images: int) -> None:
    """How far the report is, a line of JSON for who started this process."""
    print(json.dumps([what, num_done, num_images]), flush=True)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--models-dir", type=Path, default=Path("models"), help="folder of base models")
    shared.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser = argparse.ArgumentParser(prog="python -m alignclip_core.commands")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", parents=[shared])
    export.add_argument("model")
    export.add_argument("--format", choices=EXPORT_FORMATS, required=True)
    explaining = commands.add_parser("explain", parents=[shared])
    explaining.add_argument("model")
    explaining.add_argument("image", type=Path)
    explaining.add_argument("--label", required=True)
    interpolate = commands.add_parser("interpolate", parents=[shared])
    interpolate.add_argument("model", type=Path)
    interpolate.add_argument("--alpha", type=float, required=True)
    evaluate = commands.add_parser("evaluate", parents=[shared])
    evaluate.add_argument("model")
    evaluate.add_argument("dataset", type=Path)
    evaluate.add_argument("--class-names", type=Path, help="JSON: folder name to the words for it")
    report = commands.add_parser("report", parents=[shared])
    report.add_argument("model")
    parts = "a folder, the file in it that lists its images, and where its files came from"
    report.add_argument("dataset", nargs="+", help=parts)
    report.add_argument("--validation", nargs="+", help="the validation set that a job would get, in the same way")
    report.add_argument("--given", default="{}", help="JSON: fields of the config that a job would get")
    convert = commands.add_parser("convert", parents=[shared])
    convert.add_argument("file", type=Path)
    convert.add_argument("--architecture", required=True)
    convert.add_argument("--quick-gelu", action=argparse.BooleanOptionalAction, default=None)
    convert.add_argument("--normalisation", choices=("openai", "imagenet"), default="openai")
    return parser


if __name__ == "__main__":
    if PARENT_VARIABLE in os.environ:  # the service's own process: what it asked for ends with it
        die_with_parent(int(os.environ[PARENT_VARIABLE]))
    sys.exit(main())
