"""The application of the ESP32 node: one source for the ESP32, for tests, and for the demo."""
