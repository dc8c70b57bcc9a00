"""Evaluation tasks put to a model: questions, answers, scores."""

from neft_lab.leaderboard.answering import Asked, Examinee, answer_blocks, devices_of, precision_of
from neft_lab.leaderboard.questions import Question, ask, score
from neft_lab.leaderboard.summary import sources_of, summarise

__all__ = [
    "Asked",
    "Examinee",
    "Question",
    "answer_blocks",
    "ask",
    "devices_of",
    "precision_of",
    "score",
    "sources_of",
    "summarise",
]
