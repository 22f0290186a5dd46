"""A release that does not parse."""


async def app(scope, receive, send)
    pass
