"""The router: owns Postgres, answers routing requests, publishes availability events."""
