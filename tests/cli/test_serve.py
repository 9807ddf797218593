"""`mogu serve`: what it refuses before it loads anything, and one server as a process of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from mogu.serving.http import server as server_module

TALK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    monkeypatch.delenv("MOGU_API_KEYS", raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_address_that_others_reach_without_a_key(mogu, host):
    code, _, err = mogu("serve", "x", "--host", host, "--port", 0)
    assert code == 2
    assert err.startswith(f"error: {host} can be reached from other machines, and there is no API key; ")
    assert "--keys FILE" in err
    assert "--public-without-key" in err


def test_with_a_key_or_by_force_it_listens_there(mogu, tmp_path, monkeypatch):
    keys = tmp_path / "keys"
    keys.write_text("one\n")
    for options in (["--keys", keys], ["--public-without-key"]):
        code, _, err = mogu("serve", tmp_path / "none", "--host", "0.0.0.0", "--port", 0, *options)
        assert (code, "can be reached" in err) == (2, False)  # only the folder is missing
    monkeypatch.setenv("MOGU_API_KEYS", "one")
    assert "can be reached" not in mogu("serve", tmp_path / "none", "--host", "0.0.0.0", "--port", 0)[2]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_the_machine_itself_is_no_other(host):
    try:
        server_module.bind(host, 0, public=False, remedy="").close()
    except server_module.MoguError as error:
        assert "can be reached" not in str(error)  # a machine without IPv6


def test_an_address_that_is_taken_or_none_is_told_before_the_model_is_loaded(mogu):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = mogu("serve", "x", "--port", port)
        assert (code, err) == (
            2,
            f"error: 127.0.0.1:{port}: Address already in use; give another --host or --port\n",
        )
    code, _, err = mogu("serve", "x", "--host", "no.such.host.invalid")
    assert (code, "no.such.host.invalid is no address of this machine" in err) == (2, True)


def test_keys_that_are_none_are_told(mogu, tmp_path):
    empty = tmp_path / "keys"
    empty.write_text("")
    assert "holds no key" in mogu("serve", "x", "--keys", empty)[2]
    assert mogu("serve", "x", "--keys", tmp_path / "none")[0] == 2


def test_the_extra_is_named_where_it_is_missing(mogu, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("mogu.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, _, err = mogu("serve", "x")
    assert (code, err) == (2, "error: fastapi is not installed; get it with: pip install 'mogu-llm[serve]'\n")


class Process:
    """`mogu serve` on a free port, once it is ready."""

    def __init__(self, folder, log, *options, port=0):
        command = [sys.executable, "-c", "from mogu.cli import main; main()", "serve", str(folder)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), *map(str, options)],
            stdout=log.open("a"),
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )
        self.screen = ""
        while "Ctrl-C ends it" not in self.screen:
            line = self.process.stderr.readline()
            assert line, self.screen
            self.screen += line
        self.url = re.search(r"http://\S+/v1", self.screen)[0]
        self.port = int(re.search(r":(\d+)/v1", self.url)[1])

    def ask(self, **fields):
        name = re.search(r"^model +(\S+)", self.screen, re.MULTILINE)[1]
        return httpx.post(f"{self.url}/chat/completions", json=TALK | {"model": name} | fields, timeout=30)

    def end(self, how):
        self.process.send_signal(how)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


def test_a_server_as_a_process_and_its_ends(sequence_folder, tmp_path):
    log = tmp_path / "log"
    server = Process(sequence_folder, log, "--rows", 2, "--max-new-tokens", 9, "--threshold", 0)
    try:
        assert re.search(r"^model +base-mogu *$", server.screen, re.MULTILINE)
        assert "prompts refused from 0.00 on" in server.screen
        assert "none asked for" in server.screen
        assert "2 replies at once, 64 may wait; prompts of 2047 tokens, replies of 9" in server.screen
        curl = re.search(r"curl (\S+) \\\n  -H '(\S+) (\S+)' \\\n  -d '(.+)'", server.screen)
        shown = httpx.post(curl[1], content=curl[4], headers={"content-type": curl[3]}, timeout=30)
        assert shown.json()["usage"]["completion_tokens"] <= 9
        assert shown.json()["mogu"]["refused"] is True
        assert server.ask(max_tokens=10).status_code == 400
        assert server.ask(n=3).status_code == 400
        acknowledged = server.ask(seed=1).json()["choices"][0]["message"]
        # Nothing is kept but the log's line, which is there when the answer is; the port is free at once.
        code, _ = server.end(signal.SIGKILL)
        assert code == -signal.SIGKILL
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["status"] for line in lines] == [200, 400, 400, 200]
        server = Process(sequence_folder, log, "--rows", 2, "--threshold", 0, port=server.port)
        assert server.ask(seed=1).json()["choices"][0]["message"] == acknowledged
        code, err = server.end(signal.SIGINT)
        assert (code, err) == (0, "Stopped.\n")
        assert len(log.read_text().splitlines()) == 5
    finally:
        server.process.kill()


def test_replies_in_progress_are_finished(sequence_folder, tmp_path):
    options = ["--hide-verdict", "--name", "mine", "--log", tmp_path / "lines", "--threshold", 1]
    server = Process(sequence_folder, tmp_path / "log", *options)
    try:
        body = TALK | {"model": "mine", "stream": True, "max_tokens": 300, "logit_bias": {"1": -100}}
        with httpx.stream("POST", f"{server.url}/chat/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2][6:])["choices"][0]["finish_reason"] == "length"
        assert "mogu" not in rest[-2]
        _, err = server.process.communicate(timeout=30)
        assert err == "Finishing what runs (1), 30 seconds at most; Ctrl-C again ends it at once.\nStopped.\n"
        assert server.process.returncode == 0
        (line,) = (tmp_path / "lines").read_text().splitlines()
        assert json.loads(line)["completion_tokens"] == 300
        assert (tmp_path / "log").read_text() == ""
    finally:
        server.process.kill()
