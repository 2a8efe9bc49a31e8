"""BERT as OneFlow modules, with Hugging Face's parameter names and Google's numerics.

Importing this package imports OneFlow without its start-up notes and loads this project's CPU kernels.
"""

import kernels

kernels.configure()  # does nothing if the command has already configured them from its flags
kernels.import_oneflow()
kernels.load()

from modeling.bert import BertModel  # noqa: E402
from modeling.embedding import BertForEmbedding, BertForReranking  # noqa: E402
from modeling.heads import BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification  # noqa: E402

__all__ = [
    "BertForEmbedding",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForReranking",
    "BertForSequenceClassification",
    "BertModel",
]
