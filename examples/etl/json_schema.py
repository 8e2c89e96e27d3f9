"""The part of JSON Schema that the schemas of iso-codes use."""

import re
from collections.abc import Iterator
from typing import Any

JSON_TYPES: dict[str, type] = {"object": dict, "array": list, "string": str}


def violations(value: Any, schema: dict[str, Any], path: str = "$") -> Iterator[str]:
    """Every place where a value breaks its schema, as a sentence."""
    expected = schema.get("type")
    if expected and not isinstance(value, JSON_TYPES[expected]):
        yield f"{path} is not of type {expected}"
    elif isinstance(value, dict):
        yield from _object_violations(value, schema, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from violations(item, schema.get("items", {}), f"{path}[{index}]")
    elif isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            yield f"{path} is too short"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{path} is {value!r}, which does not match {schema['pattern']}"


def _object_violations(value: dict[str, Any], schema: dict[str, Any], path: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{path} has no {name}"
    for name, item in value.items():
        if name in properties:
            yield from violations(item, properties[name], f"{path}.{name}")
        elif schema.get("additionalProperties") is False:
            yield f"{path} has an unknown property {name}"
