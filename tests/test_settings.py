import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mogu.errors import MoguError
from mogu.settings import merge_settings


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(8, ge=1)
    learning_rate: float = 2e-3
    prompt_tokens: int | None = 1
    layers: list[int] = []
    name: str = "plain"

    @model_validator(mode="after")
    def _no_two(self):
        if self.rank == 2:
            raise ValueError("two is a bad rank")
        return self


def message(**given):
    with pytest.raises(MoguError) as caught:
        merge_settings(Recipe(), **given)
    return str(caught.value)


def test_without_anything_given_the_preset_stays():
    assert merge_settings(Recipe(rank=3)) == Recipe(rank=3)


def test_arguments_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('rank = 4\nlearning_rate = 1e-4\nname = "from file"\n')
    merged = merge_settings(Recipe(layers=[7]), file=file, assignments=["rank=5"])
    assert merged == Recipe(rank=5, learning_rate=1e-4, name="from file", layers=[7])


def test_values_are_read_as_their_field_asks():
    given = ["rank=16", "learning_rate=5e-5", "prompt_tokens=none", "layers=[1, 2]", "name=8"]
    merged = merge_settings(Recipe(), assignments=given)
    assert merged == Recipe(rank=16, learning_rate=5e-5, prompt_tokens=None, layers=[1, 2], name="8")


def test_none_is_a_text_where_a_value_is_needed():
    assert merge_settings(Recipe(), assignments=["name=none"]).name == "none"
    assert "'rank' is 'none'" in message(assignments=["rank=none"])


def test_a_value_may_hold_an_equals_sign_and_blanks_around_it():
    assert merge_settings(Recipe(), assignments=["name = a=b "]).name == "a=b"


def test_no_value_in_a_file(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('prompt_tokens = "none"\n')
    assert merge_settings(Recipe(), file=file).prompt_tokens is None


def test_all_mistakes_are_reported_at_once(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('rnak = 4\nlearning_rate = "fast"\n')
    text = message(file=file, assignments=["rank=0", "rank", "colour=blue", "layers=[1,"])
    lines = text.split("\n  ")
    assert lines[0] == "6 mistakes in the settings:"
    assert f"{file}: there is no setting 'rnak'; did you mean 'rank'?" in lines
    assert "'rank' is no setting; write key=value" in lines
    assert "'rank=0': 'rank' is '0': should be greater than or equal to 1" in lines
    assert any(
        line.startswith(f"{file}: 'learning_rate' is 'fast': should be a valid number") for line in lines
    )
    assert any(
        line.startswith("'colour=blue': there is no setting 'colour'; there are: rank,") for line in lines
    )
    assert any(line.startswith("'layers=[1,': 'layers' is '[1,': should be a valid list") for line in lines)


def test_a_mistake_of_the_whole_is_reported_without_a_key():
    assert message(assignments=["rank=2"]) == "1 mistake in the settings:\n  two is a bad rank"


def test_a_file_that_cannot_be_read(tmp_path):
    assert "absent.toml: cannot be read (No such file" in message(file=tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("rank 8")
    assert "broken.toml: not TOML (" in message(file=broken)
