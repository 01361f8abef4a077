"""`fastvlm-bench acceptance`: how far each exit agrees with the target, and what speed-up that promises.

May import the rooms below `cli`, `notebook` and `sweeping`, and `sweeping` for its ranges.

sources.py  the exits and heads that are looked at: which drafts there are for them
kinds.py    word start, continuation, digit, punctuation, end: kinds of tokens, from their text
guesses.py  the target's answers, and what every exit guesses along them
rates.py    shares of agreement with intervals: in all, by position, by kind, by length; the matrix
pricing.py  what the passes of every exit cost, by a few that are measured
speedups.py  the predicted speed-up of every exit, γ, threshold, and of hierarchies of exits
against.py  predictions beside what a run measured
study.py    does all of it
tables.py   prints it
files.py    writes it: JSON, CSV, a picture
"""
