"""Everything that leaves the site: HTTP API now, MQTT and OPC UA later."""
