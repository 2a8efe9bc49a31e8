"""BERT as OneFlow modules, with Hugging Face's parameter names and Google's numerics.

Importing this package imports OneFlow, quietly: its start-up notes about missing GPUs and network cards are no news
on a laptop. Whoever wants them sets GLOG_minloglevel.
"""

import os

import kernels


def _import_framework() -> None:
    kernels.configure()  # unless the command did, with its flags
    if "GLOG_minloglevel" in os.environ:
        return
    os.environ["GLOG_minloglevel"] = "3"  # fatal errors still speak
    saved = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # libibverbs writes past glog
    try:
        import oneflow  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(silence)


_import_framework()
kernels.load()

from modeling.bert import BertModel  # noqa: E402
from modeling.heads import BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification  # noqa: E402

__all__ = ["BertForPreTraining", "BertForQuestionAnswering", "BertForSequenceClassification", "BertModel"]
