"""Training a draft on a frozen target: `fastvlm-bench train` and `ablate`.

samples.py says on what, answers.py lets the target write the text, observe.py runs it through the frozen target once
for all heads, losses.py and trainer.py fit them, validation.py and prediction.py tell what they are worth,
refine.py learns from rejections, updates.py makes all of them and survives being killed by what folder.py keeps,
fit.py holds it all together.
"""
