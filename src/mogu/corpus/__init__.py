"""The starter corpus: requests, wrappers, refusals and openers, written for this project.

No file here holds a harmful instruction: a malicious request stands alone, and what "glad" means for it is an opener
of a few words. Every request and wrapper carries its split: some categories, and within the others some topics, are
in `validation` or `test` only, so that the test split is no paraphrase of the training split.
"""

from mogu.corpus.reader import (
    Category,
    Wrapper,
    corpus_categories,
    corpus_conversations,
    corpus_documents,
    corpus_openers,
    corpus_refusals,
    corpus_requests,
    corpus_systems,
    corpus_wrappers,
)

__all__ = [
    "Category",
    "Wrapper",
    "corpus_categories",
    "corpus_conversations",
    "corpus_documents",
    "corpus_openers",
    "corpus_refusals",
    "corpus_requests",
    "corpus_systems",
    "corpus_wrappers",
]
