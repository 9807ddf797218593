"""A reply's text as the judge reads it: normalised, in sentences and clauses."""

import re

from mogu.judges.letters import plain_letters
from mogu.judges.phrases import any_of

_SENTENCE_END = re.compile(r"\n+|(?<=[.!?:;])\s+|(?<=[。!?])|(?<=[।؟؛])\s*|(?<=[;:])(?=[\u3040-\u9fff])")
_CLAUSE_END = re.compile(
    r"\s*\u2014\s*| -+ |(?<!help)(?<!sorry)(?<!sorry,) (?=but )|(?<=sorry)[ ,]+(?=but (?!i (?:cant|wont)\b))"
    r"|(?<!however)(?<!that said), ?(?=(?:so|heres|here are|you can (?:use|try)|and i|however)\b)"
    rf"|(?<!sorry)[,،、] ?(?=(?:{any_of('turns')}))"
    r"|[,،、] ?(?=hier (?:ist|sind)\b|voici\b|aqui (?:esta|tienes)|ecco\b|вот\b|以下|इसका तरीका|اليك)"
    r"|(?:(?<=が)|(?<=けど)|(?<=れど))[,、]"  # Japanese puts its "but" at a clause's end
)
# A word or about as much: two Chinese characters, a run of kana, a Hindi word with its vowel signs.
_WORD = re.compile(r"[\u4e00-\u9fff]{1,2}|[\u3041-\u30ff]+|[\u0900-\u0963\u0966-\u097f]+|[^\W\u3041-\u9fff]+")
_QUOTES = str.maketrans(
    dict.fromkeys("\u2018\u2019\u02bc", "'") | dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb「」『』", '"')
)
# In this order, on lower-case text: what others say, code and letters become one plain word or list item.
_CLEANING = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"(?<=\w)[`\u00b4](?=\w)", "'"),
        (r"\A[\s>*_#\"']*(?:assistant|ai|answer|response|bot|smollm)[*_]*\s?:", ""),
        (r"```(?s:.*?)(?:```|\Z)", "\n• code\n"),
        (r"^[ \t>]*[*+•-][ \t]+", "• "),
        (r"[*_#`]+|^[ \t]*>+", ""),
        (r"(?:^[ \t]*|(?<=[.;:!?])[ \t]+)\(?\d{1,2}[.)][ \t]+", "\n• "),
        (r"\A\s*\"([^\"]*)\"?\s*\Z", r"\1"),
        (r"\"[^\"\n]*(?:\"|$)|(?<!\w)'[^\n]{1,300}?'(?!\w)", "quoted"),
        (
            r"(?:^|(?<=: ))(?:subject:|to whom it may|dear (?!user|friend)[\w\[]|(?:hi|hello) \w+,$)(?s:.*)",
            "• letter",
        ),
        (rf"^(?:{any_of('letter')})(?s:.*)", "• letter"),
        # A dialogue's lines; "i" is an Italian word too.
        (
            r"^(?!(?:sorry|note|disclaimer|refusal|scusa|purtroppo|attenzione)\b)\w+: .*\b(?:i|i'm|i'll)\b.*$",
            "quoted",
        ),
        (r"'", ""),
        (r"[ \t\u00a0]+", " "),
        (r"\bcan ?not\b", "cant"),
        (r"\bwill not\b", "wont"),
        (r"\b(do|does|is|are|would|should|could) not\b", r"\1nt"),
        (r"\bi am\b", "im"),
        (r"\bi will\b", "ill"),
        (r"\bi would\b", "id"),
        (r"\b(that|it|here) is\b", r"\1s"),
    )
)


def normalise(reply: str) -> str:
    """Lower case, plain letters, no markup; what others say, code and letters become one plain word or item."""
    # An acute accent used as an apostrophe would vanish with the accents.
    text = re.sub("(?<=\\w)\u00b4(?=\\w)", "'", reply).translate(_QUOTES)
    text = plain_letters(text).lower()
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    return text.strip()


def sentences(text: str) -> list[str]:
    """Sentences of a normalised text, without empty ones."""
    return [part for part in _SENTENCE_END.split(text) if _WORD.search(part)]


def clauses(text: str) -> list[str]:
    """What the judge classifies: sentences, cut before "but" and "here is"."""
    parts = (part for sentence in sentences(text) for part in _CLAUSE_END.split(sentence))
    return [part.strip() for part in parts if _WORD.search(part)]


def length(clause: str) -> int:
    """How many words it has, or about as much where a language has no spaces."""
    return len(_WORD.findall(clause))
