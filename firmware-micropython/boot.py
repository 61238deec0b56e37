# The relay before anything else: its pin takes the latched level and holds it.
# No update changes this file. NVS `relay_pin`: pin and level that closes it; `relay`: 1 closed.
try:
    import esp32
    import machine

    nvs = esp32.NVS("node")
    pin = bytearray(2)
    latched = bytearray(1)
    if nvs.get_blob("relay_pin", pin) == 2 and nvs.get_blob("relay", latched) == 1:
        level = pin[1] if latched[0] else 1 - pin[1]
        # With hold=True on a pin that is held, MicroPython sets the level and holds on at once.
        machine.Pin(pin[0], machine.Pin.OUT, value=level, hold=True)
except Exception as error:
    # A new node has nothing latched; whatever else is wrong, the loader must still come.
    print("boot:", repr(error))
