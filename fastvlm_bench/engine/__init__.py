"""What decoding methods are made of: their loop, the session, the layer gate, acceptance, and how they are timed.

May import the rooms below `analysis`.

method.py           THE LOOP around every method: prefill, then rounds until every row has stopped
proposing.py        the round of methods whose drafts come from elsewhere than the target's first layers
engine.py           how passes run: eager, as transformers writes them
graphs.py           or as graphs: each kind of pass is recorded once, and repeated
recorded.py         a generation whose passes are recorded, and the slots that it lies in
recorded_pass.py    one of its passes, as a call of the model and as a record
side_passes.py      the passes of a head that drafts beside the target, recorded
few_rows.py         the fastest order of products of a few rows, on a CPU
passing.py          whether a pass that may not come again is worth a recording
recordable.py       whether the passes of a session can be recorded
tape.py             records the operations of a pass and repeats them, on a CPU
scratch.py          the memory in which repeated operations make what is soon dead
cuda_graph.py       the same on CUDA
slots.py            a KV cache that stays where it is, so that rolling back is to start earlier
gate_carrier.py     what the layer gate hands from one recorded pass to the next
tree.py             verifies a tree of drafts in one pass
session.py          token ids, the bookkeeping of transformers and the KV cache of one generation
stopping.py         where an output ends that another loop has written
choosing.py         which token is chosen, drafted and accepted, from logits
batch_session.py    the same for several rows, which leave the batch when they finish
rows.py             the tokens of each row, and its share of the seconds
pacing.py           whether a round drafts and how far, by what earlier rounds took and gave
drafting.py         the drafts of one round, and which rows go on drafting
accept.py           which drafted tokens stand
processors.py       logits processors at all places at once; those that keep a state are refused
layer_gate.py       runs a part of any decoder by gating its layers
head_cache.py       the KV cache of a gated head
level_gate.py       the same for several exits, one above the other
cache_view.py       the KV cache as verification must see it
recurrent_state.py  states of recurrent layers: copied before a pass, replayed after a rejection
batch_cache.py      rolls each row of a KV cache back by its own number of tokens
batch_inputs.py     makes one batch of the inputs of single samples
measure.py          times one generation through `model.generate(custom_generate=method)`
phases.py           seconds of vision, prefill, draft and verification, by hooks on the model's passes
kernels.py          of these the seconds in which the device computes, by PyTorch's profiler
"""
