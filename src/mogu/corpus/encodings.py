"""The ways of spelling in which attackers hide a request, by name."""

import base64
import codecs
from collections.abc import Callable

_LEET = str.maketrans("aeiostAEIOST", "4310574310$7")

ENCODINGS: dict[str, Callable[[str], str]] = {
    "base64": lambda text: base64.b64encode(text.encode("utf-8")).decode("ascii"),
    "leetspeak": lambda text: text.translate(_LEET),
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "spaced": " ".join,
    "reversed": lambda text: text[::-1],
}
