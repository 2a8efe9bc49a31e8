"""HTTP around `inference`: a queue that batches by tokens, several models, others' request and response bodies.

middleware.py limits and logs requests, routes/ holds the bodies, service.py answers by task, models.py keeps the models
in memory, batcher.py computes.
"""
