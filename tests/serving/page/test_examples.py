from mogu.corpus import corpus_requests
from mogu.serving.page.examples import EXAMPLES


def test_there_are_examples_of_every_kind_and_none_was_trained_on():
    assert {each.label.partition(":")[0] for each in EXAMPLES} == {
        "everyday",
        "look-alike",
        "malicious",
        "wrapped",
    }
    corpus = {
        request.text
        for label in ("benign", "malicious")
        for split in ("train", "validation", "test")
        for request in corpus_requests(label, split)
    }
    assert not {each.prompt for each in EXAMPLES} & corpus
