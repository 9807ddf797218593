"""What replies say when they refuse, offer something else or hand it over, by language.

A new language is a module like `spanish` and a line in `LANGUAGES`.
"""

from mogu.judges.phrases.arabic import ARABIC
from mogu.judges.phrases.chinese import CHINESE
from mogu.judges.phrases.english import ENGLISH
from mogu.judges.phrases.french import FRENCH
from mogu.judges.phrases.german import GERMAN
from mogu.judges.phrases.hindi import HINDI
from mogu.judges.phrases.italian import ITALIAN
from mogu.judges.phrases.japanese import JAPANESE
from mogu.judges.phrases.portuguese import PORTUGUESE
from mogu.judges.phrases.russian import RUSSIAN
from mogu.judges.phrases.spanish import SPANISH

LANGUAGES = {
    "en": ENGLISH,
    "es": SPANISH,
    "fr": FRENCH,
    "de": GERMAN,
    "it": ITALIAN,
    "pt": PORTUGUESE,
    "ru": RUSSIAN,
    "zh": CHINESE,
    "ar": ARABIC,
    "hi": HINDI,
    "ja": JAPANESE,
}


def any_of(kind: str) -> str:
    """A regular expression for the phrases of one kind (a field of `Phrases`) in every language."""
    return "|".join(filter(None, (language.pattern(kind) for language in LANGUAGES.values())))
