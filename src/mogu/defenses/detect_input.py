"""A classifier of requests in front of the base."""

from collections.abc import Sequence
from typing import get_args

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from mogu.chat import Conversation
from mogu.corpus import corpus_requests
from mogu.data.requests import Label
from mogu.defenses.base import Answer, Defense, Host, Progress, Talk
from mogu.defenses.decision import decide

THRESHOLD = 0.5


class DetectInput(Defense):
    """Rejects what a classifier of the last user turn takes for malicious; the base answers the rest.

    The MoGU paper's Detect_inp (section 4), here with a logistic regression on n-grams of characters and words. It is
    fitted to all requests of the corpus's training split. That takes seconds, so nothing is stored.
    """

    paper = "Detect_inp baseline of MoGU, Du et al. 2024, arXiv 2405.14488"
    trained = True

    def __init__(self, host: Host, argument: str = "") -> None:
        super().__init__(host, argument)
        self._classifier: Pipeline | None = None

    def prepare(self, progress: Progress) -> None:
        """Fit the classifier, unless it is."""
        if self._classifier is None:
            self._classifier = fit_classifier(self.host.seed)
        progress(1, 1)

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """The fixed refusal to what is rejected; scores are the classifier's probabilities."""
        assert self._classifier is not None, "prepare() comes first"
        texts = [last_user_text(talk.messages) for talk in talks]
        scores = self._classifier.predict_proba(texts)[:, 1].tolist() if texts else []
        return decide(self.host, talks, scores, THRESHOLD, max_new_tokens)


def fit_classifier(seed: int) -> Pipeline:
    """A classifier of texts whose class 1 is malicious."""
    requests = [request for label in get_args(Label) for request in corpus_requests(label, "train")]
    classifier = make_pipeline(
        make_union(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), min_df=2, sublinear_tf=True),
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        ),
        LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=seed),
    )
    return classifier.fit(
        [request.text for request in requests], [request.label == "malicious" for request in requests]
    )


def last_user_text(messages: Conversation) -> str:
    """What the user said last; the last turn where no turn is a user's."""
    said = [message["content"] for message in messages if message["role"] == "user"]
    return said[-1] if said else messages[-1]["content"]
