"""The process that sends notifications: it takes messages as lines of JSON and answers how each went.

A leaf: it imports itself and third parties, nothing of the server. `apprise` and `requests` are imported here only.
"""
