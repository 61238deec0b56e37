"""`doctor`: what may be wrong with machine, stores, network and meters, in plain sentences.

It looks and changes nothing: no lock is taken, no port is opened, no meter is written to.
"""
