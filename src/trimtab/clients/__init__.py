"""Calls to OpenAI-compatible endpoints; judges and data builders share them. Knows no judge and no model of ours."""
