"""Function 16: a setting is written, and only the answer that belongs to it counts."""

import pytest

from gateway.core.errors import MeterExceptionError, MeterProtocolError
from gateway.south.modbus import check_reply, setting_request

REQUEST = setting_request(51712, [2])


def test_the_request_and_its_answer() -> None:
    """Address, count, bytes and words go out; address and count come back."""
    assert REQUEST.pdu.hex() == "10ca000001020002"
    assert check_reply(REQUEST, bytes.fromhex("10ca000001")) == bytes.fromhex("ca000001")
    assert REQUEST.allows(5)
    assert not REQUEST.allows(8)


@pytest.mark.parametrize("reply", ["10ca000002", "10ca010001", "10ca00000102", "06ca000002", "10"])
def test_another_answer_is_refused(reply: str) -> None:
    """Another count, address, length or function."""
    with pytest.raises(MeterProtocolError):
        check_reply(REQUEST, bytes.fromhex(reply))


def test_write_protection_is_an_exception() -> None:
    """0xF0 says that the meter is protected."""
    with pytest.raises(MeterExceptionError) as refused:
        check_reply(REQUEST, bytes.fromhex("90f0"))
    assert refused.value.exception_code == 0xF0
