"""What a JSON file must hold: pydantic models, and sentences that name the file and the key.

Models check content and change none of it: files keep keys that a model does not know.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.file_names import NAME_FAULT
from sam3d_nnunet.io import brief, short

Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Content(BaseModel):
    """The keys of a file that are read. Others are allowed; values are of the type that they have in the file."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=(), arbitrary_types_allowed=True)


def check_content(content: Any, kind: Any, where: str | Path, hint: str = "") -> None:
    """Refuse what does not fit a model.

    Args:
        content: of a file.
        kind: a subclass of `Content`, or a type of such content.
        where: the file, for errors.
        hint: a sentence for errors that says what to do.

    Raises:
        SAM3DError: names the file, the first key that is wrong, and what is there.
    """
    try:
        _adapter(kind).validate_python(content)
    except RecursionError as e:
        raise SAM3DError(f"{where} holds lists within lists too deep to be read. {hint}".rstrip()) from e
    except ValidationError as e:
        fault = e.errors(include_url=False)[0]
        raise SAM3DError(f"{where}: {_sentence(fault)} {hint}".rstrip()) from e


def fits(content: Any, kind: Any) -> bool:
    """Whether content fits a model."""
    try:
        _adapter(kind).validate_python(content, strict=True)
    except (RecursionError, ValidationError):
        return False
    return True


_adapter = cache(TypeAdapter)


def _sentence(fault: dict[str, Any]) -> str:
    place = ".".join(short(str(part)) for part in fault["loc"] if part != "[key]") or "the content"
    if fault["type"] == "missing":
        return f"{place} is missing."
    found = brief(fault["input"])
    if fault["type"] == NAME_FAULT:
        return f"{place} can't be {found}: the name {fault['ctx']['fault']}."
    reason = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{place} {reason[0].lower()}{reason[1:]}, not {found}."
