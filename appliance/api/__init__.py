"""The HTTP API: routes, and errors as HTTP knows them."""
