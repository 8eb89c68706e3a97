"""``headprobe import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headprobe.cli import completion, options, output
from headprobe.cli.wording import in_options


def _size(help: str, *, default: str) -> Any:
    return typer.Option(min=1, help=help, show_default=default, rich_help_panel=options.MODEL)


def import_scores(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The file, for duo its directory.", show_default=False),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="FORMAT",
            help="Format of the file: see `headprobe list formats`.",
            autocompletion=completion.formats,
            rich_help_panel=options.FORMAT,
        ),
    ],
    out: Annotated[Path, options.out("The run directory to make.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|PATH",
            help="Whose heads they are: an alias or a model's directory, whose sizes are taken, "
            "or another name.",
            show_default="the file's name",
            autocompletion=completion.models,
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    layers: Annotated[int | None, _size("Layers of the model.", default="the file's")] = None,
    heads: Annotated[
        int | None,
        _size("Query heads a layer.", default="the file's"),
    ] = None,
    kv_heads: Annotated[
        int | None,
        _size("KV heads a layer.", default="the file's"),
    ] = None,
    head_dim: Annotated[int | None, _size("Width of a head.", default="128")] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Read scores that another program published into a run directory.

    Example: headprobe import heads.json --from headkv --kv-heads 8 --out outputs/llama/headkv
    """
    from headprobe.formats.import_run import KnownModel, import_run

    given = {"layers": layers, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    given = {name: value for name, value in given.items() if value is not None}
    of_model = _known(model)
    told_by = dict.fromkeys(of_model.keys() - given.keys(), f"`model={model}`")
    known = KnownModel(**of_model | given, told_by=told_by)
    run, notes = import_run(file, out, source=source, known=known, overwrite=overwrite)
    for line in notes:
        output.warn(in_options(line))
    output.note(
        f"{run.passed} cases of {run.layout.layers} layers of {run.layout.num_heads} query and "
        f"{run.layout.num_kv_heads} KV heads; next: headprobe allocate {out}"
    )
    output.print_path(out)


def _known(model: str | None) -> dict[str, Any]:
    """Look up what a model's name tells of its heads.

    An alias tells its hub id and sizes, a directory what its configuration holds.
    """
    from headprobe.models.aliases import ALIASES, NANO, sizes_of
    from headprobe.models.bundled import bundled

    if model is None:
        return {}
    if model in ALIASES and model != NANO:
        alias = ALIASES[model]
        return {"id": alias.repository} | sizes_of(alias)
    directory = bundled("models", NANO) if model == NANO else Path(model).expanduser()
    if not directory.is_dir():
        return {"id": model}
    from headprobe.models.config import read_layout

    return read_layout(directory).to_json() | {"id": model}
