"""What an update refuses: forged, altered, foreign, older, cut short, too much; the slot stays."""

import asyncio
import hashlib
import json
import zlib
from typing import Any, Final, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa as rsa_keys
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.app.firmware import bundle as host_bundle
from gateway.app.firmware.bundle import Release, pack, read_bundle, sign
from gateway.app.firmware.signing import EXPONENT, SigningKey
from gateway.core.errors import RefusedError
from node import bundle as node_bundle
from node import rsa
from node.update import PART, Trial, Update, UpdateError
from tests.firmware.device import Board
from tests.firmware.node_life import new_device, prove
from tests.firmware.releases import HARDWARE, bundle, key, modules_of, public_keys

GOOD: Final = bundle("2", 2)
HEAD: Final = len(GOOD.signed_part)


def offered(board: Board, raw: bytes, *, security: int = 2) -> str:
    """Fetch these bytes, whatever they are, and install: the code of the refusal, or `ok`."""
    update = Update(board, "a", public_keys())
    try:
        update.begin("2", len(raw), hashlib.sha256(raw).hexdigest(), security)
        while (want := update.want()) is not None:
            offset, count = want
            assert update.take(offset, raw[offset : offset + count])
        asyncio.run(update.install())
    except UpdateError as error:
        return str(error.code)
    return "ok"


def untouched(board: Board) -> bool:
    """Whether the old version would start, off trial, and nothing of the bundle was kept."""
    content = board.files.content()
    return content["/slot"] == b"a" and not {"/trial", PART, "/slot_b/manifest"} & set(content)


def resigned(raw: bytes, **changes: Any) -> bytes:
    """A bundle with another header or payload, signed with the real key: a signer's mistake."""
    length = int.from_bytes(raw[4:8], "big")
    fields = json.loads(raw[8 : 8 + length])
    payload = changes.pop("payload", raw[8 + length + 384 :])
    fields |= {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest(), **changes}
    header = json.dumps(fields).encode()
    head = raw[:4] + len(header).to_bytes(4, "big") + header
    return bytes(head + key("current").sign(head) + payload)


def packed(*contents: bytes, window: int = 12) -> bytes:
    """A payload of these files."""
    stream = zlib.compressobj(9, zlib.DEFLATED, window)
    return stream.compress(b"".join(contents)) + stream.flush()


def described(**files: bytes) -> list[list[object]]:
    """The header's list of files; `__` in a name stands for a dot."""
    return [[n, len(text), hashlib.sha256(text).hexdigest()] for n, text in files.items()]


@pytest.fixture
def board() -> Board:
    """A node with version 1 in slot a that has proved security counter 1."""
    device = new_device()
    Trial(device.board, "a")
    return device.board


@pytest.mark.parametrize("signer", ["current", "next"])
def test_a_release_signed_with_either_key_is_taken(board: Board, signer: str) -> None:
    """The present key and the next one; this is the good case that the others depart from."""
    assert offered(board, bundle("2", 2, signer).raw) == "ok"
    assert board.files.content()["/slot"] == b"b"


def test_a_stranger_cannot_sign(board: Board) -> None:
    """A well-formed signature of another key."""
    stranger = SigningKey(rsa_keys.generate_private_key(public_exponent=EXPONENT, key_size=3072))
    raw = GOOD.signed_part + stranger.sign(GOOD.signed_part) + GOOD.raw[HEAD + 384 :]
    assert offered(board, raw) == "UPDATE_SIGNATURE"
    assert untouched(board)


def test_another_release_than_the_one_announced_is_refused(board: Board) -> None:
    """Signed and of no lower counter, but not what the sealed command named: sent by the broker."""
    sent = bundle("1", 2).raw
    update = Update(board, "a", public_keys())
    update.begin("2", len(sent), GOOD.sha256, 2)
    while (want := update.want()) is not None:
        assert update.take(want[0], sent[want[0] : want[0] + want[1]])
    with pytest.raises(UpdateError, match="UPDATE_DAMAGED"):
        asyncio.run(update.install())
    assert untouched(board)


def test_a_node_without_keys_takes_nothing(board: Board) -> None:
    """The package as it stands in the repository carries no key."""
    from node.keys import KEYS

    update = Update(board, "a", KEYS)
    update.begin("2", len(GOOD.raw), GOOD.sha256, 2)
    while (want := update.want()) is not None:
        update.take(want[0], GOOD.raw[want[0] : want[0] + want[1]])
    with pytest.raises(UpdateError, match="UPDATE_SIGNATURE"):
        asyncio.run(update.install())


@settings(max_examples=80, deadline=None)
@given(bits=st.sets(st.integers(0, len(GOOD.raw) * 8 - 1), min_size=1, max_size=4))
def test_flipped_bits_anywhere_are_refused(bits: set[int]) -> None:
    """One to four bits, in head, signature or payload."""
    raw = bytearray(GOOD.raw)
    for bit in bits:
        raw[bit // 8] ^= 1 << bit % 8
    board = new_device().board
    assert offered(board, bytes(raw)) in {"UPDATE_FORM", "UPDATE_SIGNATURE", "UPDATE_DAMAGED"}
    assert untouched(board)


@settings(max_examples=30, deadline=None)
@given(kept=st.integers(0, len(GOOD.raw) - 1), more=st.binary(max_size=3))
def test_a_bundle_of_another_length_is_refused(kept: int, more: bytes) -> None:
    """Cut short anywhere, or with something behind it."""
    board = new_device().board
    for raw in (GOOD.raw[:kept], GOOD.raw + b"x" + more):
        code = offered(board, raw)
        assert code in {"UPDATE_FORM", "UPDATE_SIZE", "UPDATE_SIGNATURE", "UPDATE_DAMAGED"}
        assert untouched(board)


@settings(max_examples=30, deadline=None)
@given(raw=st.binary(max_size=2000).map(lambda tail: b"PGN1" + tail))
def test_arbitrary_bytes_are_refused(raw: bytes) -> None:
    """Nothing that was not signed gets further than the signature."""
    board = new_device().board
    assert offered(board, raw) in {"UPDATE_FORM", "UPDATE_SIZE", "UPDATE_SIGNATURE"}
    assert untouched(board)


BOMB: Final = packed(bytes(20_000_000))
APP: Final = described(**{"app.mpy": b"x"})
MISTAKES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "product": ({"product": "another"}, "UPDATE_PRODUCT"),
    "hardware": ({"hardware": "esp32-pzem-9"}, "UPDATE_HARDWARE"),
    "older": ({"security": 0}, "UPDATE_OLD"),
    "security": ({"security": True}, "UPDATE_FORM"),
    "far": ({"security": 1 << 31}, "UPDATE_FORM"),
    "version": ({"version": "1/2"}, "UPDATE_FORM"),
    "long": ({"version": "1" * 33}, "UPDATE_FORM"),
    "no-files": ({"files": []}, "UPDATE_FORM"),
    "files": ({"files": "app.mpy"}, "UPDATE_FORM"),
    "many": ({"files": [[f"a{n}.mpy", 0, "0" * 64] for n in range(65)]}, "UPDATE_FORM"),
    "twice": ({"files": APP * 2}, "UPDATE_FORM"),
    "big-file": ({"files": [["app.mpy", 65_537, "0" * 64]]}, "UPDATE_FORM"),
    "big-sum": ({"files": [[f"a{n}.mpy", 65_536, "0" * 64] for n in range(5)]}, "UPDATE_FORM"),
    "negative": ({"files": [["app.mpy", -1, "0" * 64]]}, "UPDATE_FORM"),
    "digest": ({"files": [["app.mpy", 1, "0" * 63 + "G"]]}, "UPDATE_FORM"),
    "other-file": ({"payload": packed(b"y"), "files": APP}, "UPDATE_DAMAGED"),
    "shorter": ({"payload": packed(b""), "files": APP}, "UPDATE_DAMAGED"),
    "longer": ({"payload": packed(b"xx"), "files": APP}, "UPDATE_FORM"),
    "no-zlib": ({"payload": b"\x48\x89nothing"}, "UPDATE_DAMAGED"),
    "window": ({"payload": packed(b"x", window=15), "files": APP}, "UPDATE_FORM"),
    "bomb": ({"payload": BOMB, "files": APP}, "UPDATE_DAMAGED"),
    "size": ({"size": 7}, "UPDATE_FORM"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_signers_mistake_is_refused(board: Board, mistake: str) -> None:
    """Even what is rightly signed stays within the limits of the node, and in its slot."""
    changes, code = MISTAKES[mistake]
    assert offered(board, resigned(GOOD.raw, **changes)) == code
    assert untouched(board)


@pytest.mark.parametrize(
    "name",
    [
        *("../boot.mpy", "/boot.mpy", "..", "a/b.mpy", "a.py", "A.mpy", "a.mpy/", ".mpy"),
        *("a\0.mpy", "a b.mpy", "\u00e4.mpy", "a.mpy\n", "a" * 33 + ".mpy", 7, None),
    ],
)
def test_a_name_with_a_path_is_refused(board: Board, name: object) -> None:
    """Only modules of the package can be written, in both readers."""
    before = set(board.files.content())
    raw = resigned(GOOD.raw, files=[[name, 1, hashlib.sha256(b"x").hexdigest()]], payload=b"x" * 9)
    assert offered(board, raw) == "UPDATE_FORM"
    assert set(board.files.content()) == before
    with pytest.raises(RefusedError):
        read_bundle(raw)


def test_an_older_counter_is_refused_before_anything_is_fetched(board: Board) -> None:
    """The order itself names the counter."""
    board.nvs_set("security", (3).to_bytes(4, "big"))
    assert offered(board, GOOD.raw) == "UPDATE_OLD"
    assert offered(board, GOOD.raw, security=3) == "UPDATE_OLD"
    assert board.nvs_get("security") == (3).to_bytes(4, "big")


def test_the_counter_never_goes_down(board: Board) -> None:
    """A slot of a lower counter that runs all the same, on trial or not, does not lower it."""
    board.nvs_set("security", (3).to_bytes(4, "big"))
    Trial(board, "a")
    assert board.nvs_get("security") == (3).to_bytes(4, "big")
    with board.files.open("/trial", "wb") as file:
        file.write(b'{"slot": "a", "boots": 1}')
    trial = Trial(board, "a")
    prove(trial)
    assert board.nvs_get("security") == (3).to_bytes(4, "big")


@pytest.mark.parametrize("size", [0, 392, node_bundle.BUNDLE_MAX + 1, 1 << 40])
def test_an_impossible_size_is_refused_before_anything_is_fetched(board: Board, size: int) -> None:
    """Neither too small to be a bundle nor larger than one may be."""
    with pytest.raises(UpdateError, match="UPDATE_SIZE"):
        Update(board, "a", public_keys()).begin("2", size, "0" * 64, 2)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 66, "g" * 64])
def test_a_digest_that_is_none_is_refused(board: Board, digest: str) -> None:
    """It names what is resumed."""
    with pytest.raises(UpdateError, match="UPDATE_FORM"):
        Update(board, "a", public_keys()).begin("2", 5000, digest, 2)


def test_nothing_is_updated_during_a_trial(board: Board) -> None:
    """The slot not in use is the way back."""
    assert offered(board, GOOD.raw) == "ok"
    assert offered(board, GOOD.raw) == "UPDATE_TRIAL"


def test_chunks_out_of_place_are_left_alone_and_a_restart_goes_on(board: Board) -> None:
    """Duplicates, gaps and wrong lengths change nothing; what stands on the flash is kept."""
    update = Update(board, "a", public_keys())
    arguments = ("2", len(GOOD.raw), GOOD.sha256, 2)
    update.begin(*arguments)
    for number in range(6):
        assert update.want() == (number * 1024, 1024)
        assert not update.take(number * 1024 + 1024, GOOD.raw[:1024])
        assert not update.take(number * 1024, GOOD.raw[:1023])
        assert update.take(number * 1024, GOOD.raw[number * 1024 : number * 1024 + 1024])
        assert not update.take(number * 1024, GOOD.raw[:1024])
    again = Update(board, "a", public_keys())
    again.begin(*arguments)
    assert again.want() == (4096, 1024)
    another = Update(board, "a", public_keys())
    another.begin("3", len(GOOD.raw), "0" * 64, 2)
    assert another.want() == (0, 1024)


class Refusing:
    """The board's files, where opening one raises."""

    def __init__(self, files: Any, path: str, mode: str, error: Exception) -> None:
        self._files = files
        self._refused = path, mode
        self._error = error

    def open(self, path: str, mode: str) -> Any:
        """Open, or raise."""
        if (path, mode) == self._refused:
            raise self._error
        return self._files.open(path, mode)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


def test_memory_that_does_not_last_is_a_refusal(board: Board) -> None:
    """Told as any other; nothing is kept and nothing is started again."""
    files = board.files
    board.files = cast("Any", Refusing(files, PART, "rb", MemoryError()))
    assert offered(board, GOOD.raw) == "UPDATE_MEMORY"
    board.files = files
    assert untouched(board)
    assert offered(board, GOOD.raw) == "ok"


def test_a_flash_that_refuses_the_switch_leaves_no_trial_behind(board: Board) -> None:
    """The next update is not refused for one that never started."""
    files = board.files
    board.files = cast("Any", Refusing(files, "/slot.new", "wb", OSError(28)))
    assert offered(board, GOOD.raw) == "STORAGE_FULL"
    board.files = files
    content = files.content()
    assert content["/slot"] == b"a"
    assert not {"/trial", "/slot_b/manifest"} & set(content)
    assert offered(board, GOOD.raw) == "ok"


@pytest.mark.slow
def test_a_full_flash_refuses_and_harms_nothing(board: Board) -> None:
    """Too little room for the bundle, then too little to unpack it."""
    with board.files.open("/fill", "wb") as file:
        while board.files.free_bytes() > 44_000:
            file.write(bytes(4096))
    assert offered(board, GOOD.raw) == "STORAGE_FULL"
    board.files.remove("/fill")
    with board.files.open("/fill", "wb") as file:
        while board.files.free_bytes() > 70_000:
            file.write(bytes(4096))
    assert offered(board, GOOD.raw) == "STORAGE_FULL"
    assert untouched(board)


def raw_signature(message: bytes) -> bytes:
    """What the real key makes of a whole message, without its rules of padding."""
    numbers = key("current")._private.private_numbers()
    n = numbers.public_numbers.n
    return pow(int.from_bytes(message, "big") % n, numbers.d, n).to_bytes(384, "big")


@pytest.mark.slow
def test_only_the_one_encoding_is_a_signature() -> None:
    """Shorter padding with bytes behind the digest, another hash, no NULL: all refused."""
    digest = hashlib.sha256(b"message").digest()
    modulus = public_keys()[0]
    right = rsa.encoded(digest)
    assert rsa.verified(modulus, digest, raw_signature(right))
    info = right[-51:]
    wrong = [
        b"\0\1" + b"\xff" * 8 + b"\0" + info + bytes(384 - 11 - 51),
        b"\0\1" + b"\xff" * 300 + b"\0" + info + b"\xaa" * (384 - 303 - 51),
        b"\0\2" + right[2:],
        b"\1" + right[1:],
        right[:2] + b"\xfe" + right[3:],
        right[:-32] + hashlib.sha256(b"another").digest(),
        right.replace(b"\x86H\x01e\x03\x04\x02\x01", b"\x86H\x01e\x03\x04\x02\x03"),
        b"\0\1" + b"\xff" * 332 + b"\0" + info[:13].replace(b"\x05\0", b"") + info[15:] + b"\0" * 2,
    ]
    for message in wrong:
        assert not rsa.verified(modulus, digest, raw_signature(message[:384].ljust(384, b"\0")))


def test_a_signature_above_the_modulus_or_of_another_length_is_none() -> None:
    """s + n opens to the same message and is refused all the same."""
    modulus = public_keys()[0]
    n = int.from_bytes(modulus, "big")
    # A signature so small that with the modulus added it still has 384 bytes.
    messages = (f"message {number}".encode() for number in range(10_000))
    signed = ((message, key("current").sign(message)) for message in messages)
    message, good = next(
        (message, found)
        for message, found in signed
        if int.from_bytes(found, "big") + n < 1 << 3072
    )
    digest = hashlib.sha256(message).digest()
    assert rsa.verified(modulus, digest, good)
    above = int.from_bytes(good, "big") + n
    assert not rsa.verified(modulus, digest, above.to_bytes(384, "big"))
    for signature in (b"", good[1:], b"\0" + good, bytes(384), b"\xff" * 384, modulus):
        assert not rsa.verified(modulus, digest, signature)
    assert not rsa.verified(modulus[1:], digest, good)
    assert not rsa.verified(modulus, digest[1:], good)


def test_both_readers_have_the_same_limits() -> None:
    """What a release may be is what a node takes."""
    pairs = [
        ("MAGIC", "MAGIC"),
        ("HEADER_MAX", "HEADER_MAX"),
        ("FILES_MAX", "FILES_MAX"),
        ("FILE_MAX", "FILE_MAX"),
        ("UNPACKED_MAX", "UNPACKED_MAX"),
        ("PAYLOAD_MAX", "PAYLOAD_MAX"),
        ("BUNDLE_MAX", "BUNDLE_MAX"),
        ("WINDOW_BITS", "WINDOW_BITS_MAX"),
        ("SECURITY_MAX", "SECURITY_MAX"),
    ]
    for host, node in pairs:
        assert getattr(host_bundle, host) == getattr(node_bundle, node)


FIELDS: Final = st.fixed_dictionaries(
    {},
    optional={
        "version": st.text(max_size=40) | st.integers(),
        "hardware": st.text(max_size=40),
        "security": st.integers(-2, 1 << 33) | st.booleans() | st.floats(),
        "files": st.lists(
            st.tuples(
                st.text("abZ._/0", max_size=8) | st.just("app.mpy"),
                st.integers(-1, 70_000) | st.booleans(),
                st.sampled_from(["0" * 64, "f" * 64, "0" * 63, "F" * 64]),
            ),
            max_size=4,
        ),
        "size": st.integers(-1, 300_000),
        "sha256": st.sampled_from(["0" * 64, "g" * 64]),
    },
)


@settings(max_examples=100, deadline=None)
@given(fields=FIELDS)
def test_both_readers_agree_on_headers(fields: dict[str, Any]) -> None:
    """The node's reader and the one that signs refuse the same headers."""
    raw = GOOD.header
    header = json.dumps({**json.loads(raw), **fields}).encode()
    framed = b"PGN1" + len(header).to_bytes(4, "big") + header + bytes(384)
    with pytest.raises(RefusedError) as refusal:
        read_bundle(framed)
    # Once the header is right it goes on to the payload, which there is none of here.
    assert node_takes(header) == ("payload" in refusal.value.message)


def node_takes(header: bytes) -> bool:
    """Whether the node's reader takes a header."""
    try:
        node_bundle.Header(header)
    except UpdateError:
        return False
    return True


def test_a_release_that_the_node_would_refuse_is_not_made() -> None:
    """Without an entry, beyond a limit, or signed with a key that it does not carry."""
    release = Release(hardware=HARDWARE, version="1", security=1)
    files = modules_of("1")
    for wrong in (
        {"keys.mpy": b""},
        {**files, "x/y.mpy": b""},
        {**files, "big.mpy": bytes(65_537)},
    ):
        with pytest.raises(RefusedError, match=r"app\.mpy|no file|bytes"):
            pack(release, wrong)
    without = read_bundle(pack(release, {**files, "keys.mpy": b"none"}))
    with pytest.raises(RefusedError, match="not among the keys"):
        sign(without, key("current"))
