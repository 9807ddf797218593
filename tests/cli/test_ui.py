import socket
import sys

import pytest
import uvicorn

from mogu.generation import MoguModel


@pytest.fixture
def served(monkeypatch):
    """Ends the server as Ctrl-C does once it would serve; holds the address and the app of each one."""
    seen = []

    def run(server, sockets):
        seen.append((sockets[0].getsockname()[:2], server.config.app))
        socket.create_connection(seen[-1][0]).close()  # it listens
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return seen


def test_it_tells_the_address_and_how_to_stop(mogu, sequence_folder, served):
    code, out, err = mogu("ui", sequence_folder, "--port", 0)
    (((address, port), _),) = served
    assert (code, out) == (0, "")
    assert err.splitlines()[-2:] == [
        f"Open http://{address}:{port} in a browser. Ctrl-C ends it.",
        "Stopped.",
    ]
    assert address == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_reach_it_only_where_that_is_asked_for(
    mogu, sequence_folder, served, host, monkeypatch
):
    monkeypatch.setattr(
        MoguModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded before the refusal")
    )
    code, _, err = mogu("ui", sequence_folder, "--host", host, "--port", 0)
    assert code == 2 and served == []
    assert err.endswith(
        f"error: {host} can be reached from other machines, and there is no API key; leave out --host, or "
        "give --public-without-key if something in front of the page asks for one\n"
    )


def test_it_can_be_forced(mogu, sequence_folder, served):
    assert mogu("ui", sequence_folder, "--host", "0.0.0.0", "--port", 0, "--public-without-key")[0] == 0
    assert served[0][0][0] == "0.0.0.0"


def test_a_port_that_is_taken_is_one_clear_line(mogu, sequence_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = mogu("ui", sequence_folder, "--port", port)
    assert (code, err.splitlines()[-1]) == (
        2,
        f"error: 127.0.0.1:{port}: Address already in use; give another --host or --port",
    )


def test_without_gradio_it_says_how_to_get_it(mogu, sequence_folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "mogu.serving.page", raising=False)
    monkeypatch.delitem(sys.modules, "mogu.serving.page.layout", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, _, err = mogu("ui", sequence_folder)
    assert (code, err.splitlines()[-1]) == (
        2,
        "error: gradio is not installed; get it with: pip install 'mogu-llm[ui]'",
    )
