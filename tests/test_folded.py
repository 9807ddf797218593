from mogu.chat import folded
from tests.defenses.talks import assistant, system, user


def test_other_roles_are_the_users_and_neighbours_are_one_turn():
    tool = {"role": "tool", "content": "12 degrees"}
    talk = [system("Be brief."), user("Hello"), assistant("Hi."), assistant("Yes?"), user("Warm?"), tool]
    assert folded(talk) == [
        user("Be brief.\n\nHello"),
        assistant("Hi.\n\nYes?"),
        user("Warm?\n\n12 degrees"),
    ]


def test_turns_of_user_and_assistant_stay_as_they_are():
    talk = [user("Hello"), assistant("Hi."), user("Bye")]
    assert folded(talk) == talk
    assert folded([]) == []
