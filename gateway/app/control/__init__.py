"""The control process: owns meters and money, never waits for the north."""
