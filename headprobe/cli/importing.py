"""``headprobe import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headprobe.cli import output


def import_scores(
    file: Annotated[
        Path, typer.Argument(help="The file, for duo its directory.", show_default=False)
    ],
    source: Annotated[str, typer.Option("--from", help="See `headprobe list formats`.")],
    out: Annotated[Path, typer.Option(help="The run directory to make.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Whose heads they are: a name, or a model's directory, whose sizes are taken.",
            show_default="the file's name",
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, show_default="the file's")] = None,
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Query heads a layer.", show_default="the file's"),
    ] = None,
    kv_heads: Annotated[
        int | None,
        typer.Option(min=1, help="KV heads a layer.", show_default="the file's"),
    ] = None,
    head_dim: Annotated[
        int | None, typer.Option(min=1, help="Width of a head.", show_default="128")
    ] = None,
) -> None:
    """Read scores that another program published into a run directory.

    Example: headprobe import heads.json --from headkv --kv-heads 8 --out outputs/llama/headkv
    """
    from headprobe.importing import KnownModel, import_run

    given: dict[str, Any] = {
        "id": model,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
    }
    if model is not None and (directory := Path(model).expanduser()).is_dir():
        from headprobe.model import read_layout

        own = read_layout(directory).to_json()
        given = own | {name: value for name, value in given.items() if value is not None}
    run, notes = import_run(file, out, source=source, known=KnownModel(**given))
    for line in notes:
        output.warn(line)
    output.note(
        f"{run.accepted} cases of {run.layout.layers} layers of {run.layout.heads} query and "
        f"{run.layout.kv_heads} KV heads; next: headprobe allocate {out}"
    )
    typer.echo(out)
