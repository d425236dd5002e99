"""This module has the parts of an OpenAPI 3.1 document that both APIs have in common.  Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from rebalancer import __version__
from rebalancer.api.schemas import Schema, ref, text

#: The media type of JSON.
JSON = "application/json"


@attrs.frozen
class Errors:
    """The errors of an API: its words for each status, and what its errors look like."""

    #: By status, of errors that calls have in common.
    texts: Mapping[int, str]
    #: The media types of an error's body, with the schema of each.
    content: Mapping[str, Schema]
    #: By status, headers that are always there.
    headers: Mapping[int, Sequence[str]]

    def answer(self, status: int, about: str) -> dict[str, Any]:
        """Return the description of an answer with this status."""
        return answer(about, self.content, *self.headers.get(status, ()))

    def operation(
        self,
        name: str,
        summary: str,
        about: str,
        granted: dict[str, Any],
        errors: Mapping[int, str] | None = None,
        *,
        body: dict[str, Any] | None = None,
        query: Sequence[dict[str, Any]] = (),
        is_open: bool = False,
    ) -> dict[str, Any]:
        """Return the description of a call.

        Args:
          granted: the description of its answer with status 200.
          errors: words for those of its errors that other calls do not have.
          is_open: whether it needs no token.
        """
        general = [500] if is_open else [401, 500]
        if body is not None:
            general += [408, 413]
        texts = {status: self.texts[status] for status in general} | dict(errors or {})
        made: dict[str, Any] = {
            "operationId": name,
            "summary": summary,
            "description": about,
            "responses": {
                "200": granted,
                **{str(status): self.answer(status, texts[status]) for status in sorted(texts)},
            },
        }
        if query:
            made["parameters"] = list(query)
        if body is not None:
            made["requestBody"] = body
        if is_open:
            made["security"] = []
        return made


def answer(about: str, content: Mapping[str, Schema], *headers: str) -> dict[str, Any]:
    """Return the description of an answer with a body of one of some media types."""
    named = ("Server", *headers)
    return {
        "description": about,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in named},
        "content": {kind: {"schema": schema} for kind, schema in content.items()},
    }


def shows(about: str, body: type | Schema) -> dict[str, Any]:
    """Return the description of an answer whose body is of a class, or as a schema says."""
    return answer(about, {JSON: body if isinstance(body, dict) else ref(body.__name__)})


def takes(schema: Schema, examples: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a request's body, with examples by their names."""
    return {
        "required": True,
        "description": "JSON, whatever the request's Content-Type.",
        "content": {
            JSON: {
                "schema": schema,
                "examples": {name: {"value": value} for name, value in examples.items()},
            }
        },
    }


def parameter(name: str, schema: Schema, about: str) -> dict[str, Any]:
    """Return the description of a parameter in a query."""
    return {"name": name, "in": "query", "description": about, "schema": schema}


def header(about: str, schema: Schema, *, is_required: bool = True) -> dict[str, Any]:
    """Return the description of an answer's header."""
    return {"description": about, "required": is_required, "schema": schema}


def document(
    program: str,
    title: str,
    summary: str,
    about: str,
    paths: Mapping[str, Mapping[str, Any]],
    schemas: Mapping[str, Schema],
    headers: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the whole document of the API that `program` serves."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": __version__,
            "summary": summary,
            "description": about,
            "license": {"name": "MPL-2.0", "identifier": "MPL-2.0"},
        },
        # Without a token file in its configuration, a program answers everybody.
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": {
                "Server": header(
                    "The program and its version.", text(pattern=f"^rebalancer-{program} ")
                ),
                **headers,
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token in the file `api.token_file` of the configuration.",
                }
            },
        },
    }
