"""The routing core: pure functions on frozen values. No I/O, no clock of its own."""
