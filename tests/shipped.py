"""The schemas that are shipped, and the documents that they have to allow."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

import jsonschema


def valid(document: object, name: str) -> object:
    """The document, once schema/NAME.json has allowed it; else jsonschema.ValidationError."""
    _validator(name).validate(document)
    return document


@cache
def _validator(name: str) -> jsonschema.protocols.Validator:
    """Made once: looking whether the schema is one takes longer than most documents."""
    schema = json.loads((resources.files("prtrace") / "schema" / f"{name}.json").read_text())
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)
