"""BERT as OneFlow modules, with Hugging Face's parameter names and Google's numerics."""

from modeling.bert import BertModel
from modeling.heads import BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification

__all__ = ["BertForPreTraining", "BertForQuestionAnswering", "BertForSequenceClassification", "BertModel"]
