"""What is wrong with an option is said before torch or a model is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REFUSED = {
    "score --lengths ten": "start:stop:count",
    "score --depths 0,101": "depths go from 0 to 100",
    "score --until-stable 1.5": "--until-stable 1.5: expected a number between 0 and 1",
    "score --activation-memory lots": "--activation-memory lots: expected an amount of memory",
    "score --haystack missing": "--haystack missing: not there; expected a file (.txt",
    "score --task reach --text missing": "--text missing: not there; expected a file (.txt",
    "score --model ./missing": "--model ./missing: no such directory",
    "score --model missing.gguf": "--model missing.gguf: no such file",
    "score --adapter missing": "--adapter missing: no adapter_config.json there",
    "score --device tpu9": "--device tpu9: expected auto, cpu",
    "score --dtype float7": "--dtype float7: expected auto, float32",
    "score --device cpu --device-map auto": "--device and --device-map exclude each other",
    "score --attention wild": "--attention wild: it is unknown; choose sdpa",
    "score --chat-template missing": "--chat-template missing: cannot read it",
    "score --out /dev/null": "/dev/null is no directory: give the name of one",
    "score --needles missing.jsonl": "bundled needles are named english, chinese, nano",
    "score --task nothing": "--task nothing: expected r2, retrieval, evidence, razor, alibi",
    "score --measures r2,r9": "--measures r9: this task takes r2",
    "score --task alibi --measures alibi": "task alibi has no cases",
    "evaluate --scores missing": "no scores at missing",
    "evaluate --budget none.json": "no budget file at none.json",
    "evaluate --budget 16,x": "tokens a head",
    "evaluate --questions x --metric passed": "--metric passed: expected",
    "evaluate --questions missing.jsonl": "no question file missing.jsonl",
    "evaluate --benchmark wild": "--benchmark wild: expected longbench",
    "evaluate --keep 2": "--keep 2: expected a fraction",
    "evaluate --selection wild": "--selection wild: expected attention",
    "evaluate --option depth=3": "--option depth=3: strategy headkv takes",
    "evaluate --haystack missing": "--haystack missing: not there",
    "evaluate --lengths ten": "start:stop:count",
    "evaluate --strategy wild": "no strategy 'wild'",
    "evaluate --task razor": "which ask about needles",
    "evaluate": "no run under outputs",
    "ablate missing": "no scores at missing",
    "ablate --top-k x": "numbers of heads as in 1,2,4,8",
    "ablate --activation-memory lots": "--activation-memory lots: expected an amount of memory",
    "ablate --needles missing.jsonl": "bundled needles are named english, chinese, nano",
}
CODE = """
import contextlib, io, json, sys
from headprobe.cli.app import main
found = {}
for line in json.loads(sys.argv[1]):
    sys.argv = ["headprobe", *line.split()]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main()
    heavy = sorted({"torch", "transformers", "pandas", "matplotlib"} & set(sys.modules))
    found[line] = [code, heavy, said.getvalue()]
print(json.dumps(found))
"""


def test_a_bad_option_is_one_line_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(list(REFUSED))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found.keys() == REFUSED.keys()
    for line, (code, heavy, said) in found.items():
        assert (line, code, heavy) == (line, 2, [])
        assert REFUSED[line] in said
        assert len(said.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
