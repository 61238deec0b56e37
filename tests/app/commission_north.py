"""A north of hand-made answers before a simulated meter: what may go wrong between two requests."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Final

from gateway.app.paths import paths_of
from gateway.sim.registers import OUTPUTS
from tests.app.commission_site import CommissionSite

REFUSED: Final = 409
AWAY: Final = 503


@dataclass
class StrictNorth:
    """One enforced point in arm mode, its requests carried out in the order of their arrival.

    `arrives_late_s` is how long a disconnection is on its way before it is kept, `lost_answers`
    how many requests (by action) are carried out and answered 503, `credit_ends` says that the
    credit runs out while the supply is open, `somebody_else` that a person switches it off then;
    not `is_enforced`: control leaves the point alone.
    """

    site: CommissionSite
    arrives_late_s: float = 0.0
    lost_answers: dict[str, int] = field(default_factory=dict)
    credit_ends: bool = False
    somebody_else: bool = False
    is_enforced: bool = True
    owners: list[str] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)
    state: str = "connected"
    asked: list[str] = field(default_factory=list)
    _alone: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, body: dict[str, str]) -> tuple[int, dict[str, object]]:
        """Status and body of one call."""
        if method == "GET":
            supply = {"control_state": self.state, "block_reasons": sorted(self.reasons)}
            state = "verified" if self.state == "connected" else "queued"
            told = {"id": "c", "state": state, "verified_by": ["output"]}
            return 200, {"commissioned": True, "supply": supply, **told}
        action = body["action"]
        if action == "disconnect":
            time.sleep(self.arrives_late_s)
        with self._alone:
            self.asked.append(action)
            self.owners.append(body.get("owner", ""))
            if (code := self._carry_out(action)) is not None:
                return REFUSED, {"code": code, "detail": code}
            if self.lost_answers.get(action, 0) > 0:
                self.lost_answers[action] -= 1
                return AWAY, {"code": "CONTROL_AWAY", "detail": "no answer"}
        return 202, {"id": "c", "state": "queued"}

    def _carry_out(self, action: str) -> str | None:
        if not self.is_enforced:
            return "NOT_ENFORCED"
        if action == "disconnect":
            self.reasons |= {"MANUAL", "CREDIT"} if self.credit_ends else {"MANUAL"}
            self.state = "disconnected"
            self._switch(on=False)
        elif action == "reconnect":
            if "MANUAL" not in self.reasons:
                return "NOT_DISCONNECTED"
            if not self.somebody_else:
                self.reasons.discard("MANUAL")
            self.state = "disconnected" if self.reasons else "ready_for_reconnection"
        elif self.state != "ready_for_reconnection":
            return "NOTHING_TO_CONFIRM"
        else:
            self.state = "connected"
            self._switch(on=True)
        return None

    def _switch(self, *, on: bool) -> None:
        meter = self.site.customer(0).meter
        self.loop.call_soon_threadsafe(
            lambda: meter.switch(self.site.site.now_s(), OUTPUTS[0], on=on)
        )

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    north: StrictNorth


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _answer(self, body: dict[str, str]) -> None:
        status, told = self.server.north.answer(self.command, body)
        content = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(north: StrictNorth) -> Iterator[StrictNorth]:
    """Answer on the site's socket."""
    path: Path = paths_of(north.site.config).socket
    path.parent.mkdir(parents=True)
    with _Server(str(path), _Handler) as server:
        server.north = north
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield north
        finally:
            server.shutdown()
            thread.join()
