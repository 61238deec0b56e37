"""`ssl` is there to be imported; this interpreter has no TLS."""
