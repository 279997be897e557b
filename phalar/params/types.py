"""What every section of params.yaml is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Workers = Literal["auto"] | Positive
Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class Strict(BaseModel):
    """A section: unknown keys and values of another type are refused, and there are no defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
