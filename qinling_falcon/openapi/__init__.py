"""The API document: what the routes, their operations and the schemas say, as OpenAPI 3.1."""
