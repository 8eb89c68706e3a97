"""Runs on the hub, by a stand-in for its HTTP API: there and back, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from headprobe.errors import HeadprobeError, HeadprobeWarning, UsageError
from headprobe.runs import hub as hub_module
from headprobe.runs.hub import FILES, HubName, fetch_run, local_run, pull_run, shown_name
from headprobe.runs.publish import publish_run
from headprobe.scores import HeadScores
from tests._support.command_line import headprobe, process, refusal, succeed
from tests._support.hub import Hub, running

TOKEN = "hf_" + "secret" * 6
NAME = "me/nano-r2"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of this machine, which knows one user, and an empty cache."""
    with running(Hub()) as here:
        here.users[TOKEN] = "me"
        address = here.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", here.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        # The protocol of xet has a server of its own; without it files go by LFS.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield here


@pytest.fixture
def run(nano_scored: Path) -> Path:
    """A run directory, to look at only."""
    return nano_scored / "outputs" / "nano" / "r2"


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in FILES if (run / name).is_file()}


def blank(run: Path, path: Path) -> None:
    """In place of drawing, which takes a while."""
    path.write_bytes(b"")


@pytest.mark.slow
def test_a_run_comes_back_from_the_hub_as_it_went(hub: Hub, run: Path, tmp_path: Path) -> None:
    done = succeed("export", run, "--to", "hub", "--repo", NAME)
    assert done.stdout == f"hf:{NAME}\n"
    held = hub.repositories[NAME].files
    assert held["heads.png"].startswith(b"\x89PNG")
    assert {*held} == {*contents(run), "README.md", "heads.png"}
    done = succeed("pull", NAME, cwd=tmp_path)
    pulled = tmp_path / done.stdout.strip()
    assert pulled == tmp_path / "outputs" / "me--nano-r2"
    assert contents(pulled) == contents(run)
    assert not (pulled / "README.md").exists()
    # Again, it is all there.
    succeed("pull", f"hf:{NAME}@main", cwd=tmp_path)
    # The newest run is the one that was pulled.
    assert succeed("allocate", "--budget", "64", cwd=tmp_path).returncode == 0
    # One commit holds all, after the empty one.
    assert len(hub.repositories[NAME].commits) == 2


def test_the_card_tells_what_the_run_s_data_tell(hub: Hub, run: Path) -> None:
    publish_run(run, NAME, draw=blank)
    held = hub.repositories[NAME].files
    _, metadata, card = held["README.md"].decode().split("---\n", 2)
    scores = HeadScores.load(run)
    assert yaml.safe_load(metadata) == {
        "library_name": "headprobe",
        "tags": ["headprobe", "attention-heads", "kv-cache", *scores.measures],
    }
    layer, head = divmod(int(scores.mean("r2").argmax()), scores.layout.num_heads)
    top = f"| 1 | {layer} | {head} | {head // 2} | {scores.mean('r2').max():.4f} | "
    assert top in card
    assert f"{scores.passed} of {scores.cases} cases passed" in card
    assert f"headprobe allocate hf:{NAME} --budget 128" in card
    assert f"| `scores.safetensors` | {(run / 'scores.safetensors').stat().st_size:,} |" in card
    assert len(re.findall(r"^\| \d+ \| ", card, re.MULTILINE)) == 16


def test_texts_of_a_run_are_no_markup_in_its_card(hub: Hub, run: Path, tmp_path: Path) -> None:
    evil = "/x/<img src=x onerror=alert(1)>`|[a](b)\n# **m**\x1b[2J"
    scores = HeadScores.load(run)
    replace(
        scores, layout=replace(scores.layout, id=evil, architecture=evil), versions={evil: evil}
    ).save(tmp_path / "scores.safetensors")
    with pytest.warns(HeadprobeWarning, match="names its model by a path of this machine"):
        publish_run(tmp_path, NAME, draw=blank)
    _, metadata, card = hub.repositories[NAME].files["README.md"].decode().split("---\n", 2)
    assert set(yaml.safe_load(metadata)) == {"library_name", "tags"}
    assert "\x1b" not in card
    for sign in ("<img", "`|", "[a](b)", "**m**"):
        assert not re.search(rf"(?<!\\){re.escape(sign)}", card)
    assert not any(line.startswith("# **") for line in card.splitlines())


@pytest.mark.slow
def test_every_command_that_takes_a_run_takes_one_of_the_hub(
    hub: Hub, run: Path, tmp_path: Path
) -> None:
    hub.add(NAME, contents(run))
    named = f"hf:{NAME}"
    commit = hub.repositories[NAME].branches["main"]
    succeed("show", named, cwd=tmp_path)
    succeed("compare", named, named, cwd=tmp_path)
    succeed("export", named, "--to", "csv", "--out", "heads.csv", cwd=tmp_path)
    place = tmp_path / "outputs" / "me--nano-r2"
    succeed("plot", named, cwd=tmp_path)
    succeed("report", named, cwd=tmp_path)
    succeed("allocate", "--scores", f"{named}:0.5", "--scores", f"{run}:0.5", cwd=tmp_path)
    succeed("allocate", named, "--budget", "64", cwd=tmp_path)
    made = {path.name for path in place.iterdir()}
    assert made == {
        *("heads.png", "report.html", "budget-headkv-64.json", "budget-headkv-128-mixed.json")
    }
    budget = json.loads((place / "budget-headkv-64.json").read_text())
    assert budget["strategy"]["scores"][0]["run"] == f"{named}@{commit}"
    assert f"{named}@{commit}" in (place / "report.html").read_text()
    assert str(tmp_path) not in (place / "report.html").read_text()


@pytest.mark.slow
def test_a_run_of_the_hub_is_ablated_and_evaluated(hub: Hub, run: Path, tmp_path: Path) -> None:
    hub.add(NAME, contents(run))
    few = ["--lengths", "64", "--depths", "50", "--limit", "2"]
    succeed("ablate", f"hf:{NAME}", "--top-k", "1", "--random-draws", "1", *few, cwd=tmp_path)
    asked = ["evaluate", "--scores", f"hf:{NAME}", "--budget", "25%", *few]
    succeed(*asked, cwd=tmp_path)
    seed = HeadScores.load(run).plan["seed"]
    assert f"--seed {seed}" in headprobe(*asked, "--seed", str(seed), cwd=tmp_path).stderr
    # What is known of a budget's run holds for one of the hub too.
    succeed("allocate", f"hf:{NAME}", "--budget", "32", "--out", "own.json", cwd=tmp_path)
    scored = ["evaluate", "--budget", "own.json", "--seed", str(seed), *few, "--out", "other"]
    assert f"--seed {seed}" in headprobe(*scored, cwd=tmp_path).stderr


def test_a_revision_is_the_one_that_is_named(hub: Hub, run: Path) -> None:
    repository = hub.add(NAME, contents(run))
    first = repository.branches["main"]
    repository.commit({"README.md": b"moved on"})
    assert (local_run(Path(f"hf:{NAME}@{first}")) / "scores.safetensors").is_file()
    with pytest.raises(HeadprobeError, match=f"hf:{NAME} is no run: it has no scores.safetensors"):
        fetch_run(HubName.parse(NAME))
    with pytest.raises(HeadprobeError, match="no such revision; give a branch, tag or commit"):
        fetch_run(HubName.parse(f"{NAME}@other"))


def test_without_a_network_the_cache_is_used(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, contents(run))
    name = HubName.parse(NAME)
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HeadprobeError, match=f"out of reach, and hf:{NAME} is not in its"):
            fetch_run(name)
        assert hub.asked == []
    fetched = fetch_run(name)
    hub.is_down = True
    assert fetch_run(name) == fetched
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = list(hub.asked)
    assert fetch_run(name) == fetched
    assert hub.asked == before
    assert shown_name(fetched) == f"hf:{NAME}@{fetched.name}"


@pytest.mark.parametrize("command", [["pull", NAME], ["allocate", f"hf:{NAME}"]])
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    def told() -> str:
        done = headprobe(*command, cwd=tmp_path)
        assert done.returncode == 1
        assert TOKEN not in done.stderr
        return done.only_line()

    assert "check the name, or log in with `hf auth login`" in told()
    hub.add(NAME, contents(run), private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "log in with `hf auth login`" in told()
    monkeypatch.delenv("HF_TOKEN")
    assert "or it is private" in told()
    hub.add(NAME, contents(run), gated=True)
    assert "is gated: ask for access on its page" in told()
    hub.is_down = True
    assert "out of reach, and" in told()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "out of reach, and" in told()
    assert not (tmp_path / "outputs").exists()


def test_what_the_hub_does_not_take_is_one_line_too(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = ["export", run, "--to", "hub"]
    assert refusal(*export).option == "repo"
    assert refusal(*export, "--repo", "a b/c").exit_code == 2
    assert "gives no access to hf:other/name" in refusal(*export, "--repo", "other/name").message
    hub.add(NAME, {})
    assert refusal(*export, "--repo", NAME, "--private").option == "private"
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "knows no user" in refusal(*export, "--repo", NAME).message
    assert TOKEN not in headprobe(*export, "--repo", NAME).stderr
    hub.is_down = True
    assert "the hub answered 503" in refusal(*export, "--repo", NAME).message
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "is out of reach" in refusal(*export, "--repo", NAME).message
    assert hub.repositories[NAME].files == {}


def test_options_of_the_hub_are_for_the_hub(run: Path, tmp_path: Path) -> None:
    assert refusal("export", run, "--to", "csv").option == "out"
    for more in (["--repo", NAME], ["--private"]):
        out = ["--out", tmp_path / "heads.csv"]
        assert refusal("export", run, "--to", "csv", *out, *more).option == more[0][2:]
    hub = ["export", run, "--to", "hub", "--repo", NAME]
    assert refusal(*hub, "--sinks", "4").option == "sinks"
    assert refusal(*hub, "--out", tmp_path / "x").option == "out"
    budget = tmp_path / "budget.json"
    budget.write_text("{}")
    assert refusal("export", budget, "--to", "hub", "--repo", NAME).path == budget


def test_a_private_repository_is_private_and_a_second_export_replaces_the_first(
    hub: Hub, run: Path
) -> None:
    publish_run(run, NAME, draw=blank, private=True)
    repository = hub.repositories[NAME]
    assert repository.private
    repository.commit({**repository.files, "rows.safetensors": b"of an earlier run", "own": b"1"})
    publish_run(run, NAME, draw=blank, private=True)
    assert {*repository.files} == {*contents(run), "README.md", "heads.png", "own"}
    assert fetch_run(HubName.parse(NAME)).is_dir()


@pytest.mark.slow
def test_no_token_is_shown_or_stored(hub: Hub, run: Path, tmp_path: Path) -> None:
    done = succeed("--verbose", "export", run, "--to", "hub", "--repo", NAME)
    pulled = succeed("--verbose", "pull", NAME, cwd=tmp_path)
    for text in (done.stdout, done.stderr, pulled.stdout, pulled.stderr):
        assert TOKEN not in text
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) > 8
    for content in (*hub.repositories[NAME].files.values(), *(path.read_bytes() for path in kept)):
        assert TOKEN.encode() not in content


def test_what_is_no_file_of_a_run_is_not_fetched(hub: Hub, run: Path, tmp_path: Path) -> None:
    others = {
        "evil.py": b"x",
        "pickle.bin": b"x",
        "more/scores.safetensors": b"x",
        "config.json": b"{}",
    }
    hub.add(NAME, contents(run) | others)
    succeed("pull", NAME, cwd=tmp_path)
    left = {path.name for path in (tmp_path / "outputs" / "me--nano-r2").iterdir()}
    assert left == {*contents(run), "progress.sqlite"}
    fetched = {asked.rsplit("/", 1)[1] for asked in hub.asked if "/resolve/" in asked}
    assert fetched == {*contents(run)}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scores.safetensors", lambda content: content[:-100]),
        ("scores.safetensors", lambda content: b"\x80\x04cposix\nsystem\n"),
        ("scores.safetensors", lambda content: b""),
        ("cases.parquet", lambda content: content[: len(content) // 2]),
        ("heads.csv", lambda content: content + b"0,0,0,r2,1,1,1,1,1\n"),
        ("run.json", lambda content: content.replace(b"complete", b"imagined")),
    ],
)
def test_a_damaged_or_foreign_file_leaves_nothing(
    hub: Hub, run: Path, tmp_path: Path, name: str, change: object
) -> None:
    assert callable(change)
    hub.add(NAME, contents(run) | {name: change(contents(run)[name])})
    error = refusal("pull", NAME, cwd=tmp_path)
    assert name in error.message
    assert not (tmp_path / "outputs").exists()


def test_a_file_too_large_for_a_run_is_not_fetched(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, contents(run))
    hub.sizes["cases.parquet"] = 2**40
    error = refusal("pull", NAME, cwd=tmp_path)
    assert "cases.parquet of hf:me/nano-r2 has 1,099,511,627,776 bytes" in error.message
    assert not any(asked.startswith("GET /stored") for asked in hub.asked)
    # Said otherwise by the hub, it is seen in the cache.
    hub.sizes.clear()
    fetch_run(HubName.parse(NAME))
    monkeypatch.setattr(hub_module, "LARGEST", 1000)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HeadprobeError, match="more than the 1,000 of a run's file"):
        fetch_run(HubName.parse(NAME))


def test_a_file_too_large_to_be_fetched_is_not_put_there(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LARGEST", 1000)
    error = refusal("export", run, "--to", "hub", "--repo", NAME)
    assert "more than the 1,000 of a run's file that are fetched" in error.message
    assert hub.asked == []


def test_another_run_is_not_replaced_unless_asked(hub: Hub, run: Path, tmp_path: Path) -> None:
    hub.add(NAME, contents(run))
    own = tmp_path / "own"
    shutil.copytree(run, own)
    with pytest.raises(UsageError, match="overwrite"):
        pull_run(HubName.parse(NAME), own)
    assert contents(own) == contents(run)
    (own / "heads.csv").write_text("changed")
    pull_run(HubName.parse(NAME), own, overwrite=True)
    assert contents(own) == contents(run)


def test_names_are_read_and_told() -> None:
    assert HubName.parse("hf:a/b@refs/pr/1") == HubName(repository="a/b", revision="refs/pr/1")
    assert str(HubName.parse("a/b")) == "hf:a/b"
    for wrong in ("hf:", "hf:@main", "a/b@"):
        with pytest.raises(UsageError, match="expected hf:owner/name"):
            HubName.parse(wrong)


@pytest.mark.usefixtures("hub")
def test_a_name_that_cannot_be_one_is_wrong_usage() -> None:
    for wrong in ("hf:a/b/c", "hf:a b", "hf:../x", "hf:-"):
        assert refusal("show", wrong).exit_code == 2


@pytest.mark.slow
def test_the_environment_names_the_hub(hub: Hub, run: Path, tmp_path: Path) -> None:
    environment = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    put = ["-m", "headprobe", "export", str(run), "--to", "hub", "--repo", NAME]
    done = process(*put, cwd=tmp_path, **environment)
    assert (done.returncode, done.stdout) == (0, f"hf:{NAME}\n")
    pulled = process("-m", "headprobe", "pull", NAME, cwd=tmp_path, **environment)
    assert pulled.returncode == 0, pulled.stderr
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    shown = process("-m", "headprobe", "show", f"hf:{NAME}", cwd=tmp_path, **offline)
    assert shown.returncode == 0, shown.stderr
    for one in (done, pulled, shown):
        assert TOKEN not in one.stdout + one.stderr
