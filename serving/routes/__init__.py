"""Request and response bodies for each kind of client."""
