"""A release whose dependency was forgotten."""
import flask_login_of_the_next_release


def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "7")])
    return [b"broken\n"]
