"""What is around the data of a v2 request in JSON, typed. A member that is null isn't there."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from serving.core.errors import BadRequest

Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Part(BaseModel):
    """Members that aren't known are ignored, as the protocol has it; 1 is no text and true no 1."""

    model_config = ConfigDict(strict=True, frozen=True)


class InputParameters(_Part):
    binary_data_size: Count | None = None
    shared_memory_region: Any = None


class Input(_Part):
    """`placed`: see `json_data`; the data themselves have been taken out."""

    name: str
    datatype: str
    shape: Annotated[list[Count], Field(max_length=8)]
    parameters: InputParameters | None = None
    placed: Annotated[list[int], Field(min_length=1, max_length=1)] | None = Field(
        None, alias="data"
    )

    @property
    def data(self) -> int | None:
        """The place of its data among all that were taken out."""
        return None if self.placed is None else self.placed[0]


class OutputParameters(_Part):
    binary_data: bool | None = None
    classification: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    target: str | None = None
    shared_memory_region: Any = None


class Output(_Part):
    name: str
    parameters: OutputParameters | None = None


class RequestParameters(_Part):
    binary_data_output: bool | None = None


class Header(_Part):
    id: str | None = None
    inputs: list[Input]
    outputs: list[Output] | None = None
    parameters: RequestParameters | None = None


_MUST_BE = {
    "bool_type": "true or false",
    "dict_type": "a JSON object",
    "greater_than_equal": "a whole number, 0 or more",
    "int_type": "a whole number",
    "less_than": "a whole number below 2^63",
    "list_type": "a list",
    "model_type": "a JSON object",
    "string_type": "a string",
    "too_long": "a list of a few whole numbers",
}


def parse_header(text: bytes) -> Header:
    """Parse a small JSON text.

    Raises:
        BadRequest: it is not JSON, or a member isn't of its type.
    """
    try:
        return Header.model_validate_json(text)
    except ValidationError as error:
        raise BadRequest(_told(error.errors(include_url=False)[0])) from None


def _told(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind == "json_invalid":
        return "the body is not JSON (or its header length is wrong)"
    if not error["loc"]:
        return "the body must be a JSON object"
    where = "'" + ".".join(map(str, error["loc"])) + "'"
    if kind == "missing":
        return f"{where} is missing"
    told = _MUST_BE.get(kind, "of another form: " + error["msg"])
    return f"{where} is {str(error['input'])[:50]}, it must be {told}"
