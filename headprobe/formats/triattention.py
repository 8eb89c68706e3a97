"""TriAttention (arXiv 2604.04921): the mean queries of every head, a ``.pt`` file of tensors.

Two layouts: ``stats``, a table a head as the authors' calibration writes it, for models that rotate
by one base alone; and ``layer_stats``, a table a layer with its frequencies, for scaled and partial
rotations. Readers that find ``stats`` do not look further, so a file holds one of the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from headprobe.errors import UsageError
from headprobe.formats._files import save_pt
from headprobe.formats._format import Format, Notes
from headprobe.scores import HeadScores
from headprobe.scores.statistics import QueryStatistics

MEANS = ("q_mean_real", "q_mean_imag", "q_abs_mean")


def write_scores(
    run: HeadScores, path: Path, *, layout: Literal["flat", "layers"] | None = None
) -> Notes:
    """Write the run's query statistics; flat where the model's rotation is plain.

    Raises:
        UsageError: the run holds no statistics, or the flat layout cannot say how the model
            rotates.
        HeadprobeError: the file cannot be written.
    """
    found = run.query_statistics
    if found is None:
        raise UsageError(
            "the run holds no query statistics: give the same score command again with `statistics`"
        )
    if layout == "flat" and not found.is_plain:
        raise UsageError(
            "its readers take the frequencies from the model's base alone, and this model scales "
            "its rotation, rotates a part of each head, or rotates layers differently: "
            "give `layout=layers`",
            option="layout",
            value=layout,
        )
    chosen = layout or ("flat" if found.is_plain else "layers")
    tables = {"stats": _flat(found)} if chosen == "flat" else {"layer_stats": _by_layer(found)}
    save_pt({"metadata": _metadata(run, found), **tables}, path)
    return _notes(run, found, chosen)


def _metadata(run: HeadScores, found: QueryStatistics) -> dict[str, Any]:
    heads = range(run.layout.num_heads)
    return {
        "num_traces": found.header["texts"],
        "num_tokens": found.header["tokens"],
        "head_dim": found.head_dim,
        "rotary_dim": found.rotary_dim,
        "dtype": found.header["dtype"],
        **{name: found.header[name] for name in ("rope_style", "rope_type", "rope_theta")},
        "sampled_heads": [[layer, head] for layer in found.layers.tolist() for head in heads],
        "attention_layer_indices": found.layers.tolist(),
        "model_name": run.layout.id,
        "model_type": run.layout.architecture,
        "num_layers": run.layout.layers,
        "num_attention_heads": run.layout.num_heads,
        "num_key_value_heads": run.layout.num_kv_heads,
        "num_kv_heads": run.layout.num_kv_heads,
    }


def _flat(found: QueryStatistics) -> dict[str, Any]:
    heads = range(found.q_mean_real.shape[1])
    return {
        f"layer{layer:02d}_head{head:02d}": {
            name: getattr(found, name)[place, head] for name in MEANS
        }
        for place, layer in enumerate(found.layers.tolist())
        for head in heads
    }


def _by_layer(found: QueryStatistics) -> dict[int, Any]:
    heads = found.q_mean_real.shape[1]
    return {
        layer: {
            **{name: getattr(found, name)[place] for name in MEANS},
            "inv_freq": found.inv_freq[place],
            "freq_scale_sq": (found.freq_scale[place] ** 2)[None].repeat(heads, axis=0),
            "q_pass_mean": found.q_pass_mean[place],
        }
        for place, layer in enumerate(found.layers.tolist())
    }


def _notes(run: HeadScores, found: QueryStatistics, layout: str) -> Notes:
    count = f"{found.header['tokens']:,} tokens of {found.header['texts']} texts"
    notes = [f"layout {layout}, means over {count}"]
    left_out = sorted(set(range(run.layout.layers)) - set(found.layers.tolist()))
    if left_out:
        named = ", ".join(map(str, left_out))
        notes.append(f"layers that rotate no queries are not in the file: {named}")
    if layout == "layers":
        notes.append("read by vllm-ascend-kvcompress-hust; TensorRT-LLM reads the flat layout")
    return tuple(notes)


FORMAT = Format(
    summary="mean queries of every head before rotation",
    file=".pt",
    programs="TensorRT-LLM and ports of TriAttention",
    write_scores=write_scores,
)
