"""What OpenAI's format says, read without I/O: requests, answers, events of a stream, usage."""
