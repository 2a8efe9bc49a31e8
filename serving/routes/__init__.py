"""Request and response bodies of each kind of client."""
