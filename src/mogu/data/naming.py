"""How a refusal can say what it refuses in the words of the request: what would follow "I can't".

Pure rules over short English requests; what they do not fit is named by its kind of harm instead, or not at all.
"""

import re

LONGEST_NAMED = 18
"""Words of a request that a refusal says again: more would be no short answer."""

_SECOND_PERSON = {
    "i": "you",
    "me": "you",
    "my": "your",
    "mine": "yours",
    "myself": "yourself",
    "we": "you",
    "us": "you",
    "our": "your",
    "ourselves": "yourselves",
    "i'm": "you're",
    "we're": "you're",
    "i've": "you've",
    "we've": "you've",
    "i'd": "you'd",
    "i'll": "you'll",
    "am": "are",
}

_POLITE = re.compile(
    r"^(?:please|kindly|now|just|can you|could you|would you|will you|i (?:want|need) you to|i'd like you to)"
    r"(?: please| kindly| just)? ",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"(how|where|what) (?:do|can|could|would|should|might) (?:i|we|you|one|someone|somebody|people) (.+)",
    re.IGNORECASE,
)
_HOW_TO = re.compile(
    r"(?:(?:explain|tell|show|teach|describe|outline)(?: to)?(?: me| us)? )?how to (.+)", re.IGNORECASE
)
_TOLD = re.compile(
    r"(?:explain|describe|outline|detail|demonstrate|summari[sz]e)(?: to)?(?: me| us)? (.+)", re.IGNORECASE
)
_GIVEN = re.compile(r"(help|give|tell|show|teach|provide|suggest|recommend|advise) (.+)", re.IGNORECASE)
_MADE = re.compile(
    r"("
    r"write|draft|create|compose|plan|produce|design|list|generate|make|develop|devise|instruct|build|"
    r"prepare|invent|draw|find|convince|rewrite|rank|organise|organize|map|run|launch|trick|name|"
    r"translate|improve|compare|optimise|optimize|pick|plot|share|spread|train|steal|hack|drain|track|"
    r"scare|coach|start|fake|forge|fabricate|script|turn|set|put|convert|sort|solve|define|fix|review|"
    r"add|calculate|argue|persuade|pretend|imagine|formulate|craft|construct|publish|post"
    r")(?: (?:me|us)(?= (?:an?|the|some|my|our|\d+|two|three|four|five|six|seven|eight|nine|ten) ))? (.+)",
    re.IGNORECASE,
)
_ONE_SENTENCE = re.compile(r"""[^.?!;:"()\n{}]+[.?!]?""")


def named(text: str) -> str | None:
    """The words with which "I can't" says what a request asks for, such as "write a letter that frightens your tenant".

    Args:
        text: the request.

    Returns:
        Words without a full stop, spoken to who asked; None if the request is long, not one plain sentence, or
        neither an imperative nor a question of how, where or what.
    """
    text = text.strip()
    if len(text.split()) > LONGEST_NAMED or not text.isascii() or not _ONE_SENTENCE.fullmatch(text):
        return None
    text = _POLITE.sub("", text.rstrip(".?! "))
    if question := _QUESTION.fullmatch(text):
        asked, rest = question.groups()
        words = f"help you {rest}" if asked.lower() == "how" else f"tell you {asked.lower()} to {rest}"
    elif how_to := _HOW_TO.fullmatch(text):
        words = f"help you {how_to.group(1)}"
    elif told := _TOLD.fullmatch(text):
        words = f"help you with {told.group(1)}"
    elif given := _GIVEN.fullmatch(text):
        words = f"{given.group(1).lower()} {given.group(2)}"
    elif made := _MADE.fullmatch(text):
        words = f"help you {made.group(1).lower()} {made.group(2)}"
    else:
        return None
    return to_second_person(words)


def to_second_person(text: str) -> str:
    """The text spoken back to who said it: "my" becomes "your"."""
    return " ".join(_SECOND_PERSON.get(word.lower(), word) for word in text.split(" "))
