r"""What a language's phrases are.

One regular expression a line ("|" at its start continues the one before), matched in normalised text: lower case,
no accents, no apostrophes; in English "cannot" is "cant", "I am" is "im". Write lower case, in the native script;
accents and apostrophes may be written, as phrases lose them in the way that replies do. Commas, colons, question
marks and brackets of full width are plain ones.

All languages are tried on every reply, so a phrase must mean nothing in another language. ``\w+ `` crosses no comma,
which keeps a pattern within its part of a sentence. ``\b`` and ``\w`` do not know Hindi vowel signs (use spaces and
``\S``), and Chinese and Japanese have no spaces.
"""

from dataclasses import dataclass, field

from mogu.judges.letters import plain_letters


@dataclass(frozen=True)
class Phrases:
    """One language; each kind but `parts` is a text of regular expressions, empty where it needs none.

    Attributes:
        parts: shared parts by the name that stands for them, such as ``<DO>``: what a model is asked to do.
        refusal: "I can't help with that".
        apologetic: "I'm sorry, but I can't ...", whatever it is that comes then.
        not_a_refusal: first-person words that refuse nothing: idioms, reported speech, what a model cannot know.
        asks: a question back, as information is missing.
        evasion: "without getting caught": such advice is no safe alternative, whatever else the clause says.
        safe: something safe or lawful that is offered instead.
        moral: explaining, moralising, offering help with something else.
        handover: "here is ...", "sure": the thing itself follows.
        promise: "I can tell you ...".
        takes_back: with a promise: what hands the thing over after all.
        command: a step, without a number or bullet.
        pivot: how a turn begins, in English.
        turns: words for "but"; after a comma they begin a clause.
        apology: "I'm sorry".
        keywords: other rejection keywords, for the paper's check.
        letter: how a letter begins; what it says is not the model's own word.
    """

    parts: dict[str, str] = field(default_factory=dict)
    refusal: str = ""
    apologetic: str = ""
    not_a_refusal: str = ""
    asks: str = ""
    evasion: str = ""
    safe: str = ""
    moral: str = ""
    handover: str = ""
    promise: str = ""
    takes_back: str = ""
    command: str = ""
    pivot: str = ""
    turns: str = ""
    apology: str = ""
    keywords: str = ""
    letter: str = ""

    def pattern(self, kind: str) -> str:
        """The regular expressions of one kind as one; "" where there is none."""
        phrases: str = getattr(self, kind)
        for name, part in self.parts.items():
            phrases = phrases.replace(name, part)
        phrases = phrases.strip("\n").replace("\n|", "|").replace("\n", "|")
        return plain_letters(phrases).replace("'", "")
