"""The shops. A new one is one line: its folder below `examples/`, and the client package that it is
built from."""

SHOPS = {
    "express": "node",
    "fastify": "node",
    "hyper-express": "node",
    "hono": "node",
    "django": "python",
    "flask": "python",
    "fastapi": "python",
    "go-net-http": "go",
    "gin": "go",
    "axum": "rust",
    "java-servlet": "java",
    "spring-boot": "java",
}

# One of each, for the test of one login over all.
LANGUAGES = ("express", "fastapi", "go-net-http", "spring-boot", "axum")
