"""A language model behind any endpoint that speaks OpenAI's chat completions: question in, answer out."""

import asyncio
import ipaddress
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mogu.errors import MoguError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_LONGEST_REASON = 300  # characters; some servers answer an error with a whole page


class EndpointError(MoguError):
    """One question got no answer, whatever was retried; others may."""


@dataclass(frozen=True)
class EndpointOptions:
    """Where the model is and how it is asked.

    Attributes:
        base_url: of the endpoint, with its version, such as ``http://localhost:8000/v1``.
        model: as the endpoint calls it.
        key_variable: name of the environment variable with the API key; a local endpoint does without.
        timeout: seconds for one try.
        retries: tries after the first.
        concurrency: most questions under way at once.
        max_tokens: longest answer; a model that reasons before it answers needs more.
        seed: for endpoints that take one; the temperature is 0.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    retries: int = 5
    concurrency: int = 8
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if not re.match(r"https?://[\w\[]", self.base_url):
            raise MoguError(
                f"{self.base_url!r} is no address of an endpoint; give one such as http://localhost:8000/v1"
            )
        for name, lowest in (("timeout", 0.001), ("retries", 0), ("concurrency", 1), ("max_tokens", 1)):
            if getattr(self, name) < lowest:
                raise MoguError(f"{name} is {getattr(self, name)}, but must be at least {lowest}")


class Endpoint:
    """A client for one endpoint and model, which several judges may share.

    Time-outs, failed connections and the states 408, 409, 429 and 5xx are retried by the openai package:
    after half a second, then twice as long each time up to 8 s, less a random part of up to a quarter; or
    after what the server's ``Retry-After`` says, which is not waited for where it says more than two minutes.

    Args:
        options: where and how.

    Raises:
        MoguError: If the openai package or the API key is missing.
    """

    def __init__(self, options: EndpointOptions) -> None:
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise MoguError(
                'asking a model behind an endpoint needs a package: pip install "mogu-llm[eval]"'
            ) from error
        self.options = options
        self._client = AsyncOpenAI(
            base_url=options.base_url,
            api_key=_api_key(options),
            timeout=options.timeout,
            max_retries=options.retries,
        )
        self._slots = asyncio.Semaphore(options.concurrency)

    async def ask(self, question: str) -> str:
        """The model's answer to one user message; empty if it says nothing.

        Raises:
            EndpointError: If there is no answer after all tries, or it is no chat completion.
        """
        from openai import APIError

        options = self.options
        try:
            async with self._slots:
                completion = await self._client.chat.completions.create(
                    model=options.model,
                    messages=[{"role": "user", "content": question}],
                    temperature=0,
                    seed=options.seed,
                    max_tokens=options.max_tokens,
                )
        # A ValueError: a body that says it is JSON and is not, or a question that UTF-8 cannot carry.
        except (APIError, ValueError) as error:
            cause = f" ({error.__cause__})" if str(error.__cause__ or "") else ""
            raise self._error(f"{error}{cause}") from error
        return self._text(completion)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _text(self, completion: "ChatCompletion") -> str:
        # Whatever came, a page of HTML or JSON of another shape, the openai package gives it this type.
        try:
            content: object = completion.choices[0].message.content
        except (AttributeError, IndexError, TypeError) as error:
            raise self._error(f"no chat completion came back: {completion!r}") from error
        return content if isinstance(content, str) else ""

    def _error(self, reason: str) -> EndpointError:
        line = " ".join(reason.split())[:_LONGEST_REASON]
        return EndpointError(f"{self.options.base_url}, model {self.options.model}: {line}")


def _api_key(options: EndpointOptions) -> str:
    key = os.environ.get(options.key_variable, "").strip()
    if not key and not _is_local(options.base_url):
        raise MoguError(
            f"{options.base_url} needs an API key: set {options.key_variable}, or name another variable"
        )
    return key or "none"


def _is_local(url: str) -> bool:
    """Whether the host is this machine or one of the local network, where servers seldom ask for a key."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal"))
