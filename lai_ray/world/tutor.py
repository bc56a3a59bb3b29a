"""The built-in tutor: an OpenAI-compatible chat server made of rules, not of a model.  HTTP -> rules -> HTTP

    python -m lai_ray.world.tutor --port 8011 [--host 127.0.0.1] [--log FILE] [--latency SECONDS]

    with tutor.serve() as base_url: ...      # in this process; in a job file: base_url = "lai_ray.world.tutor:serve"

It uses `seed` and `max_tokens` (cut off with finish_reason "length"), supports n = 1 only, and ignores temperature.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TextIO
from urllib.request import urlopen

from lai_ray.world import rules

MODEL = "lai-tutor-rules"
FINGERPRINT = "lai-tutor-rules-1 (hand-written rules, no language model)"
LARGEST_BODY = 8 * 1024 * 1024
_TOKEN = re.compile(r"\w+|[^\w\s]")


class RefusedError(Exception):
    """A request that is answered with an error in OpenAI's format."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def complete(request: Any) -> dict[str, Any]:
    """One chat completion. Raises RefusedError for what OpenAI would refuse and what the rules do not support."""
    messages = _checked_messages(request)
    seed, limit = request.get("seed"), request.get("max_completion_tokens") or request.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise RefusedError(400, f"max_tokens must be a whole number above 0, not {limit!r}.", param="max_tokens")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise RefusedError(400, f"seed must be a whole number, not {seed!r}.", param="seed")
    text, reason = _cut(rules.reply(messages, seed), limit)
    prompt, completion = sum(_tokens(rules.text_of(message)) for message in messages), _tokens(text)
    return {
        "id": "chatcmpl-" + _digest(json.dumps(request, sort_keys=True).encode("utf-8", "surrogatepass"))[:24],
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "system_fingerprint": FINGERPRINT,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
    }


def _checked_messages(request: Any) -> list[dict[str, Any]]:
    if not isinstance(request, dict):
        raise RefusedError(400, "The body must be a JSON object.")
    if request.get("n") not in (None, 1):
        raise RefusedError(
            400, "This tutor gives one choice a request: n must be 1. Send several seeds instead.", param="n"
        )
    if request.get("stream"):
        raise RefusedError(400, "This tutor does not stream: leave stream out.", param="stream")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RefusedError(400, "messages must be a list with at least one message.", param="messages")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise RefusedError(400, "Every message must be an object with a role and a content.", param="messages")
    return messages


def _tokens(text: str) -> int:
    """The tutor's own count: each word, number or sign is a token."""
    return sum(1 for _ in _TOKEN.finditer(text))


def _cut(text: str, limit: int | None) -> tuple[str, str]:
    """The text within the limit, and the finish reason."""
    if limit is not None:
        for count, match in enumerate(_TOKEN.finditer(text)):
            if count == limit:
                return text[: match.start()].rstrip(), "length"
    return text, "stop"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], *, log: TextIO | None, latency: float) -> None:
        super().__init__(address, _Handler)
        self.log, self.latency, self.lock = log, latency, threading.Lock()

    def record(self, entry: dict[str, Any]) -> None:
        """One line of the access log, written before the reply is sent: every reply received has been logged."""
        if self.log is not None:
            with self.lock:
                self.log.write(json.dumps(entry) + "\n")
                self.log.flush()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up; print other errors as usual."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # Headers and body in one packet.

    def do_GET(self) -> None:
        path = self.path.split("?")[0].rstrip("/")
        known = {"id": MODEL, "object": "model", "created": 0, "owned_by": "lai-ray"}
        if path == "/v1/models":
            self._send(200, {"object": "list", "data": [known]})
        elif path == f"/v1/models/{MODEL}":
            self._send(200, known)
        else:
            self._refuse(
                RefusedError(
                    404, f"Nothing at GET {self.path}. There are GET /v1/models and POST /v1/chat/completions."
                )
            )

    def do_POST(self) -> None:
        started = time.time()
        try:
            body = self._body()
        except RefusedError as refused:
            self.close_connection = True
            return self._refuse(refused)
        entry = {"time": round(started, 3), "path": self.path, "sha256": _digest(body)}
        try:
            answer = self._completion(body)
        except RefusedError as refused:
            self.server.record(entry | {"status": refused.status, "error": refused.message})
            return self._refuse(refused)
        if self.server.latency:
            time.sleep(self.server.latency)
        choice = answer["choices"][0]
        entry |= {"status": 200, "finish_reason": choice["finish_reason"], **answer["usage"]}
        self.server.record(entry | {"reply_sha256": _digest(choice["message"]["content"].encode())})
        self._send(200, answer)
        return None

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise RefusedError(411, "Send a Content-Length.")
        if int(length) > LARGEST_BODY:
            raise RefusedError(413, f"The body is larger than {LARGEST_BODY} bytes.")
        return self.rfile.read(int(length))

    def _completion(self, body: bytes) -> dict[str, Any]:
        if self.path.split("?")[0].rstrip("/") != "/v1/chat/completions":
            raise RefusedError(404, f"Nothing at POST {self.path}. There is POST /v1/chat/completions.")
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, f"The body is not JSON: {error}") from error
        return complete(request)

    def _refuse(self, refused: RefusedError) -> None:
        self._send(refused.status, refused.body())

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: `--log` is the access log."""


@contextmanager
def serve(
    log: str | Path | None = None, *, host: str = "127.0.0.1", port: int = 0, latency: float = 0.0
) -> Iterator[str]:
    """Serve in a daemon thread of this process. Yields the base URL, "http://127.0.0.1:<free port>/v1".

    log: a file that gets a JSON line per request (appended).  port: 0 for a free one.  latency: seconds before a reply.
    Raises OSError when the port is taken.
    """
    with open(log, "a", encoding="utf-8") if log is not None else nullcontext() as stream:
        server = _Server((host, port), log=stream, latency=latency)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
            with server.lock:
                server.log = None  # A request still running must not write to a closed file.


def main(argv: Sequence[str] | None = None) -> int:
    """Run until interrupted. Returns the exit code: 2 when the port is not available."""
    parser = argparse.ArgumentParser(
        prog="python -m lai_ray.world.tutor", description="The rule-based tutor of lai-ray."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8011, help="port to listen on; 0 for a free one")
    parser.add_argument("--log", type=Path, help="append one JSON line a request to this file")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds to wait before every reply")
    given = parser.parse_args(argv)
    try:
        with serve(given.log, host=given.host, port=given.port, latency=given.latency) as base_url:
            print(f"{MODEL} at {base_url} (rules, not a language model). Ctrl-C stops it.", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        print(_why(error, given.host, given.port), file=sys.stderr)
        return 2
    return 0


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"The tutor cannot start at {host}:{port}: {error}"
    there = "another lai-ray tutor" if _is_tutor(host, port) else "another program"
    return (
        f"Port {port} on {host} is in use by {there}. Use that one, stop it, or choose another port: "
        f"--port {port + 1}, or --port 0 for any free one."
    )


def _is_tutor(host: str, port: int) -> bool:
    try:
        with urlopen(f"http://{host}:{port}/v1/models", timeout=2) as response:
            return MODEL in response.read(4096).decode(errors="replace")
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(main())
