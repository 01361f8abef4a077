"""What decoding methods are made of: a session, the layer gate, acceptance, roll-back, the clock around `generate`.

May import the rooms below `analysis`.

session.py          token ids, the bookkeeping of transformers and the KV cache of one generation
batch_session.py    the same for several sequences: those that finish leave
batch_cache.py      moves each row of a KV cache to its own end
batch_inputs.py     one batch made of the inputs of single samples
layer_gate.py       runs a part of any decoder by gating its layers
recurrent_state.py  states of recurrent layers: copied before a pass, replayed after a rejection
accept.py           which drafted tokens stand
measure.py          times one generation through `model.generate(custom_generate=method)`
phases.py           seconds of vision, prefill, draft and verification, by hooks or by events on a GPU
"""
