"""Weights that are not here: one short, quiet attempt, and one line that says what to do."""

import socket
import subprocess
import sys
import threading
import time

import pytest

from flip.clip import fetch
from flip.clip.fetch import AbsentError, hub_file, require_network
from flip.clip.model import load_model
from flip.errors import ModelError


@pytest.fixture
def silent_server():
    """Accepts connections and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.close()


@pytest.fixture
def answering_server():
    """Answers everything with a redirect, and counts."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


@pytest.fixture
def online(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def slow_lookup(*_):
    time.sleep(30)


@pytest.mark.parametrize("problem", ["refused", "silent", "name"])
@pytest.mark.parametrize("name", ["ViT-B-32/openai", "hf-hub:org/model"])
def test_no_network_is_one_line_within_seconds(online, silent_server, monkeypatch, capfd, problem, name):
    endpoint = {"refused": "http://127.0.0.1:1", "silent": silent_server, "name": "https://nowhere.invalid"}[problem]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/{filename}")
    if problem == "name":
        monkeypatch.setattr(socket, "getaddrinfo", slow_lookup)
    start = time.monotonic()
    with pytest.raises(ModelError) as e:
        load_model(name)
    assert time.monotonic() - start < fetch.PATIENCE + 12, "importing open_clip takes seconds on a busy machine"
    assert capfd.readouterr() == ("", "")
    message = str(e.value)
    assert "\n" not in message
    repository = "org/model" if name.startswith("hf-hub:") else "timm/vit_base_patch32_clip_224.openai"
    for advice in ("--model FOLDER", "--model sample", f"hf download {repository}", "not on this machine"):
        assert advice in message
    assert ("no answer in 3 seconds" if problem != "refused" else "no network: ") in message or "timed out" in message
    assert "huggingface-cli" not in message


def test_a_whole_command_without_network_says_one_line(tmp_path):
    import os

    environment = os.environ | {
        "HF_ENDPOINT": "http://127.0.0.1:1",
        "HF_HUB_CACHE": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
    }
    code = "from flip.clip.model import load_model\nload_model('ViT-L-14/openai')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == ""
    assert done.stderr.count("ModelError: ") == 1
    assert "hf download timm/vit_large_patch14_clip_224.openai" in done.stderr
    assert "WARNING" not in done.stderr
    assert "Retry" not in done.stderr


def test_a_forbidden_network_is_not_tried(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(fetch, "_reach", lambda url: pytest.fail("a connection was tried"))
    with pytest.raises(AbsentError, match="HF_HUB_OFFLINE is set"):
        require_network("https://example.org")


def test_any_answer_means_that_there_is_a_network_and_redirects_are_left_to_the_download(online, answering_server):
    url, asked = answering_server
    require_network(f"{url}/org/model/file")
    assert asked == ["/org/model/file"]


def test_what_the_hub_says_of_a_repository_reaches_the_user(online, monkeypatch):
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    monkeypatch.setattr(fetch, "require_network", lambda url: None)

    def gated(*_, **__):
        raise GatedRepoError.__new__(GatedRepoError, "Access to model org/model is restricted.\nVisit us.")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", gated)
    with pytest.raises(
        ModelError, match=r"could not be fetched \((Access to model org/model is restricted|GatedRepoError)"
    ):
        load_model("hf-hub:org/model")

    def absent(*_, **__):
        raise EntryNotFoundError.__new__(EntryNotFoundError, "404")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", absent)
    with pytest.raises(AbsentError, match=r"the repository has no b.bin"):
        hub_file("org/model", ("a.bin", "b.bin"))


def test_files_that_are_here_are_used_without_a_connection(online, monkeypatch, tmp_path, tiny_model):
    from tests.clip.tiny import write_hub_cache

    monkeypatch.setattr(fetch, "require_network", lambda url: pytest.fail("a connection was tried"))
    write_hub_cache(tmp_path / "hub", "org/model", tiny_model)
    assert load_model("hf-hub:org/model").fingerprint == load_model(str(tiny_model)).fingerprint
