"""Sessions for Starlette and FastAPI.

    from sessiond.starlette import SessionMiddleware, get_session

    app = FastAPI()
    app.add_middleware(SessionMiddleware, client="127.0.0.1:50051")

    @app.post("/login")
    async def login(session: Annotated[RequestSession, Depends(get_session)]): ...

`request.session` is the session's data, as with Starlette's own middleware.
"""

# No `from __future__ import annotations`: FastAPI reads the annotation of get_session.

from starlette.requests import HTTPConnection

from .asgi import KEY, SessionMiddleware
from .session import AsyncRequestSession as RequestSession

__all__ = ["RequestSession", "SessionMiddleware", "get_session"]


async def get_session(connection: HTTPConnection) -> RequestSession:
    """The session of a request or websocket: `update`, `login`, `logout` and the rest.
    A dependency for FastAPI; elsewhere `await get_session(request)`."""
    session = connection.scope.get(KEY)
    if not isinstance(session, RequestSession):
        raise RuntimeError("SessionMiddleware of sessiond.starlette is not installed")
    return session
