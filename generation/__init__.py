"""From a corpus to passages, and from passages to synthetic queries."""
