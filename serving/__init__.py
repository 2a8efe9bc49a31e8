"""HTTP around `inference`: a queue that batches by tokens, several models, others' request and response bodies.

gate.py lets a request in, routes/ read and write bodies, service.py answers, models.py keeps the models in memory,
batcher.py computes.
"""
