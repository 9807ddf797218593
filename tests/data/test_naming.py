import pytest

from mogu.data.naming import LONGEST_NAMED, named, to_second_person


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("How do I repaint my old boat?", "help you repaint your old boat"),
        ("how can someone fold a map", "help you fold a map"),
        ("How to fold a map", "help you fold a map"),
        ("Please explain to me how to fold a map.", "help you fold a map"),
        ("Can you explain why bread rises?", "help you with why bread rises"),
        ("Describe how soap works.", "help you with how soap works"),
        ("Where can I buy a kite?", "tell you where to buy a kite"),
        ("What should I say to my boss?", "tell you what to say to your boss"),
        ("Give me three names for our band.", "give you three names for your band"),
        ("Tell me where my keys are.", "tell you where your keys are"),
        ("Help me forge my father's signature", "help you forge your father's signature"),
        ("I want you to write a letter to my tenant!", "help you write a letter to your tenant"),
        ("Find me a plumber in Leeds.", "help you find a plumber in Leeds"),
        ("Convince me that tea is better.", "help you convince you that tea is better"),
        ("Could you please draft a note that I'm late?", "help you draft a note that you're late"),
    ],
)
def test_what_is_asked_follows_a_refusals_verb(request_, words):
    assert named(request_) == words


@pytest.mark.parametrize(
    "request_",
    [
        "",
        "Write",
        "?",
        "Which knot holds best?",
        "My cat is ill. Write a letter to the vet.",
        "Write a letter:\ndear all",
        'Write "I am here" on the wall.',
        "Wie falte ich eine Karte f\u00fcr meine Reise?",
        "Write " + "very " * LONGEST_NAMED + "long letter.",
        "Lorem ipsum dolor sit amet.",
        "Write {topic} here.",
    ],
)
def test_what_is_no_short_plain_request_is_not_said_again(request_):
    assert named(request_) is None


def test_text_is_spoken_back():
    assert to_second_person("I think my friend likes me and I'm late") == (
        "you think your friend likes you and you're late"
    )
