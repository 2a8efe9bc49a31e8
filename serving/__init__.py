"""An HTTP server on top of `inference`: a queue that batches by tokens, several models, and common API formats.

middleware.py limits and logs requests, routes/ defines request and response bodies, service.py answers by task,
models.py keeps models in memory, batcher.py runs them.
"""
