"""Results as JSON: a schema with a version, then the values as they are."""

from __future__ import annotations

from typing import Any

import click
import msgspec


def show(schema: str, values: Any) -> None:
    """Print an object: `schema`, and the fields of `values` (a struct or a dictionary)."""
    fields = {"schema": schema, **msgspec.to_builtins(values)}
    click.echo(msgspec.json.format(msgspec.json.encode(fields), indent=2).decode())
