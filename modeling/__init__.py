"""BERT as OneFlow modules, with Hugging Face's parameter names and Google's numerics.

Importing this package imports OneFlow without its startup messages and loads this project's CPU kernels.
"""

import kernels

kernels.configure()  # does nothing if the command has already configured them from its flags
kernels.import_oneflow()
kernels.load()

from modeling.bert import BertModel  # noqa: E402
from modeling.embedding import BertForEmbedding  # noqa: E402
from modeling.heads import (  # noqa: E402
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

__all__ = [
    "BertForEmbedding",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
]
