"""The state directory: the history of events, and the state they led to, in SQLite."""
