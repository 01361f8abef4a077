"""What decoding methods are made of: their frame, the session, the layer gate, acceptance, the clock around them.

May import the rooms below `analysis`.

method.py           the frame of every method: prefill, then rounds until every row has stopped
session.py          token ids, the bookkeeping of transformers and the KV cache of one generation
batch_session.py    the same for several rows, of which those that finish leave
rows.py             the tokens of each row, and its share of the seconds
drafting.py         what the rows draft in one round
accept.py           which drafted tokens stand
layer_gate.py       runs a part of any decoder by gating its layers
cache_view.py       the KV cache as verification must see it
recurrent_state.py  states of recurrent layers: copied before a pass, replayed after a rejection
batch_cache.py      moves each row of a KV cache to its own end
batch_inputs.py     one batch made of the inputs of single samples
measure.py          times one generation through `model.generate(custom_generate=method)`
phases.py           seconds of vision, prefill, draft and verification, by hooks or by events on a GPU
"""
