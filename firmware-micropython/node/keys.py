"""Whose signature an update must bear. `prepaid-gateway firmware release` writes the real ones.

Moduli of RSA-3072 keys, 384 bytes each: the present one and the next. Without any, as here, every
update is refused.
"""

KEYS = ()
