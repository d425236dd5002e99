"""This module makes the body of an answer that tells of an error, for people or programs."""

import json
import uuid


def error_body(message: str, *, is_json: bool) -> tuple[bytes, dict[str, str]]:
    """Make the body of an error and its headers.

    Clients of the rewrite refuse a JSON error that has no `request_id`.
    """
    if is_json:
        name = str(uuid.uuid4())
        body = json.dumps({"message": message, "request_id": name}).encode()
        return body, {"Content-Type": "application/json", "X-Request-Id": name}
    # A message may quote half a character out of a request.
    body = message.encode(errors="backslashreplace")
    return body, {"Content-Type": "text/plain; charset=utf-8"}
