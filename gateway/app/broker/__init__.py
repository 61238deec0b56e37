"""The configuration of a mosquitto for the nodes of a site: TLS, users, who may say what."""
