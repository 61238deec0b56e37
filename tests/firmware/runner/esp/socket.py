"""The part of `socket` that the board uses; names are addresses here."""

AF_INET = 2
SOCK_DGRAM = 2


def getaddrinfo(host, port):
    return [(AF_INET, 1, 0, "", (host, port))]
