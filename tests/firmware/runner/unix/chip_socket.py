"""`socket` as the board knows it: on the ESP32 an address is a tuple, and IPv4's.

The unix port has the system's own bytes there. asyncio's connections use the port's own module.
"""

import socket as port

import wires

_NTP = 123

AF_INET = port.AF_INET
SOCK_DGRAM = port.SOCK_DGRAM


def getaddrinfo(host, number):
    found = []
    number = wires.job["ntp"] if number == _NTP else number
    for family, kind, protocol, name, address in port.getaddrinfo(host, number, AF_INET):
        _, packed, number = port.sockaddr(address)
        told = (port.inet_ntop(family, packed), number)
        found.append((family, kind, protocol, name, told))
    return found


class socket:  # noqa: N801 - its name there
    """A UDP socket."""

    def __init__(self, family, kind):
        assert kind == SOCK_DGRAM
        it = self._it = port.socket(family, kind)
        self.setblocking, self.close, self.recv = it.setblocking, it.close, it.recv

    def bind(self, address):
        self._it.bind(port.getaddrinfo(*address)[0][-1])

    def sendto(self, sent, address):
        return self._it.sendto(sent, port.getaddrinfo(*address)[0][-1])

    def recvfrom(self, count):
        received, sender = self._it.recvfrom(count)
        _, packed, number = port.sockaddr(sender)
        return received, (port.inet_ntop(AF_INET, packed), number)
