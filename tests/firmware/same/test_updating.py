"""Fetching an update, and giving it up at the gateway's word."""

from node.commands import Commands
from node.update import PART
from node.updating import Updating
from tests.firmware.same.test_telemetry import SmallNode

SIZE = 200_000


class FetchingNode(SmallNode):
    """A node that was told of an update."""

    slot = "a"

    def __init__(self):
        super().__init__()
        self.updating = Updating(self)
        self.commands = Commands(self)
        args = {"version": "2.0.0", "size": SIZE, "sha256": "ab" * 32, "security": 1}
        assert self.told("update", args) == ("DONE", "")

    def told(self, kind, args):
        """What a command of the gateway comes to."""
        return self.commands._carry_out({"type": kind, "args": args})

    def fetch(self, chunks):
        """Take the chunks that are wanted."""
        for _ in range(chunks):
            self.updating._asked_s = None
            wish = self.updating.want()
            self.updating.take(wish["offset"].to_bytes(4, "big") + bytes(wish["count"]))


def test_an_update_that_is_stopped_is_given_up_at_once():
    """No wish follows, nothing of it is left, the status has none; another one may begin."""
    node = FetchingNode()
    node.fetch(9)
    assert node.updating.want()["offset"] == 9 * 1_024
    assert PART in node.board.files.contents
    assert node.told("update_stop", {"version": "2.0.0"}) == (
        "DONE",
        "given up at 9216 of 200000 bytes",
    )
    assert not node.updating.active
    assert node.updating.state() is None
    assert node.updating.want() is None
    assert PART not in node.board.files.contents
    # A chunk that was under way changes nothing.
    node.updating.take((9 * 1_024).to_bytes(4, "big") + bytes(1_024))
    assert PART not in node.board.files.contents
    args = {"version": "2.0.1", "size": SIZE, "sha256": "cd" * 32, "security": 1}
    assert node.told("update", args) == ("DONE", "")
    assert node.updating.want() == {"version": "2.0.1", "offset": 0, "count": 1_024}


def test_what_is_not_fetched_any_more_is_not_stopped():
    """Another version goes on, and so does what is complete: it is being installed."""
    node = FetchingNode()
    nothing = ("DONE", "nothing of it is being fetched")
    assert node.told("update_stop", {"version": "1.9.0"}) == nothing
    assert node.updating.want()["version"] == "2.0.0"
    assert node.told("update_stop", {}) == ("BAD_FORM", "version")
    assert node.told("update_stop", {"version": 2}) == ("BAD_FORM", "version")
    node.fetch(-(-SIZE // 1_024))
    assert node.told("update_stop", {"version": "2.0.0"}) == nothing
    assert node.updating.state()["offset"] == SIZE


def test_a_flash_that_refuses_is_told():
    """What could not be removed is asked for on, until it is stopped again."""
    node = FetchingNode()
    node.fetch(1)
    remove = node.board.files.remove

    def refuses(path):
        raise OSError(5)

    node.board.files.remove = refuses
    assert node.told("update_stop", {"version": "2.0.0"})[0] == "STORAGE_FULL"
    node.board.files.remove = remove
    assert node.told("update_stop", {"version": "2.0.0"})[0] == "DONE"
    assert not node.updating.active
