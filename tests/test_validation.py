"""What is told of a wrong document: the place, what would be right, and what is there, in plain words and few."""

import re
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from bitq.validation import told


class Memory(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=8)]
    capacity_bytes: Annotated[float, Field(gt=0, lt=1e30, allow_inf_nan=False)] | None = None
    ports: Annotated[int, Field(ge=1, le=4)] = 1
    kind: Literal["SRAM", "DRAM"] = "SRAM"
    shared: bool = False

    @model_validator(mode="after")
    def _fits(self):
        if self.name == "odd":
            raise ValueError("nothing is called odd")
        return self


class Machine(BaseModel):
    memories: Annotated[tuple[Memory, ...], Field(min_length=1, max_length=3)]
    widths: dict[str, int] = {}


def said(document: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Machine.model_validate_json(document) if isinstance(document, str) else Machine.model_validate(document)
    return told(caught.value)


def memory(**changes: Any) -> dict[str, Any]:
    return {"memories": [{"name": "SRAM", **changes}]}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (memory(capacity_bytes="abc"), "memories.0.capacity_bytes must be a number, not 'abc'"),
        (memory(capacity_bytes=-1), "memories.0.capacity_bytes must be a number above 0, not -1"),
        (memory(capacity_bytes=1e31), "memories.0.capacity_bytes must be a number below 1e+30, not 1e+31"),
        (memory(capacity_bytes=float("inf")), "memories.0.capacity_bytes must be a finite number, not inf"),
        (memory(capacity_bytes={}), "memories.0.capacity_bytes must be a number, not named entries"),
        (memory(ports=1.5), "memories.0.ports must be a whole number, not 1.5"),
        (memory(ports="two"), "memories.0.ports must be a whole number, not 'two'"),
        (memory(ports=[2]), "memories.0.ports must be a whole number, not a list"),
        (memory(ports=0), "memories.0.ports must be a number of at least 1, not 0"),
        (memory(ports=5), "memories.0.ports must be a number of at most 4, not 5"),
        (memory(ports=10**5000), "memories.0.ports must be a number of at most 4, not a number of very many digits"),
        (memory(ports=None), "memories.0.ports must be a whole number, not empty"),
        (memory(name=3), "memories.0.name must be a text, not 3"),
        (memory(name=""), "memories.0.name must be a text of at least 1 character, not ''"),
        (memory(name="x" * 9), "memories.0.name must be a text of at most 8 characters, not 'xxxxxxxxx'"),
        (memory(name="odd"), "memories.0: nothing is called odd"),
        (memory(kind="flash"), "memories.0.kind must be 'SRAM' or 'DRAM', not 'flash'"),
        (memory(shared="maybe"), "memories.0.shared must be true or false, not 'maybe'"),
        (memory(colour="red"), "memories.0.colour is an entry that is not known; leave it out"),
        ({"memories": [{}]}, "memories.0.name is missing"),
        ({"memories": [3]}, "memories.0 must be named entries, not 3"),
        ({"memories": {}}, "memories must be a list, not named entries"),
        ({"memories": []}, "memories must have at least 1 entry, not 0"),
        ({"memories": [{"name": "a"}] * 4}, "memories must have at most 3 entries, not 4"),
        ({**memory(), "widths": {"a": "b"}}, "widths.a must be a whole number, not 'b'"),
        ({**memory(), "widths": 3}, "widths must be named entries, not 3"),
        ([], "it must be named entries, not a list"),
        ("{", "it is not JSON at line 1, column 1"),
        ("", "it is not JSON at line 1, column 0"),
    ],
)
def test_the_first_mistake_is_told(document, sentence):
    assert said(document) == sentence


def test_little_of_the_document_is_repeated():
    assert len(said(memory(capacity_bytes="x" * 10**6))) < 200
    assert len(said({**memory(), "widths": {"k" * 10**6: "b"}})) < 200
    assert len(said(memory(name="y" * 10**6))) < 200


JARGON = re.compile(r"Input should|Extra inputs|valid |pydantic|instance of|Traceback|object at", re.IGNORECASE)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KINDS = (str, int, float, bool, list[int], tuple[int, int], dict[str, int], Literal[1, "a"], Memory, None, int | str)


@given(st.sampled_from(KINDS), VALUES)
def test_no_word_of_a_library_is_said(kind, value):
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        sentence = told(error)
        assert not JARGON.search(sentence.replace(repr(value), ""))
        assert len(sentence) < 400
