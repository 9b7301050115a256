"""Scoring stored maps: from maps and truth to a table of scores, each beside its chance level and its ceiling."""
