"""Training a draft on a frozen target: `fastvlm-bench train`.

May import the rooms below `measuring`.

fit.py               the whole of a training
settings.py          what `train` is asked for, checked before anything loads
recipe.py            how one head is trained
preflight.py         whether the target can be trained on, and what it takes
samples.py           samples of a training split or of a folder of images
scenes.py            samples of rendered scenes, for the embedded model
answers.py           the target's own answers to these samples
texts.py             which texts are learnt from and which are held out
observe.py           one pass of the frozen target over a text, for every exit at once
kept_states.py       what the target gave for a text, kept, so that it passes the target once
tail.py              from the last layer's states to logits, as the target does it
losses.py            the losses
ahead.py             losses and guesses of heads at the end, which draft several places from one state
student.py           a head in training
trainer.py           one update of the heads
muon.py              the optimiser
order.py             which texts an update sees
micro_batch.py       how many texts pass the model at a time
parallel.py          several processes
updates.py           all updates, with their checkpoints
folder.py            the files of a training: settings, state, log
interrupts.py        how a training is stopped
prediction.py        the speed-up predicted from rounds that are simulated on held-out text
costs.py             the measured costs of passes, which price those rounds
choosing.py          what decoding would choose along a text
checking.py          a head's guesses along texts, right or not
validation.py        α, τ and the predicted speed-up of a head
skip_search.py       the search for a set of sub-layers to skip (`skip-search`)
skip_settings.py     what `skip-search` is asked for
skip_costs.py        what sub-layers cost, and what a set would draft along the target's texts
refine.py            learning from rejections
refine_run.py        the same between the samples of a run (`run --refine`)
backbone.py          phase 1: fine-tuning the model itself
backbone_quality.py  what phase 1 did to the answers of the model
display.py           what is shown while it trains
outcome.py           the draft folder, its card and its curve
"""
