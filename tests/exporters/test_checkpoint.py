"""`voxport fetch` and `voxport lock` against a small hub of our own on 127.0.0.1: the real loading code, no network."""

import hashlib
import json
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
from tests import command

from voxport_exporters import cli
from voxport_exporters.checkpoints import lockfile
from voxport_exporters.checkpoints.hub import RECEIPT, ChangedError, fetch, lock

COMMIT, OLD = "c" * 40, "0" * 40
LARGE, SMALL = bytes(range(256)) * 2000, b'{"hidden_size": 8}\n'  # half a megabyte is stored as LFS


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


LOCK = f"""# the head stays
[[model]]
name = "tiny"
system = "vyvo"
licence = "MIT"

[[model.repo]]
id = "us/tiny"
into = "lm"
confidence = "?" # so does this
files = [
  # and this
  {{ path = "*config.json", confidence = "?" }}, # and this
  {{ path = "model*.safetensors*", confidence = "?" }},
]

[[model.repo]]
id = "us/codec"
into = "codec"
revision = "{COMMIT}"
confidence = "B"
files = [
  {{ path = "config.json", bytes = {len(SMALL)}, sha256 = "{sha256(SMALL)}", confidence = "A" }},
  {{ path = "w/model.bin", save = "w/other.bin", sha256 = "{sha256(LARGE)}", confidence = "B" }},
]


# the next one
[[model]]
name = "pinned"
system = "llvc"
licence = "MIT"
packaged = {{ "experiments/llvc/config.json" = "systems/llvc/configs/llvc.json" }}

[[model.repo]]
id = "us/codec"
revision = "{COMMIT}"
confidence = "A"
files = [
  {{ path = "w/model.bin", bytes = {len(LARGE)}, sha256 = "{sha256(LARGE)}", confidence = "A" }},
]
"""


class Hub(ThreadingHTTPServer):
    """Answers the two requests that matter; `log` is what was asked, `cut` breaks downloads after so many bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos = {
            "us/tiny": {"config.json": SMALL, "README.md": b"no", "model.safetensors": LARGE, "sub/config.json": b"no"},
            "us/codec": {"config.json": SMALL, "w/model.bin": LARGE, "train.ckpt": b"no"},
        }
        self.log: list[str] = []
        self.cut: int | None = None
        self.gated = False


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path, begin = unquote(urlsplit(self.path).path), self.headers.get("Range", "bytes=0-")[6:-1]
        self.server.log.append(f"{path} from {begin}")
        name = "/".join(path.removeprefix("/api/models/").strip("/").split("/")[:2])
        revision = path.split("/revision/" if path.startswith("/api/") else "/resolve/")[1:]
        files = self.server.repos.get(name)
        if files is None:
            self.reply(404, {"X-Error-Code": "RepoNotFound"})
        elif revision and revision[0].split("/")[0] not in (COMMIT, "main"):
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/"):
            siblings = [sibling(file, data) for file, data in files.items()]
            self.reply(200, {}, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        elif self.server.gated:
            self.reply(403, {"X-Error-Code": "GatedRepo"})
        elif self.server.cut and int(begin) >= self.server.cut:
            self.reply(500, {})
        else:
            data = files[revision[0].split("/", 1)[1]]
            part = data[int(begin) :]
            span = {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if int(begin) else {}
            self.reply(206 if int(begin) else 200, span, part, self.server.cut)

    def reply(self, code: int, headers: dict[str, str], body: bytes = b"", cut: int | None = None) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def sibling(path: str, data: bytes) -> dict[str, object]:
    """One file as the hub lists it: LFS files by sha256, small ones by their git blob only."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    lfs = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
    return {"rfilename": path, "size": len(data), "blobId": blob, "lfs": lfs if len(data) > 1000 else None}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # to disk after so many bytes, not 10 MB
    yield server
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    path = tmp_path / "models.lock"
    path.write_text(LOCK)
    return path


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_fetch_lands_the_named_files_and_no_others(hub: Hub, lock_file: Path, tmp_path: Path) -> None:
    model = fetch("tiny", tmp_path / "out", lock_file)
    files = {"lm/config.json", "lm/model.safetensors", "codec/config.json", "codec/w/other.bin"}
    assert tree(tmp_path / "out") == {*files, RECEIPT}
    assert (tmp_path / "out/codec/w/other.bin").read_bytes() == LARGE
    assert [file.sha256 for file in model.files] == [sha256(SMALL), sha256(LARGE), sha256(SMALL), sha256(LARGE)]
    assert lock_file.read_text() == LOCK  # unpinned stays unpinned


def test_second_fetch_asks_the_hub_nothing(hub: Hub, lock_file: Path, tmp_path: Path) -> None:
    for name in ("tiny", "pinned"):
        first = fetch(name, tmp_path / name, lock_file)
        hub.log.clear()
        assert fetch(name, tmp_path / name, lock_file) == first
        assert hub.log == []


def test_packaged_config_is_copied_and_a_changed_one_refused(hub: Hub, lock_file: Path, tmp_path: Path) -> None:
    fetch("pinned", tmp_path, lock_file)
    config = tmp_path / "experiments/llvc/config.json"
    assert config.read_bytes() == (Path(lockfile.__file__).parents[1] / "systems/llvc/configs/llvc.json").read_bytes()
    config.write_text("{}")
    with pytest.raises(ChangedError, match=r"config\.json: differs"):
        fetch("pinned", tmp_path, lock_file)


def test_interrupted_download_is_resumed(hub: Hub, lock_file: Path, tmp_path: Path) -> None:
    hub.cut = 300_000
    with pytest.raises(ConnectionError, match="run the same command"):
        fetch("pinned", tmp_path / "out", lock_file)
    (part,) = (tmp_path / "out/w").iterdir()
    assert (part.suffix, part.read_bytes()) == (".part", LARGE[:300_000])
    hub.cut = None
    hub.log.clear()
    fetch("pinned", tmp_path / "out", lock_file)
    assert hub.log[1:] == [f"/us/codec/resolve/{COMMIT}/w/model.bin from 300000"]
    assert tree(tmp_path / "out/w") == {"model.bin"}


def test_corrupt_partial_never_becomes_the_file(hub: Hub, lock_file: Path, tmp_path: Path) -> None:
    part = tmp_path / f"w/model.bin.{sha256(LARGE)[:12]}.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 1000)
    with pytest.raises(ChangedError, match="wanted sha256"):
        fetch("pinned", tmp_path, lock_file)
    assert not part.exists()
    fetch("pinned", tmp_path, lock_file)
    assert (tmp_path / "w/model.bin").read_bytes() == LARGE


def test_file_changed_on_the_hub_is_refused_before_it_is_loaded(hub: Hub, lock_file: Path, tmp_path: Path) -> None:
    hub.repos["us/codec"]["w/model.bin"] = other = LARGE[::-1]
    with pytest.raises(ChangedError, match=f"us/codec/w/model.bin: wanted sha256 {sha256(LARGE)}, got {sha256(other)}"):
        fetch("pinned", tmp_path / "out", lock_file)
    hub.repos["us/codec"] |= {"w/model.bin": LARGE, "config.json": SMALL[::-1]}  # the hub knows no sha256 of the latter
    with pytest.raises(ChangedError, match=f"us/codec/config.json: wanted sha256 {sha256(SMALL)}, got"):
        fetch("tiny", tmp_path / "out", lock_file)
    assert "codec/config.json" not in tree(tmp_path / "out")


@pytest.mark.parametrize("path", ["lm/config.json", "lm/model.safetensors", "codec/w/other.bin"])
def test_file_changed_on_disk_is_refused_and_left_alone(hub: Hub, lock_file: Path, tmp_path: Path, path: str) -> None:
    fetch("tiny", tmp_path / "out", lock_file)
    (tmp_path / "out" / path).write_bytes(b"mine")
    with pytest.raises(ChangedError, match=f"{path}: wanted sha256 .* got .* delete it"):
        fetch("tiny", tmp_path / "out", lock_file)
    (tmp_path / "out" / RECEIPT).unlink()  # without what was learned, the hub is asked
    with pytest.raises(ChangedError, match=path):
        fetch("tiny", tmp_path / "out", lock_file)
    assert (tmp_path / "out" / path).read_bytes() == b"mine"


def test_lock_fills_in_confirms_and_keeps_comments(hub: Hub, lock_file: Path) -> None:
    lock("tiny", lock_file)
    row = f'bytes = {len(SMALL)}, sha256 = "{sha256(SMALL)}", confidence = "confirmed" }},'
    weights = f'bytes = {len(LARGE)}, sha256 = "{sha256(LARGE)}", confidence = "confirmed" }},'
    head, tail = LOCK.split('confidence = "?" # so', 1)[0], LOCK.split("\n\n# the next one", 1)[1]
    assert lock_file.read_text() == (
        f'{head}revision = "{COMMIT}"\nconfidence = "confirmed"  # so does this\nfiles = [\n  # and this\n'
        f'  {{ path = "config.json", {row} # and this\n  {{ path = "model.safetensors", {weights}\n]\n\n'
        f'[[model.repo]]\nid = "us/codec"\ninto = "codec"\nrevision = "{COMMIT}"\nconfidence = "confirmed"\nfiles = [\n'
        f'  {{ path = "config.json", {row}\n  {{ path = "w/model.bin", save = "w/other.bin", {weights}\n]\n'
        f"\n\n# the next one{tail}"
    )
    before = lock_file.read_text()
    assert (lock("tiny", lock_file), lock_file.read_text()) == (lockfile.read(lock_file)["tiny"], before)
    assert not [line for line in hub.log if "model" in line.partition("/resolve/")[2]]  # the hub's sha256 is enough


def test_lock_never_loosens_a_pin(hub: Hub, lock_file: Path) -> None:
    hub.repos["us/codec"]["config.json"] = SMALL + b"\n"
    with pytest.raises(ChangedError, match=r"us/codec/config\.json: wanted"):
        lock("tiny", lock_file)
    assert lock_file.read_text() == LOCK


def run(verb: click.Command, *args: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; whatever happens is one line."""
    result = command.run(str(verb.name), *map(str, args))
    assert result.stderr.count("\n") <= 1
    return result.exit_code, result.stdout, result.stderr


def test_no_network_is_one_plain_sentence(lock_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: every connection is refused
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for verb, options in ((cli.fetch, ["-o", tmp_path / "out"]), (cli.lock, [])):
            code, out, err = run(verb, "tiny", "--lock-file", lock_file, *options)
            assert (code, out) == (2, "")
            assert re.fullmatch(f"Error: no connection to {url} .*; run the same command again, .*\n", err)


def test_commands_print_one_line_and_the_right_exit_code(hub: Hub, lock_file: Path, tmp_path: Path) -> None:
    lock = partial(run, cli.lock, "--lock-file", lock_file)
    fetch = partial(run, cli.fetch, "--lock-file", lock_file, "-o", tmp_path / "out")
    assert "tiny" in fetch("--list")[1]
    assert fetch("nobody") == (2, "", "Error: no model 'nobody'; there are: tiny, pinned\n")
    assert fetch()[0] == 2
    code, out, err = fetch("tiny")
    assert (code, out) == (0, f"{tmp_path / 'out'}\n")
    assert "not pinned, taken as the hub has them: *config.json, model*.safetensors*; `voxport lock tiny`" in err
    (tmp_path / "out/lm/config.json").write_bytes(b"mine")
    assert fetch("tiny")[0] == 1
    shutil.rmtree(tmp_path / "out")
    hub.gated = True
    assert "us/codec is gated: accept its terms at" in fetch("pinned")[2]
    assert lock("pinned") == (0, "pinned: 1 files pinned and confirmed\n", "")
    lock_file.write_text(LOCK.replace(COMMIT, OLD))
    assert lock("pinned") == (2, "", f"Error: us/codec at {OLD}: the hub has no such revision\n")
    lock_file.write_text(LOCK.replace("us/", "nobody/"))
    assert "the hub has no such repository" in lock("pinned")[2]
    lock_file.write_text(LOCK.replace("model*", "weights*"))
    assert "the hub has no file weights*.safetensors*" in fetch("tiny")[2]


def test_missing_extra_is_named(lock_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    answer = run(cli.fetch, "tiny", "--lock-file", lock_file, "-o", tmp_path / "out")
    assert answer == (2, "", "Error: voxport fetch needs huggingface_hub: pip install 'voxport[export]'\n")
