import hashlib
import hmac

import openai
import pytest

from mogu.errors import MoguError
from mogu.serving.http.keys import read_keys
from tests.serving.http.fake import FakeEngine
from tests.serving.http.live import NAME, served


def digest(key):
    return hashlib.sha256(key.encode()).digest()


def test_keys_of_a_file_and_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("MOGU_API_KEYS", raising=False)
    assert read_keys(None) == []
    file = tmp_path / "keys"
    file.write_text("# of the team\none\n\n  two  \n")
    assert read_keys(file) == [digest("one"), digest("two")]
    monkeypatch.setenv("MOGU_API_KEYS", "three, four")
    assert read_keys(None) == [digest("three"), digest("four")]
    assert read_keys(file) == [digest(key) for key in ("three", "four", "one", "two")]


def test_a_file_without_a_key_and_a_line_that_is_none(tmp_path):
    file = tmp_path / "keys"
    file.write_text("\n# nothing\n")
    with pytest.raises(MoguError, match="holds no key; write one a line"):
        read_keys(file)
    file.write_text("one\ntwo three\n")
    with pytest.raises(MoguError, match=r"line 2 of .*keys holds white space"):
        read_keys(file)


@pytest.fixture(scope="module")
def live():
    with served(FakeEngine(), keys=[digest("one"), digest("zwei-ß")]) as client:
        yield client


def test_the_client_with_a_key_is_answered_and_one_without_is_not(live):
    for key in ("one", "zwei-ß"):
        headers = {"authorization": f"Bearer {key}".encode()}
        assert live.chat("Hi").status_code == 401
        assert live.get("models", headers=headers).status_code == 200
    client = live.openai(api_key="one")
    assert client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": "Hi"}]
    ).model_extra["mogu"]
    with pytest.raises(openai.AuthenticationError, match="The API key is not known here"):
        live.openai(api_key="two").models.list()


@pytest.mark.parametrize(
    "given",
    [None, "", "one", "Bearer", "Bearer two", "Bearer on", "Bearer onee", "Basic one", "Bearer one two"],
)
def test_what_is_no_key(live, given):
    answer = live.get("models", headers={} if given is None else {"authorization": given})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="mogu"'
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.json()["error"]["message"].endswith("Send 'Authorization: Bearer KEY'.")


def test_two_headers_are_no_key(live):
    headers = [("authorization", "Bearer one"), ("authorization", "Bearer one")]
    assert live.get("models", headers=headers).status_code == 401


def test_the_scheme_may_be_written_in_any_case(live):
    assert live.get("models", headers={"authorization": "bearer one"}).status_code == 200


def test_everything_but_health_asks_for_one(live):
    root = live.url.removesuffix("/v1")
    assert live.get(f"{root}/health").status_code == 200
    for path in ("/metrics", "/openapi.json", "/v1/models", "/v1/nope", "/health/", "//health", "/Health"):
        assert live.get(f"{root}{path}", follow_redirects=False).status_code == 401, path
    assert live.post(f"{root}/v1/completions", content=b"x" * 5_000_000).status_code == 401


def test_every_key_is_compared_in_constant_time(live, monkeypatch):
    seen, compare_digest = [], hmac.compare_digest

    def compare(given, key):
        seen.append((given, key))
        return compare_digest(given, key)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert live.get("models", headers={"authorization": "Bearer one"}).status_code == 200
    # The first one fits, and the second one is compared all the same; what is compared is of one length.
    assert seen == [(digest("one"), digest("one")), (digest("one"), digest("zwei-ß"))]
