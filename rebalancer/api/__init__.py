"""This package has the bodies of both HTTP APIs as classes, and describes them by OpenAPI.

A body is an attrs class whose fields say what they hold.  The server makes its answers of these
classes, `adm` reads answers with them, and the JSON Schemas of the API are generated from them.
"""
