"""`GET /openapi.json`, made from the very tables the routes are registered from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from synaxis_common.contracts.admin import ADMIN_ROUTES, AdminBody
from synaxis_gateway.http.admin import PREFIX
from synaxis_gateway.http.routes import Policy, Route

_PLACE = re.compile(r"\{(\w+)(?::[^}]*)?\}")
_SECURITY: dict[Policy, list[dict[str, list[str]]]] = {
    Policy.PUBLIC: [],
    Policy.TENANT: [{"tenantKey": []}],
    Policy.ADMIN: [{"adminKey": []}],
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The OpenAPI description of `routes`."""
    bodies = {(line.method, PREFIX + line.path): line.body for line in ADMIN_ROUTES if line.body is not None}
    schemas: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "security": _SECURITY[route.policy],
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in _PLACE.findall(route.path)
            ],
            "responses": {
                "2XX": {"description": "The answer"},
                "default": {
                    "description": "An error in OpenAI's shape",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            },
        }
        kind = bodies.get((route.method, route.path))
        schema = _schema(kind, schemas) if kind is not None else {"type": "object"}
        if kind is not None or (route.method == "POST" and route.policy is Policy.TENANT):
            operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        paths.setdefault(_PLACE.sub(r"{\1}", route.path), {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Synaxis", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Error": _ERROR},
            "securitySchemes": {
                "tenantKey": {"type": "http", "scheme": "bearer", "description": "A tenant's key"},
                "adminKey": {"type": "http", "scheme": "bearer", "description": "The admin key"},
            },
        },
    }


def _schema(kind: type[AdminBody], schemas: dict[str, Any]) -> dict[str, str]:
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[kind.__name__] = schema
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
